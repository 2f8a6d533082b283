# SPDX-License-Identifier: GPL-3.0-or-later
"""Permissions for one plan of one stack: a file each, beside what is kept of the stack."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import model, state
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.plan import Plan, Step

SUFFIX = ".acknowledged"
#: what an action that was cut off, or failed, may leave to be done for its target
_LEFT = {
    model.CREATE: {model.CREATE, model.RECREATE, model.START, model.SCALE, model.RENAME},
    model.RECREATE: {model.RECREATE, model.CREATE, model.START, model.SCALE, model.RENAME},
    model.SCALE: {model.SCALE, model.START},
}


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """*plan_digest* of *stack* is permitted by *who* until *expires_at* (seconds since the epoch).

    *inputs*: what the desired state was made of; *steps*: what the plan does. An apply that failed half-way leaves a smaller plan
    behind, which is still the permitted one: of the same desired state, and of nothing else than what these steps leave.
    """

    stack: str
    plan_digest: str
    who: str
    given_at: float
    expires_at: float
    inputs: str
    steps: tuple[Step, ...]
    begun: bool = False

    def permits(self, plan: Plan, inputs: str, now: float) -> bool:
        """Whether *plan* may be carried out."""
        if now >= self.expires_at:
            return False
        if plan.digest == self.plan_digest:
            return True
        return self.begun and inputs == self.inputs and all(any(_leaves(given, step) for given in self.steps) for step in plan.steps)


def _leaves(given: Step, step: Step) -> bool:
    """Whether *given*, once begun, may leave *step* to be done."""
    same = given.target == step.target and given.content in ("", step.content)
    return same and step.kind in _LEFT.get(given.kind, {given.kind})


def load(folder: str, project: str) -> Acknowledgement | None:
    """Return the acknowledgement that is kept for a stack. One that cannot be read permits nothing."""
    try:
        table = json.loads(atomic_file.read_bytes(os.path.join(folder, project + SUFFIX)) or b"null")
        return Acknowledgement(**{**table, "steps": tuple(Step(**step) for step in table["steps"])}) if table else None
    except (ValueError, TypeError, KeyError, OSError):
        return None


def save(folder: str, project: str, given: Acknowledgement) -> None:
    """Keep an acknowledgement. Raises PifleetError where the disk does not take it."""
    state.write(os.path.join(folder, project + SUFFIX), json.dumps(asdict(given)))


def drop(folder: str, project: str) -> None:
    """Take an acknowledgement back: it is used up, or void."""
    try:
        os.unlink(os.path.join(folder, project + SUFFIX))
    except FileNotFoundError:
        return
    atomic_file.fsync_folder(folder)
