# SPDX-License-Identifier: GPL-3.0-or-later
"""What the repository of runs records, and what it does not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.recording import Recording
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.stack_events import Attempt, Told
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import runs as runs_module
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import Queries, Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Counts, Header, Runs, new_run_id
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from hypothesis import given
from hypothesis import strategies as st

Someone = Callable[[int], Process]
Ledger = Callable[[], Store]


def test_run_is_opened_and_closed(runs: Runs, header: Header, someone: Someone) -> None:
    opened = runs.open(header, someone(1), ["b", "a"])
    assert [r.status for r in runs.all()] == ["running"]
    assert runs.all()[0].hosts == {"a": None, "b": None}
    assert runs.close(someone(1), {"a": "ok", "b": "ok"}) == (opened.run_id, "succeeded")
    (run,) = runs.all()
    assert (run.status, run.hosts, run.header, run.process) == ("succeeded", {"a": "ok", "b": "ok"}, header, someone(1))
    assert run.started_at <= (run.ended_at or "")


@pytest.mark.parametrize("outcome", ["failed", "unreachable"])
def test_run_with_a_bad_host_failed(runs: Runs, header: Header, someone: Someone, outcome: str) -> None:
    runs.open(header, someone(1), ["a", "b"])
    assert runs.close(someone(1), {"a": "ok", "b": outcome})[1] == "failed"
    assert runs.all()[0].hosts["b"] == outcome


def test_closing_what_was_not_opened_fails(runs: Runs, header: Header, someone: Someone) -> None:
    with pytest.raises(PifleetError, match=r"never opened.*--start-at-task"):
        runs.close(someone(1), {})
    runs.open(header, someone(1), ["a"])
    runs.close(someone(1), {"a": "ok"})
    with pytest.raises(PifleetError, match="never opened"):
        runs.close(someone(1), {})


def test_opening_twice_goes_on_with_the_same_run(runs: Runs, header: Header, someone: Someone) -> None:
    first = runs.open(header, someone(1), ["a"])
    second = runs.open(header, someone(1), ["a"])
    assert (second.run_id, second.fresh) == (first.run_id, False)
    assert len(runs.all()) == 1


def test_two_runs_at_once_do_not_meet(runs: Runs, header: Header, someone: Someone) -> None:
    one, two = runs.open(header, someone(1), ["a"]), runs.open(header, someone(2), ["a"])
    assert two.interrupted == ()
    runs.close(someone(2), {"a": "failed"})
    assert {r.run_id: r.status for r in runs.all()} == {one.run_id: "running", two.run_id: "failed"}


def test_killed_run_is_reported_once_and_marked(ledger: Ledger, header: Header, someone: Someone) -> None:
    runs = Runs(ledger(), gone=lambda process: process.pid == 1)
    dead = runs.open(header, someone(1), ["a"])
    seen = runs.open(replace(header, playbook="other.yml"), someone(2), ["a"])
    assert [(i.run_id, i.playbook, i.requester) for i in seen.interrupted] == [(dead.run_id, "site.yml", "operator")]
    assert runs.all()[0].status == "interrupted"
    assert runs.all()[0].hosts == {"a": None}
    assert runs.open(header, someone(3), ["a"]).interrupted == ()


def test_last_run_is_the_newest_that_succeeded_with_the_same_command(runs: Runs, header: Header, someone: Someone) -> None:
    def run(header: Header, outcome: str = "ok", seconds: float = 0.0) -> str:
        recorded = Recording(steps={("play", "task"): seconds})
        opened = runs.open(header, someone(1), ["a"])
        runs.close(someone(1), {"a": outcome}, recorded)
        return opened.run_id

    run(header, seconds=1.0, outcome="failed")
    assert runs.last_like(header) is None
    run(header, seconds=1.0)
    wanted = run(header, seconds=2.0)
    run(header, outcome="failed", seconds=3.0)
    others = {"playbook": "other.yml", "host_limit": "b", "tags": ("x",), "skip_tags": ("x",), "inventory": ("elsewhere",)}
    for name, value in others.items():
        run(replace(header, **{name: value}))  # type: ignore[arg-type]
    runs.open(replace(header, check_mode=True), someone(2), ["a"])
    found = runs.last_like(header)
    assert found is not None
    assert (found.run_id, found.steps) == (wanted, ({"play": "play", "task": "task", "seconds": 2.0},))
    assert runs.last_like(replace(header, host_limit="c")) is None


def test_check_is_recorded_and_nothing_else(ledger: Ledger, header: Header, someone: Someone) -> None:
    runs = Runs(ledger(), gone=lambda process: process.pid == 1)
    dead = runs.open(header, someone(1), ["a"])
    check = runs.open(replace(header, check_mode=True), someone(2), ["a", "b"])
    assert [i.run_id for i in check.interrupted] == [dead.run_id], "it is said"
    by_id = {r.run_id: r for r in runs.all()}
    assert by_id[dead.run_id].status == "running", "but not marked"
    assert by_id[check.run_id].status == "checked"
    assert by_id[check.run_id].hosts == {}
    assert runs.attach(someone(2), "x", "text/plain", b"x") is None


def test_run_of_another_controller_is_given_a_day(ledger: Ledger, header: Header) -> None:
    now = [datetime(2025, 1, 1, tzinfo=timezone.utc)]
    runs = Runs(ledger(), now=lambda: now[0], gone=lambda _process: False)
    runs.open(header, Process("elsewhere", "x", 1, "x"), ["a"])
    now[0] += timedelta(hours=23)
    assert runs.open(header, Process("here", "y", 2, "y"), ["a"]).interrupted == ()
    now[0] += timedelta(hours=2)
    assert len(runs.open(header, Process("here", "y", 3, "y"), ["a"]).interrupted) == 1


def test_end_of_the_playbook_fills_in_counts(runs: Runs, header: Header, someone: Someone) -> None:
    run_id = runs.open(header, someone(1), ["a", "b", "c"]).run_id
    runs.close(someone(1), {"a": "ok", "b": "failed", "c": "ok"})
    counts = {"a": Counts(ok=5, changed=2), "b": Counts(ok=1, unreachable=1)}
    assert runs.finish(run_id, counts) == "failed"
    assert runs.all()[0].hosts == {"a": "ok", "b": "unreachable", "c": "not_run"}
    assert runs.counts(run_id) == {**counts, "c": Counts()}


@pytest.mark.parametrize("counts", [{}, {"a": Counts(ok=1)}, {"a": Counts(failed=1)}])
def test_playbook_that_did_not_come_to_its_end_failed(runs: Runs, header: Header, someone: Someone, counts: dict[str, Counts]) -> None:
    run_id = runs.open(header, someone(1), ["a"]).run_id
    assert runs.finish(run_id, counts) == "failed"
    assert runs.all()[0].status == "failed"
    assert runs.all()[0].ended_at


def test_failure_after_the_closing_is_not_lost(runs: Runs, header: Header, someone: Someone) -> None:
    run_id = runs.open(header, someone(1), ["a"]).run_id
    runs.close(someone(1), {"a": "ok"})
    assert runs.finish(run_id, {"a": Counts(ok=3, failed=1)}) == "failed"


def test_rescued_host_is_fine(runs: Runs, header: Header, someone: Someone) -> None:
    run_id = runs.open(header, someone(1), ["a"]).run_id
    runs.close(someone(1), {"a": "ok"})
    assert runs.finish(run_id, {"a": Counts(ok=1, rescued=1)}) == "succeeded"


def test_equal_artifacts_are_stored_once(runs: Runs, header: Header, someone: Someone, ledger: Ledger) -> None:
    run_id = runs.open(header, someone(1), ["a"]).run_id
    for name in ("one", "two"):
        made = runs.attach(someone(1), name, "text/x-diff", b"body")
        assert made is not None
        assert made.sha256 == hashlib.sha256(b"body").hexdigest()
    kept = runs.artifacts(run_id)
    assert [(a.name, a.media_type, a.size, body) for a, body in kept] == [
        ("one", "text/x-diff", 4, b"body"),
        ("two", "text/x-diff", 4, b"body"),
    ]
    with ledger().read() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM bodies").scalar() == 1


def test_events_of_an_artifact_name_it_and_are_kept_with_it_or_not_at_all(
    runs: Runs, header: Header, someone: Someone, ledger: Ledger
) -> None:
    run_id = runs.open(header, someone(1), ["a"]).run_id
    told = [Told("stack.synced", "a", {"stack": "web"}), Told("stack.failed", "a", {"stack": "db", "last_error": "password=hunter2"})]
    made = runs.attach(someone(1), "stacks.json", "application/json", b"{}", told)
    shown = Queries(ledger()).events(Wanted(run_id=run_id, kind="stack")).items
    assert [(e["kind"], e["host"], e["data"]["stack"]) for e in shown] == [("stack.failed", "a", "db"), ("stack.synced", "a", "web")]
    assert made is not None
    assert all(e["bodies"] == [asdict(made.body)] for e in shown)
    assert "hunter2" not in str(shown)
    with pytest.raises(PifleetError, match="no kind"):
        runs.attach(someone(1), "other.json", "application/json", b"[]", [told[0], Told("No kind", "a", {})])
    assert [a.name for a, _content in runs.artifacts(run_id)] == ["stacks.json"]
    assert Queries(ledger()).events(Wanted(run_id=run_id, kind="stack")).total == 2


def _attempt(number: int, host: str = "a", **more: object) -> Attempt:
    return Attempt(f"2026-{number}", Told("stack.synced", host, {"stack": "web", "unattended": {"id": f"2026-{number}"}, **more}))


def test_what_nodes_did_by_themselves_is_evidence_once_for_ever(runs: Runs, header: Header, someone: Someone, ledger: Ledger) -> None:
    assert not runs.collect(someone(1), [_attempt(1)])
    first = runs.open(header, someone(1), ["a"]).run_id
    assert runs.collect(someone(1), [_attempt(1), _attempt(2), _attempt(1)])
    runs.close(someone(1), {"a": "ok"})
    second = runs.open(header, someone(2), ["a"]).run_id
    assert runs.collect(someone(2), [_attempt(2), _attempt(3, "b", last_error="password=hunter2")]), "offered again, as after a kill"
    shown = Queries(ledger()).events(Wanted(kind="stack")).items
    assert [(e["run_id"], e["host"], e["data"]["unattended"]["id"]) for e in reversed(shown)] == [
        (first, "a", "2026-1"),
        (first, "a", "2026-2"),
        (second, "b", "2026-3"),
    ]
    assert "hunter2" not in str(shown)


def test_what_nodes_did_by_themselves_is_kept_whole_or_not_at_all(runs: Runs, header: Header, someone: Someone, ledger: Ledger) -> None:
    runs.open(header, someone(1), ["a"])
    with pytest.raises(PifleetError, match="no kind"):
        runs.collect(someone(1), [_attempt(1), Attempt("2026-2", Told("No kind", "a", {}))])
    assert Queries(ledger()).events(Wanted(kind="stack")).total == 0
    assert runs.collect(someone(1), [_attempt(1)])
    assert Queries(ledger()).events(Wanted(kind="stack")).total == 1


def test_artifact_of_no_run_is_not_kept(runs: Runs, someone: Someone) -> None:
    assert runs.attach(someone(1), "x", "text/plain", b"x") is None


def test_artifact_that_is_too_large_is_refused(runs: Runs, header: Header, someone: Someone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "MAX_BODY", 3)
    run_id = runs.open(header, someone(1), ["a"]).run_id
    with pytest.raises(PifleetError, match="big"):
        runs.attach(someone(1), "big", "text/plain", b"four")
    assert runs.artifacts(run_id) == ()


moments = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1)).map(lambda d: d.replace(tzinfo=timezone.utc))


@given(moments, moments)
def test_ids_sort_by_time(one: datetime, other: datetime) -> None:
    if abs(one - other) >= timedelta(milliseconds=1):
        assert (new_run_id(one) < new_run_id(other)) == (one < other)


def test_ids_of_one_moment_differ() -> None:
    moment = datetime(2025, 1, 2, 3, 4, 5, 678900, tzinfo=timezone.utc)
    assert new_run_id(moment).startswith("20250102T030405.678Z-")
    assert len({new_run_id(moment) for _ in range(100)}) == 100
