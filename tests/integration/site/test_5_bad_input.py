# SPDX-License-Identifier: GPL-3.0-or-later
"""The specification's list of bad input: one clear error each, before anything is half done."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.integration.site.conftest import altered
from tests.support.fleet import ROOT, Fleet

NOTHING_INSTALLED = "ls -d /etc/systemd/system/k3s* /usr/local/bin/k3s /etc/rancher 2>/dev/null || true"


def test_an_unreachable_node_does_not_stop_the_others(converged: Fleet) -> None:
    worker = converged.workers[-1]
    converged.sh(worker, "systemctl stop ssh.socket ssh.service; pkill -x sshd || true", check=False)
    try:
        run = converged.play(env={"ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ConnectTimeout=5"})
        assert run.rc == 4
        assert {t["host"] for t in run.failures} == {worker}
        assert {t["host"] for t in run.of("Install the")} == set(converged.hosts) - {worker}
    finally:
        converged.sh(worker, "systemctl start ssh.socket ssh.service || systemctl start ssh")


def move_to_servers(groups) -> None:
    name = sorted(groups["workers"]["hosts"])[0]
    groups["control_plane"]["hosts"][name] = groups["workers"]["hosts"].pop(name)


def empty_servers(groups) -> None:
    groups["workers"]["hosts"].update(groups["control_plane"]["hosts"])
    groups["control_plane"]["hosts"] = {}


def same_address(groups) -> None:
    first, second = sorted(groups["workers"]["hosts"])[:2]
    hosts = groups["workers"]["hosts"]
    hosts[second]["ansible_host"] = hosts[first]["ansible_host"]


@pytest.mark.parametrize(
    ("change", "says"), [(move_to_servers, "even"), (empty_servers, "control_plane"), (same_address, "address")], ids=lambda v: str(v)
)
def test_an_inventory_that_cannot_work_is_refused_before_any_connection(fleet: Fleet, tmp_path: Path, change, says: str) -> None:
    bad = altered(fleet, tmp_path, change)
    run = bad.play()
    assert run.rc != 0
    assert says in run.output
    assert not run.ssh_calls
    assert "Traceback" not in run.output


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("k3s_join_timeout=soon", "k3s_join_timeout"),
        ("k3s_vesion=v1.34.4+k3s1", "k3s_version"),
        ("k3s_version=1.34", "k3s_version"),
        ("base_os_swap_policy=maybe", "base_os_swap_policy"),
    ],
)
def test_a_wrong_variable_is_refused_before_any_connection(fleet: Fleet, extra: str, says: str) -> None:
    run = fleet.play("-e", extra)
    assert run.rc != 0
    assert says in run.output
    assert not run.ssh_calls
    assert "Traceback" not in run.output


def test_an_unsupported_os_is_refused(fleet: Fleet, fresh_worker: str) -> None:
    fleet.sh(fresh_worker, "sed -i 's/^ID=.*/ID=fedora/; s/^PRETTY_NAME=.*/PRETTY_NAME=Fedora/' $(readlink -f /etc/os-release)")
    run = fleet.play("--limit", fresh_worker)
    assert run.rc == 2
    assert "fedora" in run.output.lower()
    assert fleet.sh(fresh_worker, NOTHING_INSTALLED) == ""


def test_a_damaged_release_is_refused_with_nothing_installed(fleet: Fleet, fresh_worker: str, tmp_path: Path) -> None:
    source = Path(ROOT / ".pifleet/lab/artifacts" / str(fleet.vars_of(fresh_worker)["k3s_version"]))
    shutil.copytree(source, tmp_path / "artifacts")
    for name, damage in (("k3s", b"damaged"), ("k3s-airgap-images-amd64.tar.zst", b"")):
        victim = tmp_path / "artifacts" / name
        good = victim.read_bytes()
        victim.write_bytes(good[: len(good) // 2] + damage)
        run = fleet.play("--limit", fresh_worker, "-e", f"k3s_artifact_dir={tmp_path / 'artifacts'}")
        assert run.rc == 2, name
        assert "checksum" in run.output.lower() or "sha-256" in run.output.lower() or "sha256" in run.output.lower()
        assert fleet.sh(fresh_worker, NOTHING_INSTALLED) == ""
        victim.write_bytes(good)


def test_a_full_disk_is_refused(fleet: Fleet, fresh_worker: str, tmp_path: Path) -> None:
    def on_a_small_disk(groups) -> None:
        groups["workers"]["hosts"][fresh_worker]["k3s_data_dir"] = "/srv/small/k3s"

    fleet.sh(fresh_worker, "mkdir -p /srv/small && mount -t tmpfs -o size=20m tmpfs /srv/small")
    run = altered(fleet, tmp_path, on_a_small_disk).play("--limit", fresh_worker)
    assert run.rc == 2
    assert "MB free" in run.failures[-1]["msg"]
    assert fleet.sh(fresh_worker, NOTHING_INSTALLED) == ""


def test_a_disk_that_fills_up_during_the_install_is_named_and_the_next_run_goes_on(fleet: Fleet, fresh_worker: str) -> None:
    fleet.sh(
        fresh_worker,
        "mkdir -p /etc/rancher && mount -t tmpfs -o size=8k tmpfs /etc/rancher && head -c 8k /dev/zero >/etc/rancher/full || true",
    )
    run = fleet.play("--limit", fresh_worker)
    assert run.rc == 2
    assert "No space left" in run.output
    assert "Traceback" not in run.output
    fleet.sh(fresh_worker, "umount /etc/rancher")
    fleet.play("--limit", fresh_worker).require()
    assert fresh_worker in fleet.ready()


def test_a_worker_cannot_become_a_server_by_moving_it_in_the_inventory(converged: Fleet, tmp_path: Path) -> None:
    def swap(groups) -> None:
        move_to_servers(groups)
        move_to_servers(groups)

    worker = sorted(converged.workers)[0]
    moved = altered(converged, tmp_path, swap)
    run = moved.play("--limit", worker)
    assert run.rc == 2
    assert "runs k3s as agent" in run.failures[-1]["msg"]
    assert converged.sh(worker, "ls /etc/systemd/system/k3s.service 2>/dev/null || true") == ""


def test_another_version_is_refused_with_the_way_to_upgrade(converged: Fleet) -> None:
    here = ROOT / ".pifleet/lab/artifacts" / str(converged.vars_of(converged.hosts[0])["k3s_version"])
    run = converged.play("-e", "k3s_version=v1.34.5+k3s1", "-e", f"k3s_artifact_dir={here}")
    assert run.rc == 2
    assert all("upgrade.yml" in f["msg"] for f in run.failures)
    assert run.changed == set()


def test_nothing_of_it_took_longer_than_a_person_waits(converged: Fleet) -> None:
    """A refusal is quick: it does not gather, copy or wait first. Its processor time, so that other work does not count."""
    before = os.times()
    run = converged.play("-e", "k3s_version=1.34")
    after = os.times()
    assert not run.ssh_calls
    assert after.children_user + after.children_system - before.children_user - before.children_system < 10
