# SPDX-License-Identifier: GPL-3.0-or-later
"""What testinfra sees of the stacks on each node. Nothing of the collection takes part."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.support.fleet import ROOT, Fleet

FLEET = Fleet(ROOT / "inventory/lab")
LABEL = "io.pifleet.stack."


def name_of(host):
    return host.backend.name.removeprefix("pifleet-lab-")


@pytest.fixture
def containers(host):
    """``docker inspect`` by name."""
    ids = host.check_output("docker ps -aq").split()
    return {one["Name"].lstrip("/"): one for one in json.loads(host.check_output("docker inspect " + " ".join(ids)))}


def test_the_engine_runs_and_starts_at_boot_with_room_for_many_networks(host):
    service = host.service("docker")
    assert service.is_running
    assert service.is_enabled
    pools = json.loads(host.file("/etc/docker/daemon.json").content_string)["default-address-pools"]
    assert pools
    assert json.loads(host.check_output("docker info --format '{{json .DefaultAddressPools}}'"))


def test_each_node_has_the_stacks_that_select_it(host, containers):
    wanted = {"web-front-1", "web-back-1", "job-once-1"}
    wanted |= {"storage-store-1"} if name_of(host) in FLEET.workers else set()
    wanted |= {"controller-only-1"} if name_of(host).startswith("pi-cluster-1") else set()
    assert set(containers) == wanted


def test_they_run_and_are_healthy_and_the_job_is_done(containers):
    states = {name: one["State"]["Status"] for name, one in containers.items()}
    assert states.pop("job-once-1") == "exited"
    assert set(states.values()) == {"running"}
    assert containers["web-back-1"]["State"]["Health"]["Status"] == "healthy"
    assert containers["web-back-1"]["HostConfig"]["Memory"] == 64 << 20
    assert containers["job-once-1"]["State"]["ExitCode"] == 0


def test_they_are_of_the_commit_that_is_checked_out(containers):
    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.rstrip("\n")

    revision = git("rev-parse", "HEAD")
    for name, one in containers.items():
        labels = one["Config"]["Labels"]
        assert labels[f"{LABEL}revision"] == revision, name
        assert labels[f"{LABEL}owner"] == "stacks"
        assert labels[f"{LABEL}commit_message"].rstrip("\n") == git("log", "-1", "--format=%B").rstrip("\n")


def test_a_client_of_the_node_is_served_with_its_file_and_environment(host):
    assert host.check_output("curl -sS http://127.0.0.1:8088/version") == "1"
    assert "colour = green" in host.check_output("curl -sS http://127.0.0.1:8088/read?path=/front.conf")
    assert "GREETING=hallo" in host.check_output("curl -sS http://127.0.0.1:8088/env").splitlines()


def test_the_timer_waits_and_nothing_of_ours_stays_running(host):
    assert host.service("pifleet-stacks.timer").is_running
    assert host.service("pifleet-stacks.timer").is_enabled

    def left():
        # the brackets keep the shell that asks from being found
        return host.run("pgrep -af '[p]ifleet-stacks|[d]ocker-compose|[d]ocker compose'").stdout

    # a run that the timer has just begun is not one that stays; the next is two minutes away
    deadline = time.monotonic() + 60
    while found := left():
        assert time.monotonic() < deadline, found
        time.sleep(1)


def test_what_the_role_keeps_is_not_for_others_to_change(host):
    assert host.check_output("find /var/lib/pifleet /etc/pifleet -perm /022 -not -type l") == ""
