# SPDX-License-Identifier: GPL-3.0-or-later
"""Server by server, then agents: verified before a node is back in service, stopped at the first failure, and gone on with."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.integration.k3s_ops.conftest import NEW, OLD, Ops, budget, deployment, kill_after
from tests.support.fleet import Run


class Watch(threading.Thread):
    """Looks, while an upgrade runs, how many pods of a deployment are there to do their work."""

    def __init__(self, fleet: Ops, name: str) -> None:
        super().__init__(daemon=True)
        self.fleet, self.name_of, self.seen, self.over = fleet, name, list[int](), threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.5):
            found = self.fleet.kubectl("get", "deployment", self.name_of, "-o", "jsonpath='{.status.availableReplicas}'", check=False)
            if found.strip().isdigit():  # the API of a single server is away while that restarts
                self.seen.append(int(found))


def test_check_predicts_the_upgrade_and_the_upgrade_keeps_a_service_up(old: Ops) -> None:
    old.apply(deployment("web", 3), budget("web", minAvailable=2))
    old.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    old.kubectl("create", "configmap", "before", "--from-literal=a=b", check=False)
    units, kept = old.invocations(), set(old.kept.glob("*"))
    check = old.upgrade(NEW, "--check").require()
    assert old.invocations() == units and set(old.versions().values()) == {OLD} and not old.cordoned()
    assert set(old.kept.glob("*")) == kept

    watch = Watch(old, "web")
    watch.start()
    run = old.upgrade(NEW).require()
    watch.over.set()
    assert run.changed == check.changed
    assert set(old.versions().values()) == {NEW}
    assert old.ready() == set(old.hosts) and not old.cordoned()
    assert min(watch.seen) >= 2, watch.seen
    assert order(run) == [*old.servers, *old.workers]
    assert [path.stat().st_mode & 0o777 for path in set(old.kept.glob("*")) - kept] == [0o600]


def order(run: Run) -> list[str]:
    """Hosts in the order in which they were given their new version."""
    return [t["host"] for t in run.tasks if t["task"].endswith("and start it") and t["changed"]]


def test_a_second_upgrade_changes_nothing(fleet: Ops) -> None:
    assert set(fleet.versions().values()) == {NEW}
    units = fleet.invocations()
    assert fleet.upgrade(NEW, "--check").require().changed == set()
    assert fleet.upgrade(NEW).require().changed == set()
    assert fleet.invocations() == units


@pytest.mark.parametrize(
    ("playbook", "version", "says"),
    [
        ("playbooks/upgrade.yml", OLD, "a downgrade is refused"),
        ("playbooks/upgrade.yml", "v1.36.0+k3s1", "would skip a minor version"),
        ("site.yml", OLD, "a bootstrap changes no version"),
        ("site.yml", "v1.35.0+k3s1", "Run `ansible-playbook playbooks/upgrade.yml -e k3s_version=v1.35.0+k3s1`"),
    ],
)
def test_refused_before_anything_is_touched(fleet: Ops, tmp_path: Path, playbook: str, version: str, says: str) -> None:
    units = fleet.invocations()
    run = fleet.play("-e", f"k3s_version={version}", "-e", f"k3s_artifact_dir={tmp_path}", playbook=playbook).require(2)
    assert says in " ".join(run.failures[0]["msg"].split())
    assert run.changed == set()
    assert fleet.invocations() == units and set(fleet.versions().values()) == {NEW}


@pytest.mark.full
def test_what_blocks_a_drain_is_named_and_the_next_run_goes_on_after_a_kill(old: Ops) -> None:
    """One worker's pod may not be evicted; another worker was cordoned by its user, and stays so."""
    blocked, users = old.workers
    old.apply(deployment("db", 1, blocked), budget("db", maxUnavailable=0))
    old.kubectl("rollout", "status", "deployment/db", "--timeout=60s")
    old.kubectl("cordon", users)
    run = old.upgrade(NEW, "-e", "k3s_drain_timeout=8").require(2)
    said = " ".join(run.failures[-1]["msg"].split())
    assert "default/db-" in said and "PodDisruptionBudget default/db allows no disruption" in said and "run the same command again" in said
    assert old.versions() == {old.servers[0]: NEW, blocked: OLD, users: OLD}
    assert old.cordoned() == {blocked, users}
    assert "interrupted" not in run.output

    old.kubectl("delete", "pdb", "db")
    kill_after(old, "Install the agent and start it", "playbooks/upgrade.yml", "-e", f"k3s_version={NEW}")
    again = old.upgrade(NEW).require()
    assert "Left behind by an interrupted upgrade" in again.output and blocked in again.output
    assert set(old.versions().values()) == {NEW}
    assert old.cordoned() == {users}, "what the user cordoned stays cordoned, what the upgrade cordoned does not"
    assert not [t for t in again.of("Install the server and start it") if t["changed"]]
    old.kubectl("uncordon", users)
    old.kubectl("delete", "deployment", "db")


def test_a_server_or_host_that_does_not_answer_stops_it(fleet: Ops) -> None:
    worker = fleet.workers[0]
    fleet.sh(worker, "systemctl stop ssh.socket ssh.service || systemctl stop ssh; pkill -x sshd || true", check=False)
    try:
        run = fleet.play(
            "-e",
            f"k3s_version={NEW}",
            playbook="playbooks/upgrade.yml",
            env={"ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ConnectTimeout=5"},
        )
        assert run.rc != 0 and run.changed == set()
        assert f"The host {worker} cannot be reached" in run.output
    finally:
        fleet.sh(worker, "systemctl start ssh.socket ssh.service || systemctl start ssh", check=False)


@pytest.mark.full
def test_a_cluster_that_is_not_healthy_is_not_upgraded(old: Ops) -> None:
    worker = old.workers[0]
    old.sh(worker, "systemctl stop k3s-agent")
    old.kubectl("wait", "node", worker, "--for=condition=Ready=Unknown", "--timeout=90s")
    try:
        run = old.upgrade(NEW).require(2)
        assert f"The cluster is not healthy: {worker} is not Ready" in " ".join(run.failures[0]["msg"].split())
        assert run.changed == set()
    finally:
        old.sh(worker, "systemctl start k3s-agent")
        old.kubectl("wait", "node", worker, "--for=condition=Ready", "--timeout=90s")
