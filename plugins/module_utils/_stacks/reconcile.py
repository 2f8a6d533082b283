# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the stacks of a node what the desired state says, and changes nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import acknowledgement, locks, look, model, plan, records, state, status
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.acknowledgement import Acknowledgement
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.case import Case
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.gate import Gate
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Drift, Report, Settings
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import Ports


def reconcile(settings: Settings, ports: Ports, check: bool = False) -> Report:
    """Compare and repair all stacks of *settings*; with *check*, only predict. Raises PifleetError for what concerns all of them."""
    view = look.look(settings, ports, check=check)
    return _carry_out(view, settings, ports, Gate(settings, ports.clock), check=check)


def info(settings: Settings, ports: Ports) -> Report:
    """Return what is known of the stacks, from labels and state. Never changes anything, and never starts Compose."""
    view = look.look(settings, ports, check=True, resolve=False)
    Gate(settings, ports.clock).hold_back(view.cases)
    return Report(_statuses(view.cases, settings), plan.overall([]), view.warnings)


def acknowledge(settings: Settings, ports: Ports, stack: str, plan_digest: str, expires_in: float, who: str, check: bool = False) -> Report:
    """Keep *who*'s permission for one plan of one stack for *expires_in* seconds, reconcile that stack, and return the outcome.

    Raises PifleetError where there is no such stack, nothing to permit, or another plan than that.
    """
    if not who:
        raise PifleetError("Nobody acknowledges this plan.", "The controller says who does: use pifleet.ops.stack_acknowledge.")
    if expires_in <= 0:
        raise PifleetError(f"An acknowledgement cannot end {expires_in:g} seconds from now.", "Give a number of seconds above 0.")
    settings = replace(settings, only=(stack,), unattended=False)
    view = look.look(settings, ports, check=check)
    case = next((case for case in view.cases if case.name == stack), None)
    if case is None:
        raise PifleetError(f"There is no stack {stack} on this node.", "`playbooks/stacks_status.yml` lists those that there are.")
    _refuse(case, plan_digest)
    now = ports.clock.now()
    given = Acknowledgement(stack, plan_digest, who, now, now + expires_in, case.made_of, case.plan.steps)
    if check:
        return _carry_out(view, settings, ports, Gate(settings, ports.clock, {case.project: given}), check=True)
    acknowledgement.save(settings.state_dir, case.project, given)
    ports.log("acknowledged", {"stack": stack, "plan_digest": plan_digest, "by": who, "until": locks.iso(given.expires_at)})
    return _carry_out(view, settings, ports, Gate(settings, ports.clock), check=False)


def _refuse(case: Case, plan_digest: str) -> None:
    """Raise PifleetError for what cannot be acknowledged."""
    if case.error:
        raise PifleetError(f"The stack {case.name} cannot be worked on: {case.error}")
    if case.policy != model.ACKNOWLEDGE:
        raise PifleetError(f"The policy of the stack {case.name} is {case.policy}: there is nothing to acknowledge.")
    if not case.plan:
        raise PifleetError(f"The stack {case.name} has no plan that waits for an acknowledgement.")
    if case.plan.digest != plan_digest:
        what = f"The plan of the stack {case.name} is now {case.plan.digest}, not {plan_digest}."
        raise PifleetError(what, "Look at it, and acknowledge that one.")


def _carry_out(view: look.View, settings: Settings, ports: Ports, gate: Gate, *, check: bool) -> Report:
    """Carry out, or with *check* predict, what was seen to be needed, and return the outcome."""
    if view.engine_missing:
        _predict_without_engine(view.cases, settings, ports.clock.now())
    gate.hold_back(view.cases)
    to_do = [case for case in view.cases if case.to_do]
    digest = plan.overall((case.name, case.plan) for case in to_do)
    if check:
        for case in to_do:
            case.changed = True
    else:
        gate.void(view.cases)
        state.sweep(settings.state_dir, ports.clock.now())
        _work(view.cases, settings, ports, gate)
    stacks = _statuses(view.cases, settings)
    told = {case.name for case in view.cases if case.error or not (check or case.left_alone)}
    failed = tuple(s for s in stacks if s.status == model.FAILED and s.name in told)
    return Report(stacks, digest, view.warnings, failed)


def _work(cases: Sequence[Case], settings: Settings, ports: Ports, gate: Gate) -> None:
    """Work on what needs it, and keep what is new. Where nothing does or is, nothing of what that takes is loaded."""
    needy = [case for case in cases if case.to_do or case.to_verify]
    idle = [case for case in cases if not case.to_do and not case.to_verify]
    news = [case for case in idle if records.kept(case, settings, ports.clock.now()) != case.loaded]
    if not needy and not news:
        return
    from ansible_collections.pifleet.ops.plugins.module_utils._stacks.attempts import Attempts

    attempts = Attempts(settings, ports, gate)
    for case in news:
        attempts.keep(case)
    if needy:
        attempts.make(needy)


def _predict_without_engine(cases: Sequence[Case], settings: Settings, now: float) -> None:
    """On a node whose Docker is yet to come nothing is there. Without Compose it is not known either what a stack says of itself."""
    for case in cases:
        case.in_scope = look.in_scope(case.name, settings)
        # which images it will have is not known
        case.judge(replace(settings, images_coming=True), now)
        if case.stack is None and case.in_scope and not case.error:
            case.drift = (Drift("", model.STACK_MISSING, "Docker is not installed yet"),)
            case.plan = plan.of_missing(case.name, case.inputs)


def _statuses(cases: Sequence[Case], settings: Settings) -> tuple[model.Status, ...]:
    return tuple(
        status.of(case, settings.owner, held=status.is_under_way(case) and locks.is_held(settings.state_dir, case.project))
        for case in cases
    )
