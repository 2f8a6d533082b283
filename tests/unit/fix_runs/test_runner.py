# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import planner, runner, text
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FORWARD, PINNED, STEPS, UNPINNED, FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import shipped
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fix_runs import case

NOW = "2025-01-02T03:04:05.000000Z"


def fresh() -> FixRun:
    return FixRun("fix-000001-web", "web", "shop", "pi-1", "auto", "pending", "alice", "run", NOW, runner.fresh_steps())


def through(run: FixRun, *names: str) -> FixRun:
    for name in names:
        run = runner.finish(runner.begin(run, name, NOW), name, "", {}, NOW)
    return run


def failing(run: FixRun, name: str) -> FixRun:
    return runner.fail(runner.begin(run, name, NOW), name, "broken", {}, NOW)


def states(run: FixRun) -> str:
    return " ".join(step.state for step in run.steps)


def test_all_steps_in_order_and_no_rollback() -> None:
    run = through(fresh(), *FORWARD)
    assert (run.status, states(run)) == ("succeeded", "succeeded " * 5 + "skipped")
    assert runner.due(run) == ""


def test_a_stack_is_held_until_somebody_lets_go_of_it() -> None:
    asked = case("bump requests to 2.32.4")
    found = planner.propose(asked, shipped())
    assert found
    plan = planner.plan("web", "a" * 40, "b" * 64, asked, found)
    run = through(fresh(), *FORWARD)
    assert not replace(run, plan=plan).holds
    pinned = replace(run, plan=replace(plan, keep=PINNED))
    assert pinned.holds
    assert f"-e unpin={run.id}" in text.show(pinned)
    let_go = runner.note(pinned, "verify", {UNPINNED: NOW})
    assert not let_go.holds
    assert "unpin" not in text.show(let_go)
    # one that did not succeed holds nothing
    assert not replace(failing(through(fresh(), *FORWARD[:4]), "verify"), plan=pinned.plan).holds


def test_a_failed_analysis_changed_nothing() -> None:
    run = failing(fresh(), "analyze")
    assert (run.status, states(run)) == ("failed", "failed " + "skipped " * 4 + "skipped")
    assert run.reason == "analyze: broken"


@pytest.mark.parametrize("name", FORWARD[1:])
def test_a_failure_after_files_were_touched_is_rolled_back(name: str) -> None:
    run = failing(through(fresh(), *FORWARD[: FORWARD.index(name)]), name)
    assert (run.status, runner.due(run)) == ("running", "rollback")
    assert through(run, "rollback").status == "rolled_back"
    assert failing(run, "rollback").status == "rollback_failed"


@pytest.mark.parametrize("name", STEPS[1:])
def test_a_step_whose_turn_it_is_not_does_not_begin(name: str) -> None:
    with pytest.raises(PifleetError, match="cannot begin now"):
        runner.begin(fresh(), name, NOW)


@pytest.mark.parametrize("name", FORWARD)
def test_an_interrupted_run_goes_on_with_the_step_it_was_in(name: str) -> None:
    before = runner.begin(through(fresh(), *FORWARD[: FORWARD.index(name)]), name, NOW)
    gone = runner.interrupt(before, NOW)
    assert gone.status == "failed"
    again = runner.reopen(gone, "", NOW)
    assert (again.status, runner.due(again)) == ("running", name)
    assert [s.state for s in again.steps if s.name != name] == [s.state for s in before.steps if s.name != name]


def test_interrupted_between_two_steps_and_in_the_rollback() -> None:
    assert runner.due(runner.reopen(runner.interrupt(through(fresh(), "analyze", "patch"), NOW), "", NOW)) == "build"
    run = failing(through(fresh(), "analyze", "patch"), "build")
    assert runner.due(runner.reopen(runner.interrupt(run, NOW), "", NOW)) == "rollback"
    begun = runner.begin(run, "rollback", NOW)
    assert runner.due(runner.reopen(runner.interrupt(begun, NOW), "", NOW)) == "rollback"


def test_what_was_rolled_back_is_done_again_from_the_patch() -> None:
    run = through(failing(through(fresh(), "analyze", "patch", "build", "restart"), "verify"), "rollback")
    again = runner.reopen(run, "", NOW)
    assert (runner.due(again), states(again)) == ("patch", "succeeded " + "pending " * 4 + "pending")
    assert runner.due(runner.reopen(run, "analyze", NOW)) == "analyze"


def test_a_failed_rollback_is_tried_again() -> None:
    run = failing(failing(through(fresh(), "analyze", "patch"), "build"), "rollback")
    again = runner.reopen(run, "", NOW)
    assert runner.due(again) == "rollback"
    with pytest.raises(PifleetError, match="invalid_resume_step"):
        runner.reopen(run, "build", NOW)


def test_from_a_step() -> None:
    run = runner.interrupt(through(fresh(), "analyze", "patch", "build"), NOW)
    assert runner.due(runner.reopen(run, "build", NOW)) == "build"
    assert runner.due(runner.reopen(run, "restart", NOW)) == "restart"
    for name in ("verify", "rollback", "nonsense", "analyze"):
        with pytest.raises(PifleetError, match="invalid_resume_step"):
            runner.reopen(run, name, NOW)


def test_what_is_over_or_under_way_is_not_retried() -> None:
    for run in (fresh(), through(fresh(), *FORWARD), replace(fresh(), status="rejected"), runner.begin(fresh(), "analyze", NOW)):
        with pytest.raises(PifleetError, match="retry_not_allowed"):
            runner.reopen(run, "", NOW)


def test_rejected_before_and_after_the_change() -> None:
    before = runner.reject(runner.await_approval(through(fresh(), "analyze"), NOW), "bob", NOW)
    assert (before.status, before.reason) == ("rejected", "rejected by bob")
    after = runner.reject(runner.await_approval(through(fresh(), *FORWARD[:-1]), NOW), "bob", NOW)
    assert (after.status, runner.due(after)) == ("running", "rollback")
    assert through(after, "rollback").status == "rolled_back"


def test_cancelled_only_before_anything_changed() -> None:
    assert runner.cancel(runner.await_approval(through(fresh(), "analyze"), NOW), "alice", NOW).status == "cancelled"
    with pytest.raises(PifleetError, match="has changed files"):
        runner.cancel(through(fresh(), "analyze", "patch"), "alice", NOW)


NAMES = ["begin", "finish", "fail", "await", "reject", "expire", "cancel", "interrupt", "reopen", "take", "line_up"]
ACTIONS = st.lists(st.sampled_from(NAMES), max_size=40)


@given(ACTIONS, st.data())
def test_no_sequence_leads_out_of_the_state_machine(actions: list[str], data: st.DataObject) -> None:
    run = fresh()
    for action in actions:
        name = data.draw(st.sampled_from(STEPS))
        does = {
            "begin": lambda r, n: runner.begin(r, n, NOW),
            "finish": lambda r, n: runner.finish(r, n, "", {}, NOW),
            "fail": lambda r, n: runner.fail(r, n, "x", {}, NOW),
            "await": lambda r, _n: runner.await_approval(r, NOW),
            "reject": lambda r, _n: runner.reject(r, "bob", NOW),
            "expire": lambda r, _n: runner.expire(r, NOW),
            "cancel": lambda r, _n: runner.cancel(r, "bob", NOW),
            "interrupt": lambda r, _n: runner.interrupt(r, NOW),
            "reopen": lambda r, n: runner.reopen(r, n, NOW, data.draw(st.sampled_from(["running", "pending"]))),
            "take": lambda r, _n: runner.take(r, NOW),
            "line_up": lambda r, _n: runner.line_up(r, NOW),
        }[action]
        before = run
        try:
            run = does(run, name)
        except PifleetError:
            continue
        assert run.status == before.status or run.status in runner.TRANSITIONS[before.status] or before.status == "pending"
        assert bool(run.ended_at) == (not run.is_open)
        assert sum(step.state == "in_progress" for step in run.steps) <= 1
