# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of releases: created under the environment's lock, taken from phase to phase, read back by any process.

The lock of an environment is its release that is not over: while the run that is at it lives, another one is refused. A run that ended or
was killed leaves a release that says how far it got; the next deploy marks it failed, and ``resume`` goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.chain import Body
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import scrubbed
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import append_event, text_of, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process, is_gone
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Artifact, keep, open_run_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import release_phases, releases, runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import NoLedgerError, Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import executor, history, text
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import (
    PENDING,
    RUNNING,
    Image,
    Phase,
    Plan,
    Release,
    plan_of,
    release_id,
)
from sqlalchemy import Connection, Row, delete, insert, select, update

_AnyRow = Row[tuple[object, ...]]


class Releases:
    """Each method is one durable transaction; what one returned, every process reads. All raise LedgerError where the ledger cannot be
    used."""

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now, gone: Callable[[Process], bool] = is_gone) -> None:
        self._store = store
        self._now = now
        self._gone = gone

    def create(self, process: Process, plan: Plan, rendered: Mapping[str, str]) -> Release:
        """Record a new release of *plan*, and take the environment's lock with it. *rendered*: SHA-256 by project, as far as known.

        Raises PifleetError where another run is at a release of the environment. One whose run is over is marked failed.
        """
        with self._store.write() as db:
            run_id = _run_of(db, process)
            self._take_lock(db, plan.environment, run_id)
            known = _of_environment(db, plan.environment)
            seq = known[-1].seq + 1 if known else 1
            live = history.current(known)
            phases = executor.fresh_phases(plan.skips)
            release = Release(
                id=release_id(plan.environment, seq, plan.version),
                environment=plan.environment,
                seq=seq,
                version=plan.version,
                commit_sha=plan.commit_sha,
                kind=plan.kind,
                status=executor.status_of(phases),
                timestamp=text_of(self._now()),
                previous_id=live.id if live else "",
                target_id=plan.target_id,
                run_id=run_id,
                plan=plan,
                images=plan.images,
                phases=phases,
                rendered=dict(rendered),
            )
            db.execute(insert(releases), _row(release))
            self._write_phases(db, release)
            told = {"version": release.version, "commit": release.commit_sha, "kind": release.kind, "plan": plan.digest}
            self._tell(db, "release.created", release, {**told, "target": release.target_id})
            return release

    def resume(self, process: Process, wanted: str) -> Release:
        """Let the run of *process* go on with a release that did not complete. Raises PifleetError where that cannot be."""
        with self._store.write() as db:
            run_id = _run_of(db, process)
            release = _get(db, wanted)
            self._take_lock(db, release.environment, run_id, mine=wanted)
            newest = _of_environment(db, release.environment)[-1]
            if newest.id != wanted:
                raise PifleetError(f"{newest.id} came after {wanted}, which cannot be resumed any more.", "Deploy, or roll back.")
            reopened = replace(executor.reopen(release, text_of(self._now())), run_id=run_id)
            self._update(db, release, reopened)
            self._tell(db, "release.resumed", reopened, {"phase": executor.next_phase(reopened)})
            return reopened

    def change(self, release_id: str, kind: str, change: executor.Change) -> Release:
        """Apply *change* to the release as it is kept now, record it as an event *kind*, and return the outcome."""
        with self._store.write() as db:
            before, moment = _get(db, release_id), self._now()
            after = change(before, text_of(moment))
            if after != before:
                self._update(db, before, after)
                moved = [p for p, was in zip(after.phases, before.phases, strict=True) if p.status != was.status]
                told = {"status": after.status, "phases": {p.name: p.status for p in moved}}
                told["reason"] = next((p.reason for p in moved if p.reason), "")
                self._tell(db, kind, after, told, [_transcript(db, after, moment)] if after.is_over and not before.is_over else ())
            return after

    def set_rendered(self, release_id: str, rendered: Mapping[str, str]) -> Release:
        """Record the SHA-256 of each rendered project."""
        return self.change(release_id, "release.rendered", lambda release, _now: replace(release, rendered=dict(rendered)))

    def get(self, release_id: str) -> Release:
        """Return one release. Raises PifleetError where there is none of that id."""
        try:
            with self._store.read() as db:
                found = _get(db, release_id)
                judged = self._judged(db, _of_environment(db, found.environment))
                return next(release for release in judged if release.id == release_id)
        except NoLedgerError as error:
            raise _unknown(release_id) from error

    def of_environment(self, environment: str) -> tuple[Release, ...]:
        """Return all releases of an environment, oldest first; none where there is no ledger yet."""
        try:
            with self._store.read() as db:
                return tuple(self._judged(db, _of_environment(db, environment)))
        except NoLedgerError:
            return ()

    def environments(self) -> tuple[str, ...]:
        """Return the names of environments that have releases, in order."""
        try:
            with self._store.read() as db:
                return tuple(sorted(db.execute(select(releases.c.environment).distinct()).scalars()))
        except NoLedgerError:
            return ()

    def _take_lock(self, db: Connection, environment: str, run_id: str, mine: str = "") -> None:
        open_ones = select(releases).where(releases.c.environment == environment, releases.c.status.in_((PENDING, RUNNING)))
        for row in db.execute(open_ones.order_by(releases.c.seq)).all():
            if row.run_id != run_id and (held := self._live_run(db, row.run_id)):
                raise PifleetError(
                    f"The release {row.id} of {environment} is under way: run {row.run_id} of {held.playbook} by {held.requester} on "
                    f"{held.controller}, process {held.pid}.",
                    "Wait for its end. If it was killed meanwhile, run again: the next run sees that. Nothing was recorded.",
                )
            if row.id != mine:
                before = _record(db, row)
                after = executor.interrupt(before, text_of(self._now()))
                self._update(db, before, after)
                self._tell(db, "release.interrupted", after, {"found_by": run_id})

    def _live_run(self, db: Connection, run_id: str) -> _AnyRow | None:
        """The run, where it goes on. One that was killed may not be marked yet: the next run that is opened does that."""
        row: _AnyRow | None = db.execute(select(runs).where(runs.c.id == run_id, runs.c.status == "running")).first()
        return None if row and self._gone(Process(row.controller, row.boot_id, row.pid, row.process_started)) else row

    def _judged(self, db: Connection, found: Sequence[Release]) -> list[Release]:
        """*found*, all of one environment, with what follows from the others and from their runs."""
        live = history.current(found)
        return [
            replace(
                release,
                current=bool(live and release.id == live.id),
                interrupted=not release.is_over and self._live_run(db, release.run_id) is None,
            )
            for release in found
        ]

    def _update(self, db: Connection, before: Release, after: Release) -> None:
        row = _row(after)
        if row != _row(before):
            db.execute(update(releases).where(releases.c.id == after.id).values(row))
        if after.phases != before.phases:
            self._write_phases(db, after)

    def _write_phases(self, db: Connection, release: Release) -> None:
        db.execute(delete(release_phases).where(release_phases.c.release_id == release.id))
        rows = [
            {
                "release_id": release.id,
                "number": number,
                "phase": phase.name,
                "status": phase.status,
                "reason": phase.reason or None,
                "started_at": phase.started_at or None,
                "ended_at": phase.ended_at or None,
                "detail": dict(phase.detail),
            }
            for number, phase in enumerate(release.phases, 1)
        ]
        db.execute(insert(release_phases), rows)

    def _tell(self, db: Connection, kind: str, release: Release, told: Mapping[str, Any], bodies: Sequence[Body] = ()) -> None:
        told = {"release": release.id, "environment": release.environment, **told}
        append_event(db, kind, told, about=[("release", release.id)], run_id=release.run_id, bodies=bodies, now=self._now)


def _transcript(db: Connection, release: Release, moment: datetime) -> Body:
    """Keep what a release that is over did and said with the run that took it there."""
    content = scrubbed(text.transcript(release)).encode()
    made = Artifact.of(f"{release.id}.txt", "text/plain", content, moment)
    return keep(db, release.run_id, made, content, lambda: moment).body


def _run_of(db: Connection, process: Process) -> str:
    run_id = open_run_of(db, process)
    if run_id is None:
        raise PifleetError(
            "No run is open in the ledger, so that a release cannot be recorded.",
            "A playbook begins with run_record state=opened; was that left out by --start-at-task or --skip-tags?",
        )
    return run_id


def _get(db: Connection, wanted: str) -> Release:
    row: _AnyRow | None = db.execute(select(releases).where(releases.c.id == wanted)).first()
    if row is None:
        raise _unknown(wanted)
    return _record(db, row)


def _unknown(wanted: str) -> PifleetError:
    return PifleetError(f"There is no release {wanted}.", "`playbooks/releases.yml` lists those that there are.")


def _of_environment(db: Connection, environment: str) -> list[Release]:
    rows = db.execute(select(releases).where(releases.c.environment == environment).order_by(releases.c.seq)).all()
    return [_record(db, row) for row in rows]


def _row(release: Release) -> dict[str, Any]:
    return {
        "id": release.id,
        "environment": release.environment,
        "seq": release.seq,
        "version": release.version,
        "commit_sha": release.commit_sha,
        "kind": release.kind,
        "status": release.status,
        "previous_id": release.previous_id or None,
        "target_id": release.target_id or None,
        "run_id": release.run_id,
        "plan": release.plan.as_table(),
        "images": [asdict(image) for image in release.images],
        "rendered": dict(release.rendered),
        "created_at": release.timestamp,
        "ended_at": release.ended_at or None,
    }


def _record(db: Connection, row: _AnyRow) -> Release:
    wanted = select(release_phases).where(release_phases.c.release_id == row.id).order_by(release_phases.c.number)
    phases = tuple(
        Phase(r.phase, r.status, r.reason or "", r.started_at or "", r.ended_at or "", r.detail) for r in db.execute(wanted).all()
    )
    return Release(
        id=row.id,
        environment=row.environment,
        seq=row.seq,
        version=row.version,
        commit_sha=row.commit_sha,
        kind=row.kind,
        status=row.status,
        timestamp=row.created_at,
        previous_id=row.previous_id or "",
        target_id=row.target_id or "",
        run_id=row.run_id,
        plan=plan_of(row.plan),
        images=tuple(Image(**image) for image in row.images),
        phases=phases,
        rendered=row.rendered,
        ended_at=row.ended_at or "",
    )
