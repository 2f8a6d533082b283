# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of rebuilds: begun or resumed, taken from step to step, finished or given up.

A step begins at the moment in which the one before it ends, and the first one with the run, so that the steps add up to the whole.
What a run leaves open is ended with the run (``runs``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.chain import Body
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import append_event, text_of, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Artifact, keep, new_run_id, open_run_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import rebuild_steps, rebuilds, runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._rebuild_report import STEPS, Attempt, Rebuild, Step, merged, verify
from sqlalchemy import Connection, Row, insert, select, update

#: a rebuild of these goes on with the next run that starts one for its host
OPEN = ("running", "failed", "interrupted")
#: names of nodes (RFC 1123), which become names of files
_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
#: what a report tells of the run of an attempt
_ORIGIN = (runs.c.requester, runs.c.playbook, runs.c.revision, runs.c.dirty, runs.c.collection_version)

_AnyRow = Row[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is rebuilt, and why it has to be. *node*: its name in the cluster's API; *hardware*: in a person's words, may be empty."""

    host: str
    node: str
    role: str
    reasons: tuple[str, ...]
    hardware: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """*attempt* counts from 1; *details*: what earlier attempts knew of each step."""

    rebuild_id: str
    attempt: int
    resumed: bool
    details: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A rebuild that the next run resumes or gives up. *run_id*: of its last attempt, which began at *began_at* and came to *last_step*."""

    rebuild_id: str
    host: str
    node: str
    status: str
    reasons: tuple[str, ...]
    last_step: str
    run_id: str
    began_at: str = ""


class Rebuilds:
    """Each method is one durable transaction. All raise LedgerError where the ledger cannot be used."""

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._now = now

    def start(self, process: Process, subject: Subject, detail: Mapping[str, Any]) -> Started:
        """Begin a rebuild of the subject's host in this process's open run, or resume the one that did not succeed.

        Called again in the same run it goes on with the same attempt, and merges *detail*. Raises PifleetError where another run is at it.
        """
        _check(subject)
        with self._store.write() as db:
            run_id = _run_of(db, process)
            row = _open_of_host(db, subject.host, _inventory_of(db, run_id))
            if row is None:
                return self._begin(db, run_id, subject, detail)
            record = _record(db, row)
            earlier = tuple(a for a in record.attempts if a.run_id != run_id)
            if len(earlier) < len(record.attempts):
                self._merge(db, row.id, record.attempts[-1].steps[-1], detail)
                self._tell(db, "rebuild.noted", row.id, run_id, subject.host, {"step": record.attempts[-1].steps[-1].step})
            else:
                _refuse_two_at_once(db, record, subject.host)
                _resume(db, record, subject)
                number = max((s.number for a in earlier for s in a.steps), default=0) + 1
                self._insert(db, row.id, number, run_id, STEPS[0], _began(db, run_id), detail)
                self._tell(db, "rebuild.started", row.id, run_id, subject.host, _told(subject, len(earlier) + 1))
            return Started(row.id, len(earlier) + 1, bool(earlier), merged(earlier))

    def step(self, process: Process, host: str, name: str, detail: Mapping[str, Any]) -> str:
        """End the current step of this run and begin *name* at the same moment; merge *detail* into it. Return the rebuild's id.

        Where *name* is the current step, *detail* is merged and nothing else. Raises PifleetError for a step that is over.
        """
        with self._store.write() as db:
            rebuild_id, run_id, current = _current(db, process, host)
            if name == current.step:
                self._merge(db, rebuild_id, current, detail)
                self._tell(db, "rebuild.noted", rebuild_id, run_id, host, {"step": name})
                return rebuild_id
            if STEPS.index(name) < STEPS.index(current.step):
                raise PifleetError(
                    f"The rebuild of {host} is at the step {current.step}; it cannot go back to {name} in the same run.",
                    f"The order is {', '.join(STEPS)}.",
                )
            moment = self._end(db, rebuild_id, current)
            self._insert(db, rebuild_id, current.number + 1, run_id, name, moment, detail)
            self._tell(db, "rebuild.step", rebuild_id, run_id, host, {"step": name, "after": current.step})
            return rebuild_id

    def note(self, process: Process, host: str, detail: Mapping[str, Any], name: str | None = None) -> tuple[str, str]:
        """Merge *detail* into the step *name* of this run, by default the current one, and return (rebuild id, step).

        Raises PifleetError for a step that this run has not begun.
        """
        with self._store.write() as db:
            rebuild_id, run_id, current = _current(db, process, host)
            mine = [s for a in _record_of(db, rebuild_id).attempts if a.run_id == run_id for s in a.steps]
            step = current if name is None else next((s for s in mine if s.step == name), None)
            if step is None:
                raise PifleetError(f"The rebuild of {host} has not come to {name} in this run.", f"The order is {', '.join(STEPS)}.")
            self._merge(db, rebuild_id, step, detail)
            self._tell(db, "rebuild.noted", rebuild_id, run_id, host, {"step": step.step})
            return rebuild_id, step.step

    def finish(
        self,
        process: Process,
        host: str,
        detail: Mapping[str, Any],
        budget_minutes: float | None,
        publish: Callable[[Rebuild], Sequence[tuple[str, str, bytes]]],
    ) -> Rebuild:
        """End the last step and the rebuild, which has succeeded, and keep what *publish* makes of the record with the run.

        *publish* returns (name, media type, content) of each artifact. It is called before the commit: where it fails, or where the record
        is not whole, the rebuild stays open. Raises PifleetError.
        """
        with self._store.write() as db:
            rebuild_id, run_id, current = _current(db, process, host)
            self._merge(db, rebuild_id, current, detail)
            moment = self._end(db, rebuild_id, current)
            ended = {"status": "succeeded", "ended_at": moment, "budget_minutes": budget_minutes}
            db.execute(update(rebuilds).where(rebuilds.c.id == rebuild_id).values(ended))
            record = _record_of(db, rebuild_id)
            findings = verify(record)
            if findings:
                raise PifleetError(
                    f"The record of the rebuild of {host} is not whole: {'; '.join(findings)}.",
                    "The node may be back, but there is no evidence of it; the rebuild stays open. Run again without --start-at-task.",
                )
            kept = [
                keep(db, run_id, Artifact.of(name, media_type, content, self._now()), content, self._now)
                for name, media_type, content in publish(record)
            ]
            told = {"node": record.node, "seconds": record.seconds, "within_budget": record.within_budget}
            self._tell(db, "rebuild.succeeded", rebuild_id, run_id, host, told, [a.body for a in kept])
            return record

    def abandon(self, process: Process, host: str) -> str | None:
        """Give up the open rebuild of *host*, and return its id; None where there is none."""
        with self._store.write() as db:
            run_id = _run_of(db, process)
            row = _open_of_host(db, host, _inventory_of(db, run_id))
            if row is None:
                return None
            record = _record(db, row)
            for step in (s for a in record.attempts if a.run_id == run_id for s in a.steps if s.outcome is None):
                self._end(db, row.id, step, "failed")
            _refuse_two_at_once(db, record, host, mine=run_id)
            db.execute(update(rebuilds).where(rebuilds.c.id == row.id).values(status="abandoned", ended_at=text_of(self._now())))
            self._tell(db, "rebuild.abandoned", row.id, run_id, host, {})
            return str(row.id)

    def get(self, rebuild_id: str) -> Rebuild:
        """Return one rebuild. Raises LedgerError where there is none of that id."""
        with self._store.read() as db:
            return _record_of(db, rebuild_id)

    def of_host(self, host: str) -> tuple[Rebuild, ...]:
        """Return every rebuild of *host*, oldest first."""
        wanted = select(rebuilds).where(rebuilds.c.host == host).order_by(rebuilds.c.started_at, rebuilds.c.id)
        with self._store.read() as db:
            return tuple(_record(db, row) for row in db.execute(wanted).all())

    def known(self, host: str, inventory: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what the attempts of the open rebuild of *host* knew of each step; nothing where there is none, or no ledger yet."""
        try:
            with self._store.read() as db:
                row = _open_of_host(db, host, inventory)
                return {} if row is None else merged(_record(db, row).attempts)
        except LedgerError:
            return {}

    def unfinished(self, inventory: Sequence[str]) -> tuple[Unfinished, ...]:
        """Return the rebuilds of an inventory's hosts that neither succeeded nor were given up, by host."""
        wanted = select(rebuilds).where(rebuilds.c.status.in_(OPEN)).order_by(rebuilds.c.host, rebuilds.c.started_at)
        with self._store.read() as db:
            return tuple(_unfinished(db, row) for row in db.execute(wanted).all() if _is_of(db, row, inventory))

    def _begin(self, db: Connection, run_id: str, subject: Subject, detail: Mapping[str, Any]) -> Started:
        began = _began(db, run_id)
        rebuild_id = new_run_id(self._now())
        row = {
            "id": rebuild_id,
            "host": subject.host,
            "node": subject.node,
            "role": subject.role,
            "hardware": subject.hardware,
            "status": "running",
            "reasons": list(subject.reasons),
            "started_at": began,
        }
        db.execute(insert(rebuilds), row)
        self._insert(db, rebuild_id, 1, run_id, STEPS[0], began, detail)
        self._tell(db, "rebuild.started", rebuild_id, run_id, subject.host, _told(subject, 1))
        return Started(rebuild_id, 1, False, {})

    def _insert(
        self, db: Connection, rebuild_id: str, number: int, run_id: str, step: str, started_at: str, detail: Mapping[str, Any]
    ) -> None:
        row = {"rebuild_id": rebuild_id, "number": number, "run_id": run_id, "step": step, "started_at": started_at}
        db.execute(insert(rebuild_steps), {**row, "detail": dict(detail)})

    def _tell(
        self, db: Connection, kind: str, rebuild_id: str, run_id: str, host: str, told: Mapping[str, Any], bodies: Sequence[Body] = ()
    ) -> None:
        told = {"rebuild": rebuild_id, **told}
        append_event(db, kind, told, about=[("rebuild", rebuild_id)], run_id=run_id, host=host, bodies=bodies, now=self._now)

    def _end(self, db: Connection, rebuild_id: str, step: Step, outcome: str = "ok") -> str:
        """End *step*, and return when. A clock that was set back meanwhile makes it short, never negative."""
        moment = max(text_of(self._now()), step.started_at)
        db.execute(update(rebuild_steps).where(_is(rebuild_id, step)).values(ended_at=moment, outcome=outcome))
        return moment

    def _merge(self, db: Connection, rebuild_id: str, step: Step, detail: Mapping[str, Any]) -> None:
        if detail:
            db.execute(update(rebuild_steps).where(_is(rebuild_id, step)).values(detail={**step.detail, **detail}))


def _told(subject: Subject, attempt: int) -> dict[str, Any]:
    return {"node": subject.node, "role": subject.role, "reasons": list(subject.reasons), "attempt": attempt}


def _is(rebuild_id: str, step: Step) -> Any:
    return (rebuild_steps.c.rebuild_id == rebuild_id) & (rebuild_steps.c.number == step.number)


def _check(subject: Subject) -> None:
    if not _NODE.fullmatch(subject.node):
        raise PifleetError(f"{subject.node!r} of {subject.host} is no name of a node.", "Give the name that `kubectl get nodes` shows.")
    if not [reason for reason in subject.reasons if reason.strip()]:
        raise PifleetError(f"The rebuild of {subject.host} has no reason.", "Give what was found wrong with the node in `reasons`.")


def _run_of(db: Connection, process: Process) -> str:
    run_id = open_run_of(db, process)
    if run_id is None:
        raise PifleetError(
            "No run is open in the ledger, so that a rebuild cannot be recorded.",
            "A playbook begins with run_record state=opened; was that left out by --start-at-task or --skip-tags?",
        )
    return run_id


def _began(db: Connection, run_id: str) -> str:
    return str(db.execute(select(runs.c.started_at).where(runs.c.id == run_id)).scalar_one())


def _open_of_host(db: Connection, host: str, inventory: Sequence[str]) -> _AnyRow | None:
    wanted = select(rebuilds).where(rebuilds.c.host == host, rebuilds.c.status.in_(OPEN))
    found = db.execute(wanted.order_by(rebuilds.c.started_at.desc())).all()
    return next((row for row in found if _is_of(db, row, inventory)), None)


def _is_of(db: Connection, row: _AnyRow, inventory: Sequence[str]) -> bool:
    """Whether a rebuild is of a host of *inventory*: fleets that share a ledger may have hosts of the same names.

    One that has no step left, by which its run is known, is taken for that.
    """
    last = select(runs.c.inventory).join(rebuild_steps, rebuild_steps.c.run_id == runs.c.id)
    of = db.execute(last.where(rebuild_steps.c.rebuild_id == row.id).order_by(rebuild_steps.c.number.desc())).first()
    return of is None or list(of.inventory) == list(inventory)


def _inventory_of(db: Connection, run_id: str) -> list[str]:
    return list(db.execute(select(runs.c.inventory).where(runs.c.id == run_id)).scalar_one())


def _current(db: Connection, process: Process, host: str) -> tuple[str, str, Step]:
    """Return (rebuild id, run id, the step that goes on) of *host* in this process's run."""
    run_id = _run_of(db, process)
    row = _open_of_host(db, host, _inventory_of(db, run_id))
    attempts = _record(db, row).attempts if row is not None else ()
    going_on = [step for attempt in attempts if attempt.run_id == run_id for step in attempt.steps if step.outcome is None]
    if row is None or not going_on:
        raise PifleetError(f"No rebuild of {host} was started in this run.", "rebuild_record state=started comes before its steps.")
    return str(row.id), run_id, going_on[-1]


def _refuse_two_at_once(db: Connection, record: Rebuild, host: str, mine: str | None = None) -> None:
    for last in (a for a in record.attempts[-1:] if a.run_id != mine):
        if db.execute(select(runs.c.status).where(runs.c.id == last.run_id)).scalar() != "running":
            continue
        raise PifleetError(
            f"The run {last.run_id} of {last.playbook} by {last.requester} is rebuilding {host} at this moment.",
            "Wait for its end. If it was killed meanwhile, run again: the next run sees that and resumes it.",
        )


def _resume(db: Connection, record: Rebuild, subject: Subject) -> None:
    values = {
        "status": "running",
        "ended_at": None,
        "node": subject.node,
        "role": subject.role,
        "hardware": subject.hardware or record.hardware,
        "reasons": list(dict.fromkeys((*record.reasons, *subject.reasons))),
    }
    db.execute(update(rebuilds).where(rebuilds.c.id == record.rebuild_id).values(values))


def _unfinished(db: Connection, row: _AnyRow) -> Unfinished:
    last = _record(db, row).attempts[-1:]
    step, run_id, began_at = (last[0].steps[-1].step, last[0].run_id, last[0].started_at) if last else ("", "", "")
    return Unfinished(row.id, row.host, row.node, row.status, tuple(row.reasons), step, run_id, began_at)


def _record_of(db: Connection, rebuild_id: str) -> Rebuild:
    row: _AnyRow | None = db.execute(select(rebuilds).where(rebuilds.c.id == rebuild_id)).first()
    if row is None:
        raise LedgerError(f"There is no rebuild {rebuild_id!r} in the ledger.", "`Rebuilds.of_host` lists those of a host.")
    return _record(db, row)


def _record(db: Connection, row: _AnyRow) -> Rebuild:
    wanted = select(rebuild_steps, runs.c.started_at.label("run_started_at"), *_ORIGIN).join(runs)
    found = db.execute(wanted.where(rebuild_steps.c.rebuild_id == row.id).order_by(rebuild_steps.c.number)).all()
    attempts = tuple(_attempt(list(rows)) for _run_id, rows in groupby(found, key=lambda r: r.run_id))
    return Rebuild(
        rebuild_id=row.id,
        host=row.host,
        node=row.node,
        role=row.role,
        hardware=row.hardware,
        status=row.status,
        reasons=tuple(row.reasons),
        budget_minutes=row.budget_minutes,
        started_at=row.started_at,
        ended_at=row.ended_at,
        attempts=attempts,
    )


def _attempt(rows: Sequence[Row[Any]]) -> Attempt:
    first = rows[0]
    return Attempt(
        run_id=first.run_id,
        requester=first.requester,
        playbook=first.playbook,
        revision=first.revision,
        dirty=first.dirty,
        collection_version=first.collection_version,
        started_at=first.run_started_at,
        steps=tuple(Step(r.number, r.step, r.started_at, r.ended_at, r.outcome, r.detail) for r in rows),
    )
