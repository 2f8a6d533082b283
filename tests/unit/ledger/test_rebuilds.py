# SPDX-License-Identifier: GPL-3.0-or-later
"""Rebuilds in the ledger: steps that add up, attempts that are resumed, and what a run that ends early leaves."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds, Subject
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Counts, Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._rebuild_report import STEPS, Rebuild, from_json, to_json, verify

from tests.support.rebuild_details import DETAILS, POD

ROOT = Path(__file__).resolve().parents[3]
Someone = Callable[[int], Process]
Ledger = Callable[[], Store]
#: the inventory of the header
HERE = ("inventory/lab",)
SUBJECT = Subject("pi-4", "pi-4.local", "agent", ("the host has no k3s data",), "Raspberry Pi 4")


class Clock:
    """Goes on by a second and a bit with each look at it."""

    def __init__(self) -> None:
        self.moment = datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        self.moment += timedelta(seconds=1, microseconds=1)
        return self.moment


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def runs(ledger: Ledger, clock: Clock) -> Runs:
    """Takes the processes 1 and 2 for gone where another run opens."""
    return Runs(ledger(), now=clock, gone=lambda process: process.pid in (1, 2))


@pytest.fixture
def rebuilds(ledger: Ledger, clock: Clock) -> Rebuilds:
    return Rebuilds(ledger(), now=clock)


def nothing(_record: Rebuild) -> list[tuple[str, str, bytes]]:
    return []


def go(rebuilds: Rebuilds, process: Process, *steps: str, host: str = SUBJECT.host) -> None:
    for step in steps:
        rebuilds.step(process, host, step, DETAILS[step])


def rebuilt(runs: Runs, rebuilds: Rebuilds, header: Header, process: Process, budget: float | None = None) -> Rebuild:
    runs.open(header, process, [SUBJECT.host])
    rebuilds.start(process, SUBJECT, DETAILS["detect"])
    go(rebuilds, process, *STEPS[1:])
    return rebuilds.finish(process, SUBJECT.host, {}, budget, nothing)


def test_whole_rebuild(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    record = rebuilt(runs, rebuilds, header, someone(3), budget=60)
    assert record == rebuilds.get(record.rebuild_id) == rebuilds.of_host("pi-4")[0]
    (attempt,) = record.attempts
    assert [s.step for s in attempt.steps] == list(STEPS)
    assert {s.outcome for s in attempt.steps} == {"ok"}
    assert attempt.steps[0].started_at == attempt.started_at == runs.all()[0].started_at, "it begins with the run"
    assert (record.status, record.within_budget, record.seconds, record.ended_at) == (
        "succeeded",
        True,
        record.total_seconds,
        attempt.ended_at,
    )
    assert (attempt.requester, attempt.revision) == ("operator", "a" * 40)
    assert verify(record) == []
    assert rebuilds.unfinished(HERE) == ()


@pytest.mark.parametrize("step", range(1, 8))
def test_evidence_without_one_step_is_found_out(
    ledger: Ledger, runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone, step: int
) -> None:
    record = rebuilt(runs, rebuilds, header, someone(3))
    with ledger().write() as db:
        db.exec_driver_sql(f"DELETE FROM rebuild_steps WHERE number = {step}")
    findings = verify(rebuilds.get(record.rebuild_id))
    assert any(STEPS[step - 1] in f and "missing" in f for f in findings)
    assert any("together" in f for f in findings), "the sum tells it too"


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("UPDATE rebuild_steps SET ended_at = '2025-01-02T03:04:10.000000Z' WHERE number = 2", "begins at"),
        ("UPDATE rebuild_steps SET ended_at = NULL WHERE number = 7", "no whole time"),
        ("UPDATE rebuild_steps SET ended_at = 'yesterday' WHERE number = 3", "no whole time"),
        ("UPDATE rebuild_steps SET outcome = 'failed' WHERE number = 7", "outcome failed"),
        ("UPDATE rebuild_steps SET step = 'join' WHERE number = 4", "not their order"),
        ("UPDATE rebuild_steps SET detail = '{}' WHERE number = 6", "lacks the detail node_after"),
        ("""UPDATE rebuild_steps SET detail = '{"version": 5}' WHERE number = 4""", "of the kind int"),
        ("UPDATE rebuilds SET status = 'failed'", "not succeeded"),
        ("UPDATE rebuilds SET ended_at = '2031-01-01T00:00:00.000000Z'", "together"),
        ("UPDATE rebuilds SET started_at = '2020-01-01T00:00:00.000000Z'", "its first run at"),
        ("UPDATE rebuilds SET reasons = '[]'", "reasons are missing"),
        ("UPDATE rebuilds SET role = ''", "role is missing"),
        ("DELETE FROM rebuild_steps", "no attempt is recorded"),
    ],
)
def test_evidence_that_was_changed_is_found_out(
    ledger: Ledger, runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone, harm: str, says: str
) -> None:
    record = rebuilt(runs, rebuilds, header, someone(3))
    with ledger().write() as db:
        db.exec_driver_sql(harm)
    assert any(says in finding for finding in verify(rebuilds.get(record.rebuild_id)))


def test_what_is_not_whole_is_not_finished(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    runs.open(header, someone(3), ["pi-4"])
    rebuild_id = rebuilds.start(someone(3), SUBJECT, DETAILS["detect"]).rebuild_id
    go(rebuilds, someone(3), "retire", "install")
    with pytest.raises(PifleetError, match=r"pi-4 is not whole: .*step prepare is missing.*lacks the detail node_after"):
        rebuilds.finish(someone(3), "pi-4", {}, None, nothing)
    record = rebuilds.get(rebuild_id)
    assert (record.status, record.ended_at, record.attempts[0].steps[-1].outcome) == ("running", None, None), "nothing was written"


def test_what_cannot_be_published_is_not_finished(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    run_id = runs.open(header, someone(3), ["pi-4"]).run_id
    rebuilds.start(someone(3), SUBJECT, DETAILS["detect"])
    go(rebuilds, someone(3), *STEPS[1:])

    def full(_record: Rebuild) -> list[tuple[str, str, bytes]]:
        raise PifleetError("disk full")

    with pytest.raises(PifleetError, match="disk full"):
        rebuilds.finish(someone(3), "pi-4", {}, None, full)
    assert rebuilds.unfinished(HERE)[0].status == "running"
    rebuilds.finish(someone(3), "pi-4", {}, None, lambda record: [("x.json", "application/json", to_json(record).encode())])
    ((artifact, body),) = runs.artifacts(run_id)
    assert artifact.name == "x.json"
    assert from_json(body) == rebuilds.of_host("pi-4")[0]


def test_detail_is_merged_into_the_current_step(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    runs.open(header, someone(3), ["pi-4"])
    me = someone(3)
    rebuild_id = rebuilds.start(me, SUBJECT, {"a": 1}).rebuild_id
    assert rebuilds.note(me, "pi-4", {"b": 2}) == (rebuild_id, "detect")
    rebuilds.step(me, "pi-4", "retire", {"c": 3})
    rebuilds.step(me, "pi-4", "retire", {"c": 4, "d": 5})
    assert rebuilds.start(me, SUBJECT, {"e": 6}).attempt == 1, "started again in one run it goes on"
    (attempt,) = rebuilds.get(rebuild_id).attempts
    assert [(s.step, s.detail) for s in attempt.steps] == [("detect", {"a": 1, "b": 2}), ("retire", {"c": 4, "d": 5, "e": 6})]


def test_steps_go_forward_only(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    runs.open(header, someone(3), ["pi-4"])
    rebuilds.start(someone(3), SUBJECT, {})
    go(rebuilds, someone(3), "retire", "prepare")
    with pytest.raises(PifleetError, match="at the step prepare; it cannot go back to retire"):
        go(rebuilds, someone(3), "retire")
    assert len(rebuilds.of_host("pi-4")[0].attempts[0].steps) == 3


def test_clock_that_is_set_back_makes_no_negative_time(
    runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone, clock: Clock
) -> None:
    runs.open(header, someone(3), ["pi-4"])
    rebuilds.start(someone(3), SUBJECT, DETAILS["detect"])
    go(rebuilds, someone(3), *STEPS[1:3])
    clock.moment -= timedelta(hours=1)
    go(rebuilds, someone(3), *STEPS[3:])
    record = rebuilds.finish(someone(3), "pi-4", {}, None, nothing)
    assert verify(record) == []
    assert all(s.started_at <= (s.ended_at or "") for s in record.attempts[0].steps)


# --- resumed -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reached", range(7))
def test_killed_after_any_step_it_is_resumed(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone, reached: int) -> None:
    first = runs.open(header, someone(1), ["pi-4"]).run_id
    begun = rebuilds.start(someone(1), SUBJECT, DETAILS["detect"])
    assert (begun.attempt, begun.resumed, begun.details) == (1, False, {})
    go(rebuilds, someone(1), *STEPS[1 : reached + 1])
    second = runs.open(header, someone(3), ["pi-4"])
    assert [i.run_id for i in second.interrupted] == [first]
    (left,) = rebuilds.unfinished(HERE)
    assert (left.host, left.status, left.last_step, left.run_id) == ("pi-4", "interrupted", STEPS[reached], first)
    again = rebuilds.start(someone(3), SUBJECT, {"pods_before": [], "node_before": None, "volumes": [], "host_key": None})
    assert (again.rebuild_id, again.attempt, again.resumed) == (begun.rebuild_id, 2, True)
    assert again.details == {step: DETAILS[step] for step in STEPS[: reached + 1]}
    go(rebuilds, someone(3), *STEPS[1:])
    record = rebuilds.finish(someone(3), "pi-4", {}, None, nothing)
    one, two = record.attempts
    assert (one.steps[-1].outcome, one.steps[-1].ended_at, one.ended_at) == ("interrupted", None, None)
    assert [s.step for s in two.steps] == list(STEPS)
    assert record.total_seconds is not None and record.seconds is not None and record.total_seconds > record.seconds
    assert verify(record) == []


def test_third_attempt_knows_what_the_first_saw(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    runs.open(header, someone(1), ["pi-4"])
    rebuilds.start(someone(1), SUBJECT, {"pods_before": [POD], "node_before": {"version": "1"}})
    rebuilds.step(someone(1), "pi-4", "retire", {"removed": ["node"], "snapshot": "before"})
    runs.open(header, someone(2), ["pi-4"])
    rebuilds.start(someone(2), replace(SUBJECT, reasons=("another",)), {"pods_before": [{"name": "kube-system/x"}], "node_before": None})
    rebuilds.step(someone(2), "pi-4", "retire", {"removed": ["node", "secret"], "snapshot": None})
    rebuilds.step(someone(2), "pi-4", "prepare", {"host_key_replaced": True})
    runs.open(header, someone(3), ["pi-4"])
    third = rebuilds.start(someone(3), SUBJECT, {})
    assert third.attempt == 3
    assert third.details == {
        "detect": {"pods_before": [POD], "node_before": {"version": "1"}},
        "retire": {"removed": ["node", "secret"], "snapshot": "before"},
        "prepare": {"host_key_replaced": True},
    }
    assert rebuilds.of_host("pi-4")[0].reasons == ("the host has no k3s data", "another")


def test_host_of_another_fleet_with_the_same_name_is_another_host(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    """Fleets of one checkout share its ledger: the lab has the names of the real one."""
    runs.open(header, someone(3), ["pi-4"])
    lab = rebuilds.start(someone(3), SUBJECT, {"pods_before": [POD]})
    there = ("inventory/pi-cluster",)
    assert (rebuilds.unfinished(there), rebuilds.known("pi-4", there)) == ((), {})
    assert list(rebuilds.known("pi-4", HERE)) == ["detect"]
    runs.open(replace(header, inventory=there), someone(4), ["pi-4"])
    real = rebuilds.start(someone(4), SUBJECT, {})
    assert (real.rebuild_id != lab.rebuild_id, real.resumed, real.details) == (True, False, {})
    rebuilds.step(someone(4), "pi-4", "retire", {})
    assert rebuilds.abandon(someone(4), "pi-4") == real.rebuild_id
    (left,) = rebuilds.unfinished(HERE)
    assert (left.rebuild_id, left.last_step) == (lab.rebuild_id, "detect")


@pytest.mark.parametrize("end", ["finish", "close"])
def test_run_that_fails_ends_its_step_and_is_resumed(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone, end: str) -> None:
    run_id = runs.open(header, someone(3), ["pi-4"]).run_id
    rebuilds.start(someone(3), SUBJECT, {})
    go(rebuilds, someone(3), "retire")
    if end == "close":
        runs.close(someone(3), {"pi-4": "failed"})
    runs.finish(run_id, {"pi-4": Counts(failed=1)})
    (record,) = rebuilds.of_host("pi-4")
    assert (record.status, [s.outcome for s in record.attempts[0].steps]) == ("failed", ["ok", "failed"])
    assert record.ended_at == record.attempts[0].ended_at == runs.all()[0].ended_at
    assert rebuilds.unfinished(HERE)[0].last_step == "retire"
    runs.open(header, someone(4), ["pi-4"])
    assert rebuilds.start(someone(4), SUBJECT, {}).attempt == 2
    assert (rebuilds.get(record.rebuild_id).status, rebuilds.get(record.rebuild_id).ended_at) == ("running", None)


def test_end_of_a_run_leaves_a_finished_rebuild_alone(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    record = rebuilt(runs, rebuilds, header, someone(3))
    runs.finish(record.attempts[0].run_id, {"pi-4": Counts(failed=1)})
    assert rebuilds.get(record.rebuild_id) == record
    runs.open(header, someone(4), ["pi-4"])
    assert rebuilds.start(someone(4), SUBJECT, {}).rebuild_id != record.rebuild_id
    assert len(rebuilds.of_host("pi-4")) == 2


def test_check_marks_no_rebuild(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    runs.open(header, someone(1), ["pi-4"])
    rebuilds.start(someone(1), SUBJECT, {})
    runs.open(replace(header, check_mode=True), someone(3), ["pi-4"])
    assert rebuilds.unfinished(HERE)[0].status == "running"


def test_two_runs_do_not_rebuild_one_host_at_once(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    run_id = runs.open(header, someone(3), ["pi-4"]).run_id
    rebuilds.start(someone(3), SUBJECT, {})
    runs.open(header, someone(4), ["pi-4", "pi-5"])
    for use in (lambda: rebuilds.start(someone(4), SUBJECT, {}), lambda: rebuilds.abandon(someone(4), "pi-4")):
        with pytest.raises(PifleetError, match=f"run {run_id} of site.yml by operator is rebuilding pi-4"):
            use()
    rebuilds.start(someone(4), replace(SUBJECT, host="pi-5", node="pi-5.local"), {})
    go(rebuilds, someone(4), "retire", host="pi-5")
    assert [(u.host, u.last_step) for u in rebuilds.unfinished(HERE)] == [("pi-4", "detect"), ("pi-5", "retire")]


def test_rebuild_of_a_healthy_node_is_given_up(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    runs.open(header, someone(1), ["pi-4"])
    rebuild_id = rebuilds.start(someone(1), SUBJECT, {}).rebuild_id
    runs.open(header, someone(3), ["pi-4"])
    assert rebuilds.abandon(someone(3), "pi-4") == rebuild_id
    assert rebuilds.abandon(someone(3), "pi-4") is None
    assert (rebuilds.get(rebuild_id).status, rebuilds.unfinished(HERE)) == ("abandoned", ())
    assert rebuilds.start(someone(3), SUBJECT, {}).attempt == 1, "the next one is a new one"
    assert rebuilds.abandon(someone(3), "pi-4") != rebuild_id
    assert rebuilds.of_host("pi-4")[1].attempts[0].steps[0].outcome == "failed", "no step stays open"


def test_rebuild_without_a_step_left_is_resumed(ledger: Ledger, runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    runs.open(header, someone(1), ["pi-4"])
    rebuilds.start(someone(1), SUBJECT, {})
    with ledger().write() as db:
        db.exec_driver_sql("DELETE FROM rebuild_steps")
    runs.open(header, someone(3), ["pi-4"])
    assert rebuilds.unfinished(HERE)[0].last_step == ""
    assert rebuilds.start(someone(3), SUBJECT, {}).attempt == 1


# --- bad input -----------------------------------------------------------------------------------------------------------


def test_nothing_is_recorded_outside_of_a_run(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    uses: list[Callable[[], Any]] = [
        lambda: rebuilds.step(someone(3), "pi-4", "retire", {}),
        lambda: rebuilds.note(someone(3), "pi-4", {}),
        lambda: rebuilds.finish(someone(3), "pi-4", {}, None, nothing),
    ]
    for use in [*uses, lambda: rebuilds.start(someone(3), SUBJECT, {}), lambda: rebuilds.abandon(someone(3), "pi-4")]:
        with pytest.raises(PifleetError, match=r"No run is open.*--start-at-task"):
            use()
    runs.open(header, someone(3), ["pi-4"])
    for use in uses:
        with pytest.raises(PifleetError, match="No rebuild of pi-4 was started in this run"):
            use()


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        (replace(SUBJECT, node="../../etc/x"), "no name of a node"),
        (replace(SUBJECT, node=""), "no name of a node"),
        (replace(SUBJECT, node="x\n"), "no name of a node"),
        (replace(SUBJECT, reasons=()), "no reason"),
        (replace(SUBJECT, reasons=(" ",)), "no reason"),
    ],
)
def test_garbage_begins_nothing(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone, subject: Subject, says: str) -> None:
    runs.open(header, someone(3), ["pi-4"])
    with pytest.raises(PifleetError, match=says):
        rebuilds.start(someone(3), subject, {})
    assert rebuilds.of_host("pi-4") == ()


def test_rebuild_without_a_ledger(path: Path) -> None:
    with pytest.raises(LedgerError, match="There is no ledger"):
        Rebuilds(Store(path)).get("x")


def test_unknown_rebuild(runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    runs.open(header, someone(3), ["pi-4"])
    with pytest.raises(LedgerError, match="no rebuild 'x'"):
        rebuilds.get("x")


def test_disk_that_is_full_leaves_the_step_as_it_was(path: Path, runs: Runs, rebuilds: Rebuilds, header: Header, someone: Someone) -> None:
    runs.open(header, someone(3), ["pi-4"])
    rebuilds.start(someone(3), SUBJECT, {"kept": True})
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, old[1]))
    try:
        with pytest.raises(LedgerError, match="cannot be used"):
            rebuilds.step(someone(3), "pi-4", "retire", {"removed": ["x" * 200_000]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    (step,) = rebuilds.of_host("pi-4")[0].attempts[0].steps
    assert (step.step, step.outcome, step.detail) == ("detect", None, {"kept": True})


WRITER = """
import sys
sys.path[:0] = [".collections", "."]
from pathlib import Path
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds, Subject
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._rebuild_report import STEPS
from tests.support.rebuild_details import DETAILS
store, me = Store(Path(sys.argv[1])), Process("controller", "boot", int(sys.argv[2]), "x")
header = Header("site.yml", None, None, None, (), (), (), False, "operator", "2.19", "0.1.0")
Runs(store, gone=lambda process: True).open(header, me, ["pi-4"])
rebuilds = Rebuilds(store)
rebuilds.start(me, Subject("pi-4", "pi-4.local", "agent", ("wiped",)), DETAILS["detect"])
print("detect", flush=True)
for step in STEPS[1:]:
    rebuilds.step(me, "pi-4", step, DETAILS[step])
    print(step, flush=True)
sys.stdin.read()
rebuilds.finish(me, "pi-4", {}, None, lambda record: [])
"""


def test_killed_at_each_step_the_attempts_are_all_there(path: Path) -> None:
    """kill -9 right after each acknowledged step of one rebuild; the last attempt ends it."""
    for number, until in enumerate((*STEPS, ""), start=1):
        command = [sys.executable, "-c", WRITER, str(path), str(number)]
        child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdin is not None
        for line in child.stdout:
            if line.strip() == (until or STEPS[-1]):
                break
        if until:
            os.kill(child.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            child.stdin.close()
        assert child.wait(timeout=30) == (-signal.SIGKILL if until else 0)
        child.stdout.close()
    (record,) = Rebuilds(Store(path)).of_host("pi-4")
    assert verify(record) == []
    assert len(record.attempts) == 8
    for attempt, until in zip(record.attempts, STEPS, strict=False):
        names = [s.step for s in attempt.steps]
        assert names[: STEPS.index(until) + 1] == list(STEPS[: STEPS.index(until) + 1]), "acknowledged, so it is there"
        assert attempt.steps[-1].outcome == "interrupted"
