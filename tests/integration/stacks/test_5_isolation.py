# SPDX-License-Identifier: GPL-3.0-or-later
"""One bad stack stops no other: of 20, one is invalid, one has no image, one hangs, one crashes; 16 are synced, in time."""

from __future__ import annotations

import pytest

from tests.support.stack_node import Result, StackNode, compose, serves

LIMIT = 45  # seconds for one stack: more than a sound one takes on a machine that has much else to do
GOOD = [f"good-{number:02d}" for number in range(16)]
HANGING = """\
services:
  job: {image: pifleet/lab-app:1, command: [hang], stop_grace_period: 1s}
  a:
    image: pifleet/lab-app:1
    depends_on: {job: {condition: service_completed_successfully}}
"""
BAD = {
    "bad-invalid": ("services: {a: {image: [}", ("yaml",)),
    "bad-image": (compose({"a": serves("pifleet/not-there:1"), "b": serves()}), ("pifleet/not-there:1",)),
    "bad-hanging": (HANGING, (f"took longer than {LIMIT} seconds", "stacks_timeout", "bad-hanging-job-1 has not completed")),
    "bad-crashing": (compose({"a": serves(command="[crash, '0.2', '7']", restart="always")}), ("crash", "7")),
}


@pytest.fixture(scope="module")
def first(engine: StackNode) -> Result:
    engine.clean()
    for name in GOOD:
        engine.stack(name, compose({"a": serves()}))
    for name, (text, _) in BAD.items():
        engine.stack(name, text)
    return engine.reconcile(timeout=LIMIT, parallel=4)


def test_sixteen_are_synced_and_four_failed(first: Result) -> None:
    assert first.failed
    assert first.rc != 0
    assert first.statuses == dict.fromkeys(GOOD, "synced") | dict.fromkeys(BAD, "failed")


@pytest.mark.parametrize("name", BAD)
def test_each_says_its_cause(first: Result, name: str) -> None:
    row = first.stacks[name]
    for word in BAD[name][1]:
        assert word.lower() in row["last_error"].lower()
        assert "Traceback" not in row["last_error"]
    assert name in first.message


def test_it_ends_within_the_time_limits(first: Result) -> None:
    assert first.seconds < 2 * LIMIT


def test_the_good_ones_run(engine: StackNode, first: Result) -> None:
    running = {name for name, one in engine.inspect().items() if one["State"]["Status"] == "running"}
    assert {f"{name}-a-1" for name in GOOD} <= running
    assert all(first.stacks[name]["containers_running"] == first.stacks[name]["containers_total"] == 1 for name in GOOD)


def test_nothing_that_hung_is_left_running_on_the_node(engine: StackNode, first: Result) -> None:
    assert engine.sh("pgrep -af 'docker( |-)compose' || true") == ""


def test_a_failed_revision_is_not_tried_again_at_once_and_the_good_ones_stay(engine: StackNode, first: Result) -> None:
    before = {name: identity for name, identity in engine.identities().items() if name.startswith("good")}
    again = engine.info()
    assert {name: row["status"] for name, row in again.stacks.items()} == first.statuses
    after = {name: identity for name, identity in engine.identities().items() if name.startswith("good")}
    assert after == before


def test_mended_they_are_synced(engine: StackNode, first: Result) -> None:
    for name in BAD:
        engine.stack(name, compose({"a": serves()}))
    assert set(engine.reconcile(revision="b" * 40).require().statuses.values()) == {"synced"}


def test_a_failed_attempt_keeps_the_revision_that_was_applied_last(engine: StackNode) -> None:
    engine.clean()
    engine.stack("web", compose({"a": serves()}))
    engine.reconcile().require()
    before = engine.identities()
    engine.stack("web", compose({"a": serves("pifleet/not-there:1")}))
    row = engine.reconcile(revision="b" * 40).require(failed=True).stacks["web"]
    assert (row["status"], row["revision"]) == ("failed", "a" * 40)
    assert row["last_sync_at"] < row["last_attempt_at"]
    assert row["last_sync_status"]
    assert engine.identities() == before
