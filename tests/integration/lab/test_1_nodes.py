# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that start, are reached as real ones, are rebuilt, and leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.lab import ROOT
from tests.support.lab import lab as run_lab

NODES = Path(__file__).parent / "lab-nodes"
STATE = ROOT / ".pifleet/lab/lab-nodes"
ANSIBLE = Path(sys.executable).with_name("ansible")


def lab(*words: str, rc: int = 0) -> subprocess.CompletedProcess[str]:
    return run_lab(*words, inventory=NODES, rc=rc)


def ansible(host: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [ANSIBLE, "-i", NODES, host, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def on(node: str, *argv: str) -> str:
    return lab("exec", node, "--", *argv).stdout.strip()


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.usefixtures("nodes")
class TestNodes:
    def test_a_second_up_does_nothing_and_takes_no_time(self) -> None:
        took = []
        for _ in range(3):
            began = time.monotonic()
            assert "2 nodes running, 0 of them started now" in lab("up").stderr
            took.append(time.monotonic() - began)
        assert min(took) < 1.0

    @pytest.mark.parametrize("host", ["one.lab", "two.lab"])
    def test_ansible_becomes_root_with_the_inventory_alone(self, host: str) -> None:
        done = ansible(host, "--become", "-m", "command", "-a", "id -un")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "root"

    def test_sudo_of_the_second_asks_for_the_password(self) -> None:
        done = ansible("two.lab", "-m", "command", "-a", "sudo --non-interactive true")
        assert done.returncode != 0
        assert "password is required" in done.stdout

    def test_a_node_is_a_fresh_card(self) -> None:
        assert on("one.lab", "hostname") == "raspberrypi"
        assert on("one.lab", "systemctl", "is-system-running", "--wait") == "running"
        assert on("one.lab", "cat", "/etc/machine-id") != on("two.lab", "cat", "/etc/machine-id")
        assert on("one.lab", "findmnt", "--noheadings", "--output", "TARGET", "/var/lib/rancher") == "/var/lib/rancher"
        assert on("two.lab", "findmnt", "--noheadings", "--output", "TARGET", "/srv") == "/srv"

    def test_files_that_docker_mounts_can_be_replaced(self) -> None:
        on("one.lab", "sh", "-c", "for f in hosts hostname resolv.conf; do cp /etc/$f /etc/$f.new && mv /etc/$f.new /etc/$f; done")

    def test_a_node_cannot_set_the_clock(self) -> None:
        assert lab("exec", "one.lab", "--", "date", "--set", "2020-01-01", rc=1)

    def test_a_rebuilt_node_has_another_identity_and_is_trusted(self) -> None:
        before = on("one.lab", "cat", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub")
        other = on("two.lab", "cat", "/etc/machine-id")
        on("one.lab", "touch", "/var/lib/rancher/trace", "/etc/trace")
        lab("wipe", "one")
        assert on("one.lab", "cat", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub").splitlines() != before.splitlines()
        assert on("one.lab", "sh", "-c", "ls /var/lib/rancher/trace /etc/trace 2>/dev/null || echo none") == "none"
        assert on("two.lab", "cat", "/etc/machine-id") == other
        assert ansible("all", "-m", "ping").returncode == 0

    def test_a_foreign_host_key_is_refused(self) -> None:
        known = STATE / "known_hosts"
        right = known.read_text()
        first, second = right.splitlines()
        swapped = [f"{first.split()[0]} {second.split(maxsplit=1)[1]}", f"{second.split()[0]} {first.split(maxsplit=1)[1]}"]
        known.write_text("\n".join(swapped) + "\n")
        try:
            done = ansible("one.lab", "-m", "ping", "-e", "ansible_ssh_args=-oControlMaster=no", "-e", "ansible_control_path=none")
        finally:
            known.write_text(right)
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stdout + done.stderr

    def test_a_stopped_node_is_started_again_with_its_disk(self) -> None:
        on("two.lab", "touch", "/etc/trace")
        docker("stop", "pifleet-lab-nodes-two.lab")
        assert "1 of them started now" in lab("up").stderr
        assert on("two.lab", "ls", "/etc/trace") == "/etc/trace"

    def test_an_engine_runs_once_it_is_started_and_takes_the_lab_s_images(self) -> None:
        said = lab("load-images", "two.lab", rc=1).stderr
        assert "systemctl start docker" in said
        assert "Traceback" not in said
        on("two.lab", "systemctl", "start", "docker")
        lab("load-images", "two.lab")
        run = ("docker", "run", "--rm", "pifleet/lab-app:1", "read", "/version")
        assert on("two.lab", *run) == "1"
        lab("load-images", "two.lab", "--archive", "other")
        assert on("two.lab", *run) == "1 made anew"
        lab("load-images", "two.lab", "--as", "docker.io/library/caddy:2")
        # in place of another image it serves, whatever command it is given
        run = ("docker", "run", "--rm", "--entrypoint", "/app", "caddy:2", "read", "/version")
        assert on("two.lab", *run) == "docker.io/library/caddy:2"

    def test_status_for_programs(self) -> None:
        told = json.loads(lab("status", "--json").stdout)
        mine = {row["node"]: row["state"] for row in told["nodes"] if row["fleet"] == "lab-nodes"}
        assert mine == {"one.lab": "running", "two.lab": "running"}
        assert told["artifacts"]["v1.34.4+k3s1"] in ("real k3s", "k3s stand-in")

    def test_the_artifacts_are_a_release_s(self) -> None:
        folder = ROOT / ".pifleet/lab/artifacts/v1.34.4+k3s1"
        done = subprocess.run(["sha256sum", "--check", "sha256sum-amd64.txt"], cwd=folder, capture_output=True, text=True, check=True)
        assert sorted(done.stdout.splitlines()) == ["k3s-airgap-images-amd64.tar.zst: OK", "k3s: OK"]

    def test_an_unknown_node_is_refused(self) -> None:
        said = lab("wipe", "three", rc=1).stderr
        assert "there is no node three" in said
        assert "Traceback" not in said

    def test_down_leaves_nothing_of_the_fleet(self) -> None:
        volumes = set(docker("volume", "ls", "--quiet").split())
        mine = {m["Name"] for c in json.loads(docker("inspect", "pifleet-lab-nodes-one.lab")) for m in c["Mounts"] if m["Type"] == "volume"}
        assert mine <= volumes
        lab("down")
        assert docker("ps", "--all", "--quiet", "--filter", "label=pifleet.lab=lab-nodes") == ""
        assert docker("network", "ls", "--quiet", "--filter", "label=pifleet.lab=lab-nodes") == ""
        assert not mine & set(docker("volume", "ls", "--quiet").split())
        assert not (STATE / "known_hosts").exists()
        lab("down")


def test_an_inventory_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {hosts: {a: }}\n")
    assert "the group k3s_cluster has no host" in run_lab("up", inventory=tmp_path, rc=1).stderr
