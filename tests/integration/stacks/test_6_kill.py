# SPDX-License-Identifier: GPL-3.0-or-later
"""Two runs at once, and runs killed at any point: one more run and all is as desired, with true statuses."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.support.stack_node import STATE, StackNode, compose, serves

KILLS = 30 if os.environ.get("PIFLEET_TEST_FULL") else 4
SEED = 20260
NAMES = [f"stack-{number}" for number in range(6)]


def write(node: StackNode, value: str) -> None:
    for name in NAMES:
        node.stack(name, compose({"a": serves(environment=f"{{A: '{value}'}}"), "b": serves()}))


def assert_true(node: StackNode, value: str, revision: str) -> None:
    """What the statuses claim is what docker shows, and it is what was wanted."""
    again = node.reconcile(revision=revision).require()
    assert not again.changed, again.data
    rows = node.info().stacks
    assert {name: rows[name]["status"] for name in NAMES} == dict.fromkeys(NAMES, "synced")
    assert {row["revision"] for row in rows.values()} == {revision}
    containers = node.inspect()
    assert set(containers) == {f"{name}-{service}-1" for name in NAMES for service in "ab"}
    assert {one["State"]["Status"] for one in containers.values()} == {"running"}
    assert all(f"A={value}" in containers[f"{name}-a-1"]["Config"]["Env"] for name in NAMES)
    # what a killed write left is nobody's after a while
    node.sh(f"touch -d '1 hour ago' $(find {STATE} -name '.*.new') {STATE}/.stack-0.json.litter.new")
    node.reconcile(revision=revision).require()
    assert node.sh(f"find {STATE} -name '.*'").strip() == ""


@pytest.mark.parametrize("point", range(KILLS))
def test_killed_at_a_random_point(node: StackNode, point: int) -> None:
    chance = random.Random(SEED + point)
    write(node, "1")
    first = node.reconcile().require()
    write(node, "2")
    revision = "b" * 40
    run = node.start("stack_reconcile", **node.settings(revision=revision))
    time.sleep(chance.uniform(0.05, 1.1 * first.seconds))
    run.kill(whole=chance.random() < 0.5)
    node.sh("sleep 0.3")
    for row in node.info().stacks.values():
        wanted = "A=2" in str(node.inspect(project=row["name"]))
        assert row["status"] != "synced" or row["revision"] == "a" * 40 or wanted, row
    node.reconcile(revision=revision).require()
    assert_true(node, "2", revision)


def test_two_runs_at_once_never_apply_one_stack_twice(node: StackNode) -> None:
    write(node, "1")
    with node.counting_docker() as calls:
        one = node.start("stack_reconcile", **node.settings())
        two = node.start("stack_reconcile", **node.settings())
        results = [one.wait(), two.wait()]
        ups = [call for call in calls() if " up " in f" {call} "]
    for result in results:
        assert result.data
        assert "Traceback" not in result.stderr
        if result.failed:
            assert "busy" in result.message or "another" in result.message
            assert str(one.pid if result is results[1] else two.pid) in str(result.data)
    for name in NAMES:
        assert len([call for call in ups if f" {name} " in call or f"-p={name}" in call]) == 1, ups
    assert_true(node, "1", "a" * 40)


def test_the_lock_of_a_killed_run_stops_nobody(node: StackNode) -> None:
    node.stack("web", compose({"a": serves(command="[serve, -health, 'late:60']", healthcheck="{test: [CMD, /app, health]}")}))
    run = node.start("stack_reconcile", **node.settings())
    node.wait_for("the apply", "docker ps -q | grep -q .")
    run.kill(whole=True)
    node.stack("web", compose({"a": serves()}))
    began = time.monotonic()
    assert node.reconcile(timeout=120).require().statuses == {"web": "synced"}
    assert time.monotonic() - began < 100, "it was not waited for"


def test_what_a_kill_can_leave_behind_is_mended(node: StackNode) -> None:
    """The states that Compose was seen to leave: a container under a temporary name beside or instead of the old one, one only created."""
    node.stack("web", compose({"a": serves(), "b": serves()}))
    node.reconcile().require()
    node.sh("docker rename web-a-1 0f1e2d3c4b5a_web-a-1")
    node.sh("docker stop -t 0 web-b-1")
    node.recreate("web-b-1", start=False)
    node.reconcile().require()
    assert set(node.inspect()) == {"web-a-1", "web-b-1"}
    assert {one["State"]["Status"] for one in node.inspect().values()} == {"running"}
    assert not node.reconcile().require().changed
