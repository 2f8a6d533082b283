# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rebuild refuses, each with nothing half deleted, and how it ends when it takes too long."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.integration.rebuild.conftest import ACCEPT, Rebuilt, rows
from tests.support.fleet import Process


@pytest.mark.parametrize("args", [(), ("-e", "node=pi-cluster-9.local")])
def test_a_node_that_is_not_in_the_inventory(fleet: Rebuilt, args: tuple[str, ...]) -> None:
    run = fleet.play(*args, playbook="playbooks/rebuild.yml")
    assert run.rc != 0
    assert run.changed == set()
    assert fleet.node in run.failures[-1]["msg"]  # it names those that there are


@pytest.fixture(scope="module")
def swapped(fleet: Rebuilt) -> Rebuilt:
    fleet.settled()
    fleet.swap()
    return fleet


def test_a_wrong_token_is_refused_before_the_node_is_retired(swapped: Rebuilt) -> None:
    uid = swapped.nodes()[swapped.node]["metadata"]["uid"]
    run = swapped.rebuild("-e", "k3s_token=wrong-token-of-a-stranger")
    assert run.rc != 0
    assert "k3s_token of the inventory is not the cluster's" in run.failures[-1]["msg"]
    assert "wrong-token-of-a-stranger" not in run.output
    assert swapped.nodes()[swapped.node]["metadata"]["uid"] == uid


def test_a_cluster_that_does_not_answer_is_refused(swapped: Rebuilt) -> None:
    server = swapped.servers[0]
    uid = swapped.nodes()[swapped.node]["metadata"]["uid"]
    rules = "-p tcp --dport 6443 ! -i docker0 -j REJECT"
    swapped.sh(server, f"iptables -I INPUT {rules}")
    try:
        run = swapped.rebuild()
        assert run.rc != 0
        assert run.changed == set()
        assert "no API answers" in run.failures[-1]["msg"]
    finally:
        swapped.sh(server, f"iptables -D INPUT {rules}")
    assert swapped.nodes()[swapped.node]["metadata"]["uid"] == uid


def test_a_node_that_is_alive_elsewhere_is_never_retired(swapped: Rebuilt) -> None:
    """Another machine reports as the node: its address is another, and its lease is renewed."""
    node, server = swapped.node, swapped.servers[0]
    own = swapped.address(node)
    uid = swapped.nodes()[node]["metadata"]["uid"]

    def address(value: str) -> None:
        patch = json.dumps({"status": {"addresses": [{"type": "InternalIP", "address": value}, {"type": "Hostname", "address": node}]}})
        swapped.kubectl("patch", "node", node, "--subresource=status", "--type=merge", f"--patch='{patch}'")

    lease = (
        "while :; do k3s kubectl -n kube-node-lease patch lease NODE --type=merge "
        '-p "{\\"spec\\":{\\"renewTime\\":\\"$(date -u +%Y-%m-%dT%H:%M:%S.%6NZ)\\"}}"; sleep 2; done'
    ).replace("NODE", node)
    address("192.0.2.99")
    swapped.sh(server, f"cat >/run/alive <<'END'\n{lease}\nEND\nsystemd-run --quiet --collect --unit alive bash /run/alive")
    try:
        run = swapped.rebuild()
        assert run.rc != 0
        assert run.changed == set()
        assert "192.0.2.99, reports as this node" in run.failures[-1]["msg"]
        assert swapped.nodes()[node]["metadata"]["uid"] == uid
    finally:
        swapped.sh(server, "systemctl stop alive; rm -f /run/alive")
        address(own)


def test_a_node_that_comes_back_meanwhile_is_not_retired(swapped: Rebuilt, tmp_path: Path) -> None:
    """Its kubelet reports after the cluster was asked and before the Node goes: a lock on its ledger, which is its own, holds the run."""
    node = swapped.node
    uid = swapped.nodes()[node]["metadata"]["uid"]
    process = swapped.start("site.yml", "--limit", node, *ACCEPT, "-e", f"fleet_root={tmp_path}")
    until(lambda: came_to("Open the run's record", process), process)
    with closing(sqlite3.connect(tmp_path / ".pifleet" / "ledger.db", timeout=30)) as db:
        db.execute("BEGIN IMMEDIATE")
        until(lambda: came_to("Ask the cluster what it knows", process), process)
        alive = json.dumps({"spec": {"renewTime": datetime.now(tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}})
        swapped.kubectl("-n", "kube-node-lease", "patch", "lease", node, "--type=merge", f"--patch='{alive}'")
        db.rollback()
    run = process.wait(900)
    assert run.rc != 0
    assert run.changed == set()
    assert f"{node} came back" in run.failures[-1]["msg"]
    assert "It was not removed" in run.failures[-1]["msg"]
    assert swapped.nodes()[node]["metadata"]["uid"] == uid
    assert not swapped.nodes()[node]["spec"].get("unschedulable")


def came_to(task: str, process: Process) -> bool:
    """Whether *process* has the result of a task."""
    return any(task in result["task"] for result in process.results())


def until(holds: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < deadline and process.process.poll() is None, process.log.read_text()[-3000:]
        time.sleep(0.05)


def answer_of_stack(fleet: Rebuilt) -> str:
    """What the lab's stack hello says on the node, empty where it says nothing."""
    return fleet.sh(fleet.node, "curl -s --max-time 5 http://127.0.0.1:8080/version", check=False).strip()


def test_over_budget_it_is_done_and_fails(swapped: Rebuilt) -> None:
    """The wrapper, on the node that is still swapped. The stack that the node has comes back with it, and only then it fails."""
    arguments = ("-e", f"node={swapped.node}", *ACCEPT, "-e", "stacks_enabled=true")
    assert answer_of_stack(swapped) == ""
    run = swapped.play(*arguments, "-e", "rebuild_budget_minutes=0.01", playbook="playbooks/rebuild.yml")
    assert run.rc != 0
    assert answer_of_stack(swapped) == "1"
    assert "0.01 allowed" in run.failures[-1]["msg"]
    assert swapped.ready() == set(swapped.hosts)
    assert {t["host"] for t in run.tasks if t["changed"]} == {swapped.node}
    assert rows("SELECT status FROM rebuilds WHERE host = ? ORDER BY started_at DESC LIMIT 1", swapped.node) == [{"status": "succeeded"}]
    swapped.settled()
    assert swapped.play(*arguments, playbook="playbooks/rebuild.yml").require().changed == set()
