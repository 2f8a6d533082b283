# SPDX-License-Identifier: GPL-3.0-or-later
"""The one state machine of fix runs: a fix run in, a fix run out. A transition that is not defined here is refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import (
    ANALYZE,
    AWAITING,
    AWAITS,
    CANCELLED,
    EXPIRED,
    FAILED,
    FORWARD,
    GATES,
    GRANTED,
    IN_PROGRESS,
    NOT_REQUIRED,
    OPEN,
    PATCH,
    PENDING,
    REJECTED,
    ROLLBACK,
    ROLLBACK_FAILED,
    ROLLED_BACK,
    RUNNING,
    SKIPPED,
    STEPS,
    SUCCEEDED,
    ActionPlan,
    Approval,
    FixRun,
    Step,
)

#: characters of a message
LONGEST = 2000
#: which status may follow which
TRANSITIONS: Mapping[str, frozenset[str]] = {
    PENDING: frozenset({RUNNING, FAILED, CANCELLED}),
    RUNNING: frozenset({AWAITING, SUCCEEDED, FAILED, ROLLED_BACK, ROLLBACK_FAILED, EXPIRED}),
    AWAITING: frozenset({PENDING, RUNNING, REJECTED, EXPIRED, CANCELLED}),
    FAILED: frozenset({PENDING, RUNNING}),
    ROLLED_BACK: frozenset({PENDING, RUNNING}),
    ROLLBACK_FAILED: frozenset({PENDING, RUNNING}),
    SUCCEEDED: frozenset(),
    REJECTED: frozenset(),
    EXPIRED: frozenset(),
    CANCELLED: frozenset(),
}


def fresh_steps() -> tuple[Step, ...]:
    """Return the steps of a new fix run."""
    return tuple(Step(name) for name in STEPS)


def due(run: FixRun) -> str:
    """Return the step whose turn it is, empty where none is. A step that was begun goes on first."""
    if not run.is_open:
        return ""
    if _went_wrong(run):
        return ROLLBACK if not run.step(ROLLBACK).is_over else ""
    return next((name for name in FORWARD if not run.step(name).is_over), "")


def needs_approval(run: FixRun, name: str) -> bool:
    """Whether the step *name* may only begin with an approval that is not used yet."""
    return run.plan is not None and GATES.get(run.plan.requirement) == name and run.step(name).state == PENDING


def approvals_of(run: FixRun) -> list[Approval]:
    """Return those that permit the plan of *run*, used or not. One that was given ahead for another plan than was made permits nothing."""
    return [a for a in run.approvals if a.decision == "approved" and (not a.is_ahead or a.plan_digest == run.plan_digest)]


def approval_status(run: FixRun, now: str) -> str:
    """Return ``not_required``, ``awaiting``, ``granted`` or ``expired``. *now*: UTC, ISO 8601."""
    if run.plan is None or run.plan.requirement not in GATES:
        return NOT_REQUIRED
    # what is to be done again needs another one than that which was used up
    anew = needs_approval(run, GATES[run.plan.requirement])
    given = [a for a in approvals_of(run) if not (anew and a.used_at)]
    if not given:
        return EXPIRED if run.status == EXPIRED else AWAITS
    return EXPIRED if run.status == EXPIRED or (not given[-1].used_at and given[-1].expires_at <= now) else GRANTED


def usable(run: FixRun, approval: Approval, now: str) -> str:
    """Return why *approval* does not permit the plan of *run*, empty where it does."""
    if approval.decision != "approved":
        return "it rejects the plan"
    if approval.used_at:
        return "it was used already"
    if approval.expires_at <= now:
        return "it has expired"
    if run.plan is None or (approval.fix_run_id, approval.plan_digest) != (run.id, run.plan.digest):
        return "it is for another plan"
    if not approval.is_ahead and approval.diff_sha256 != run.plan.diff_sha256:
        return "it is for another plan"
    return ""


# -- steps ----------------------------------------------------------------------------------------------------------------------------
def begin(run: FixRun, name: str, now: str) -> FixRun:
    """Return *run* with the step begun; one that was begun already goes on. Raises PifleetError for one whose turn it is not."""
    if due(run) != name:
        turn = due(run)
        hint = f"Its turn has {turn}." if turn else f"It is {run.status}."
        raise PifleetError(f"The step {name} of the fix run {run.id} is {run.step(name).state} and cannot begin now.", hint)
    step = run.step(name)
    started = step.started_at if step.state == IN_PROGRESS else now
    return _to(_with(run, replace(step, state=IN_PROGRESS, started_at=started, message="", ended_at="")), RUNNING, now)


def plan(run: FixRun, made: ActionPlan) -> FixRun:
    """Return *run* with what its analysis led to."""
    return replace(run, plan=made)


def note(run: FixRun, name: str, detail: Mapping[str, Any]) -> FixRun:
    """Return *run* with something more known of a step."""
    step = run.step(name)
    return _with(run, replace(step, detail={**step.detail, **detail}))


def finish(run: FixRun, name: str, message: str, detail: Mapping[str, Any], now: str) -> FixRun:
    """Return *run* with the step succeeded, and what follows from that."""
    run = _with(
        run,
        replace(_going_on(run, name), state=SUCCEEDED, message=message[:LONGEST], ended_at=now, detail={**run.step(name).detail, **detail}),
    )
    if name == ROLLBACK:
        return _to(run, ROLLED_BACK, now)
    if name == FORWARD[-1]:
        return _to(_with(run, replace(run.step(ROLLBACK), state=SKIPPED, message="it succeeded")), SUCCEEDED, now)
    return run


def fail(run: FixRun, name: str, message: str, detail: Mapping[str, Any], now: str) -> FixRun:
    """Return *run* with the step failed: over where nothing was touched yet, else with its rollback due."""
    failed = replace(
        _going_on(run, name), state=FAILED, message=message[:LONGEST], ended_at=now, detail={**run.step(name).detail, **detail}
    )
    run = replace(_with(run, failed), reason=run.reason or f"{name}: {message}"[:LONGEST])
    if name == ROLLBACK:
        return _to(run, ROLLBACK_FAILED, now)
    later = [replace(run.step(n), state=SKIPPED, message=f"{name} failed") for n in FORWARD[FORWARD.index(name) + 1 :]]
    run = _with(run, *later)
    if name == ANALYZE:
        return _to(_with(run, replace(run.step(ROLLBACK), state=SKIPPED, message="nothing was changed")), FAILED, now)
    return run


def await_approval(run: FixRun, now: str) -> FixRun:
    """Return *run* waiting for somebody to approve its plan."""
    return _to(run, AWAITING, now)


def reject(run: FixRun, who: str, now: str, then: str = RUNNING) -> FixRun:
    """Return *run* as *who* rejected it: over, or with its rollback due where files were touched already.

    *then*: the status of one whose rollback is due: ``pending`` where that is left to the queue.
    """
    return _refused(run, REJECTED, f"rejected by {who}", now, then)


def expire(run: FixRun, now: str) -> FixRun:
    """Return *run*, whose approval ended before it was used: over, or with its rollback due where files were touched already."""
    return _refused(run, EXPIRED, "its approval has expired", now)


def cancel(run: FixRun, who: str, now: str) -> FixRun:
    """Return *run* as *who* gave it up before it changed anything."""
    if run.step(PATCH).started_at:
        raise PifleetError(f"The fix run {run.id} has changed files already.", "Let it end, or reject it.")
    return _ended(_to(run, CANCELLED, now), f"cancelled by {who}")


def interrupt(run: FixRun, now: str, why: str = "the process that was at it is gone") -> FixRun:
    """Return *run*, whose runner is gone, as what it is: failed where it stood. ``reopen`` goes on with the step that was begun."""
    if run.status == AWAITING:
        return run
    if run.status == PENDING:
        run = _to(run, RUNNING, now)
    return replace(_to(run, FAILED, now), reason=f"interrupted: {why}"[:LONGEST])


def take(run: FixRun, now: str) -> FixRun:
    """Return *run*, which waited in the queue, or whose runner is gone, with somebody at it. Raises PifleetError for any other."""
    if run.status == FAILED and run.interrupted:
        return reopen(run, "", now)
    if run.status != PENDING:
        raise PifleetError(f"The fix run {run.id} is {run.status}: it waits for nobody to take it.", "Look at it: playbooks/fix_runs.yml.")
    return _to(run, RUNNING, now)


def line_up(run: FixRun, now: str) -> FixRun:
    """Return *run*, whose approval was given, as one that waits in the queue."""
    return _to(run, PENDING, now)


def reopen(run: FixRun, from_step: str, now: str, then: str = RUNNING) -> FixRun:
    """Return *run* ready to go on with its first unfinished step, or with *from_step*. Raises PifleetError where that cannot be.

    *then*: its status: ``pending`` where that is left to the queue. What a rollback undid is to be done again. A step that was begun and
    not ended is still begun: whoever does it looks first.
    """
    if run.status not in (FAILED, ROLLED_BACK, ROLLBACK_FAILED):
        raise PifleetError(f"The fix run {run.id} is {run.status}: there is nothing to retry.", "retry_not_allowed")
    if from_step and from_step not in FORWARD:
        raise PifleetError(f"{from_step!r} is no step that a fix run can go on from: {', '.join(FORWARD)}.", "invalid_resume_step")
    redo: tuple[str, ...]
    if run.status == ROLLBACK_FAILED:
        redo = (ROLLBACK,)
    elif run.status == ROLLED_BACK:
        redo = (*FORWARD[FORWARD.index(PATCH) :], ROLLBACK)
    elif _went_wrong(run) and run.step(PATCH).started_at:
        redo = ()  # cut off before, or in, its rollback, which goes on
    else:
        redo = tuple(step.name for step in run.steps if step.state in (FAILED, SKIPPED))
    touched = run.status == FAILED and bool(run.step(PATCH).started_at)
    if from_step == ANALYZE and touched:
        raise PifleetError(
            f"The fix run {run.id} has changed files, which an analysis would take for what was there.", "invalid_resume_step"
        )
    if from_step:
        first = next((name for name in FORWARD if name in redo or not run.step(name).is_over), "")
        if FORWARD.index(from_step) > (FORWARD.index(first) if first else len(FORWARD)) or redo == (ROLLBACK,):
            raise PifleetError(
                f"The fix run {run.id} cannot go on from {from_step}: {first or ROLLBACK} is not done.", "invalid_resume_step"
            )
        redo = tuple({*redo, *FORWARD[FORWARD.index(from_step) :]})
    run = _with(run, *(replace(run.step(name), state=PENDING, message="", started_at="", ended_at="") for name in redo))
    if ANALYZE in redo:
        run = replace(run, plan=None)
    return _to(replace(run, reason="", interrupted=False), then, now)


# -- inside ---------------------------------------------------------------------------------------------------------------------------
def _went_wrong(run: FixRun) -> bool:
    return any(run.step(name).state == FAILED for name in FORWARD if name != ANALYZE)


def _going_on(run: FixRun, name: str) -> Step:
    step = run.step(name)
    if step.state != IN_PROGRESS:
        raise PifleetError(f"The step {name} of the fix run {run.id} is not in progress: it is {step.state}.")
    return step


def _with(run: FixRun, *changed: Step) -> FixRun:
    new = {step.name: step for step in changed}
    return replace(run, steps=tuple(new.get(step.name, step) for step in run.steps))


def _to(run: FixRun, status: str, now: str) -> FixRun:
    if status == run.status:
        return run
    if status not in TRANSITIONS[run.status]:
        raise PifleetError(f"The fix run {run.id} is {run.status} and cannot become {status}.")
    return replace(run, status=status, ended_at="" if status in OPEN else now)


def _refused(run: FixRun, status: str, reason: str, now: str, then: str = RUNNING) -> FixRun:
    if not run.step(PATCH).started_at:
        return _ended(_to(run, status, now), reason)
    name = due(run)
    return replace(_with(_to(run, then, now), replace(run.step(name), state=FAILED, message=reason, ended_at=now)), reason=reason)


def _ended(run: FixRun, reason: str) -> FixRun:
    open_ones = [replace(step, state=SKIPPED, message=reason) for step in run.steps if step.state == PENDING]
    return replace(_with(run, *open_ones), reason=reason)
