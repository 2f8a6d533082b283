# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds plans back that need a permission which nobody gave, or whose revision failed a short while ago."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ansible_collections.pifleet.ops.plugins.module_utils._stacks import acknowledgement, model, records
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.acknowledgement import Acknowledgement
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.case import Case
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Settings
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import Clock


class Gate:
    """*given*: permissions by project that are not on the node, because this is a check."""

    def __init__(self, settings: Settings, clock: Clock, given: dict[str, Acknowledgement] | None = None) -> None:
        self._settings, self._clock, self._given = settings, clock, given or {}

    def hold_back(self, cases: Iterable[Case]) -> None:
        """Mark those of *cases* that are not to be carried out now."""
        now = self._clock.now()
        for case in cases:
            permitted = self._permitted(case, now)
            case.waiting = bool(case.plan) and case.policy == model.ACKNOWLEDGE and not permitted
            case.deferred = self._settings.unattended and not permitted and self._failed_lately(case, now)

    def void(self, cases: Iterable[Case]) -> None:
        """Take back permissions of plans that are no longer."""
        now = self._clock.now()
        for case in cases:
            if not case.error and not self._permitted(case, now) and self._load(case):
                acknowledgement.drop(self._settings.state_dir, case.project)

    def begin(self, case: Case) -> None:
        """Mark the permission of this plan as begun: what a failed attempt leaves to be done is still permitted."""
        given = self._load(case)
        if given and not given.begun:
            acknowledgement.save(self._settings.state_dir, case.project, replace(given, begun=True))

    def use_up(self, case: Case) -> None:
        """Take the permission away that an apply used which succeeded."""
        if case.policy == model.ACKNOWLEDGE:
            acknowledgement.drop(self._settings.state_dir, case.project)

    def _load(self, case: Case) -> Acknowledgement | None:
        if case.policy != model.ACKNOWLEDGE:
            return None
        return self._given.get(case.project) or acknowledgement.load(self._settings.state_dir, case.project)

    def _permitted(self, case: Case, now: float) -> bool:
        given = self._load(case) if case.plan else None
        return given is not None and given.permits(case.plan, case.made_of, now)

    def _failed_lately(self, case: Case, now: float) -> bool:
        record = case.record
        return bool(
            record
            and record.failures
            and record.failed_inputs == records.attempted(case, self._settings)
            # later than any backoff: it was noted while the clock was ahead, as one without a battery may be
            and now < record.retry_at <= now + records.LONGEST_BACKOFF
        )
