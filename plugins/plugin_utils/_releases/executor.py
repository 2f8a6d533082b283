# SPDX-License-Identifier: GPL-3.0-or-later
"""The one executor of phases, of deploy and rollback alike: each in order, exactly once, and recorded before and after.

The first half is pure: a release in, a release out. ``Executor`` keeps each step through its port before the next thing happens. A write
that fails ends the run at once: nothing is done that could not be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import (
    COMPLETED,
    FAILED,
    PENDING,
    PHASES,
    RUNNING,
    SKIPPED,
    Image,
    Phase,
    Release,
)

Change = Callable[[Release, str], Release]

#: characters of a reason
_LONGEST = 2000


class Records(Protocol):
    """Where releases are kept. ``get`` reads one; ``change`` applies a change to the release as it is kept now, with the moment (UTC,
    ISO 8601), in one durable transaction, and returns what any other process reads from then on. Both raise PifleetError, with nothing
    changed."""

    def get(self, release_id: str) -> Release: ...

    def change(self, release_id: str, kind: str, change: Change) -> Release: ...


# -- pure -----------------------------------------------------------------------------------------------------------------------------
def fresh_phases(skips: Mapping[str, str]) -> tuple[Phase, ...]:
    """Return the phases of a new release. *skips*: the reason by phase that does not apply."""
    return tuple(Phase(name, SKIPPED, skips[name]) if name in skips else Phase(name) for name in PHASES)


def status_of(phases: Iterable[Phase]) -> str:
    """Return the status of a release with these phases."""
    found = {phase.status for phase in phases}
    if FAILED in found:
        return FAILED
    if found <= {COMPLETED, SKIPPED}:
        return COMPLETED
    return PENDING if found <= {PENDING, SKIPPED} else RUNNING


def next_phase(release: Release) -> str:
    """Return the first phase that is not over, empty where all are."""
    return next((phase.name for phase in release.phases if not phase.is_over), "")


def begin(release: Release, name: str, now: str) -> Release:
    """Return *release* with the phase begun; one that runs already goes on. Raises PifleetError for one whose turn it is not."""
    phase = release.phase(name)
    if phase.status == RUNNING:
        return release
    if release.is_over or next_phase(release) != name:
        turn = next_phase(release)
        hint = f"Its turn has {turn}." if turn else f"The release is {release.status}."
        raise PifleetError(f"The phase {name} of the release {release.id} is {phase.status} and cannot begin now.", hint)
    return _with(release, now, replace(phase, status=RUNNING, started_at=phase.started_at or now))


def note(release: Release, name: str, detail: Mapping[str, Any], now: str) -> Release:
    """Return *release* with *detail* merged into the phase, which runs."""
    return _with(release, now, _detailed(_running(release, name), detail))


def complete(release: Release, name: str, detail: Mapping[str, Any], now: str) -> Release:
    """Return *release* with the phase completed, which runs."""
    return _with(release, now, replace(_detailed(_running(release, name), detail), status=COMPLETED, ended_at=now))


def fail(release: Release, name: str, reason: str, detail: Mapping[str, Any], now: str) -> Release:
    """Return *release* with the phase failed, and every later one skipped for that."""
    failed = replace(_detailed(release.phase(name), detail), status=FAILED, reason=reason[:_LONGEST], ended_at=now)
    return _with(release, now, failed, *_upstream_failed(release, name))


def fail_all(release: Release, reason: str, now: str) -> Release:
    """Return *release* with every phase failed: its plan turned out to be none."""
    return _with(release, now, *(replace(p, status=FAILED, reason=reason[:_LONGEST], ended_at=now) for p in release.phases))


def interrupt(release: Release, now: str) -> Release:
    """Return *release*, whose run is over, as what it is: failed where it stood."""
    name = next_phase(release)
    return fail(release, name, "interrupted", {}, now) if name else release


def reopen(release: Release, now: str) -> Release:
    """Return *release* ready to go on with its first phase that was not finished. Raises PifleetError where there is none."""
    if release.status == COMPLETED:
        raise PifleetError(f"The release {release.id} is completed: there is nothing to resume.")
    unfinished = [phase for phase in release.phases if phase.status != COMPLETED]
    return _with(release, now, *(_again(phase, release.plan.skips) for phase in unfinished))


def _again(phase: Phase, skips: Mapping[str, str]) -> Phase:
    """*phase* as it was before it began. What is known of it stays."""
    if phase.name in skips:
        return Phase(phase.name, SKIPPED, skips[phase.name])
    return replace(phase, status=PENDING, reason="", ended_at="")


def _upstream_failed(release: Release, name: str) -> list[Phase]:
    reason = f"upstream phase {name} failed"
    return [replace(p, status=SKIPPED, reason=reason) for p in release.phases[PHASES.index(name) + 1 :]]


def _running(release: Release, name: str) -> Phase:
    phase = release.phase(name)
    if phase.status != RUNNING:
        raise PifleetError(f"The phase {name} of the release {release.id} does not run: it is {phase.status}.")
    return phase


def _detailed(phase: Phase, detail: Mapping[str, Any]) -> Phase:
    return replace(phase, detail={**phase.detail, **detail})


def _with(release: Release, now: str, *changed: Phase) -> Release:
    """*release* with *changed* in the place of the phases of the same names, and the status that follows."""
    new = {phase.name: phase for phase in changed}
    phases = tuple(new.get(phase.name, phase) for phase in release.phases)
    status = status_of(phases)
    return replace(release, phases=phases, status=status, ended_at=now if status in (COMPLETED, FAILED) else "")


# -- recorded -------------------------------------------------------------------------------------------------------------------------
class Executor:
    """Takes one release from phase to phase."""

    def __init__(self, records: Records, release_id: str) -> None:
        self._records, self._id = records, release_id

    def begin(self, name: str) -> Release:
        """Record that the phase begins, or goes on."""
        return self._records.change(self._id, "release.phase", lambda release, now: begin(release, name, now))

    def note(self, name: str, detail: Mapping[str, Any]) -> Release:
        """Record what is known of a phase that runs."""
        return self._records.change(self._id, "release.phase", lambda release, now: note(release, name, detail, now))

    def complete(self, name: str, detail: Mapping[str, Any], images: Iterable[Image] = ()) -> Release:
        """Record that the phase succeeded. *images*: those of which it found out more."""
        known = {image.service: image for image in images}

        def change(release: Release, now: str) -> Release:
            release = replace(release, images=tuple(known.get(image.service, image) for image in release.images))
            return complete(release, name, detail, now)

        return self._records.change(self._id, "release.phase", change)

    def fail(self, name: str, reason: str, detail: Mapping[str, Any] | None = None) -> Release:
        """Record that the phase failed, and that the later ones do not run."""
        return self._records.change(self._id, "release.failed", lambda release, now: fail(release, name, reason, detail or {}, now))

    def fail_all(self, reason: str) -> Release:
        """Record that the plan turned out to be none, before any phase."""
        return self._records.change(self._id, "release.failed", lambda release, now: fail_all(release, reason, now))

    def run(self, name: str, work: Callable[[Release], tuple[Mapping[str, Any], Iterable[Image]]]) -> Release:
        """Run a whole phase, unless it is over already. *work* returns its detail, and images of which it found out more.

        Whatever *work* raises is recorded as the phase's failure and raised again. Where another run took the release over meanwhile,
        nothing is recorded: the phase is that run's now.
        """
        release = self._records.get(self._id)
        if release.phase(name).is_over:
            return release
        mine = Executor(_Held(self._records, release.run_id), self._id)
        release = mine.begin(name)
        try:
            detail, images = work(release)
        except Exception as error:
            mine.fail(name, str(error) if isinstance(error, PifleetError) else f"unexpected: {type(error).__name__}: {error}")
            raise
        return mine.complete(name, detail, images)


class _Held:
    """*records*, for as long as the run *run_id* is at the release."""

    def __init__(self, records: Records, run_id: str) -> None:
        self._records, self._run_id = records, run_id

    def get(self, release_id: str) -> Release:
        return self._records.get(release_id)

    def change(self, release_id: str, kind: str, change: Change) -> Release:
        def held(release: Release, now: str) -> Release:
            if release.run_id != self._run_id:
                raise PifleetError(f"The run {release.run_id} took the release {release.id} over from {self._run_id}, which was given up.")
            return change(release, now)

        return self._records.change(release_id, kind, held)
