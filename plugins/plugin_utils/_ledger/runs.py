# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of runs: opened, closed, and what they left."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.chain import Body
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.recording import KINDS, Counts, Recording
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.stack_events import Attempt, Told
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import MAX_BODY, add_body, append_event, text_of, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process, is_gone
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import (
    artifacts,
    bodies,
    collected,
    events,
    rebuild_steps,
    rebuilds,
    run_hosts,
    runs,
)
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store
from sqlalchemy import Connection, Row, func, insert, select, update

#: after this a run of another controller is taken for interrupted: nothing here can ask whether its process lives
FOREIGN_PATIENCE = timedelta(hours=24)
OUTCOMES = ("ok", "failed", "unreachable", "not_run")


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a run when it begins. *requester* comes from the controller's login, never from a variable."""

    playbook: str
    revision: str | None
    dirty: bool | None
    host_limit: str | None
    tags: tuple[str, ...]
    skip_tags: tuple[str, ...]
    inventory: tuple[str, ...]
    check_mode: bool
    requester: str
    ansible_version: str
    collection_version: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A run that never ended: its process was killed, or the controller went down."""

    run_id: str
    playbook: str
    requester: str
    started_at: str


@dataclass(frozen=True, slots=True)
class Opened:
    """*fresh*: False where this process had a run open already, which goes on."""

    run_id: str
    interrupted: tuple[Interrupted, ...]
    fresh: bool


@dataclass(frozen=True, slots=True)
class LastRun:
    """How long an earlier run took, in seconds. *steps*: its longer tasks, each with ``play``, ``task`` and ``seconds``."""

    run_id: str
    seconds: float
    steps: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A run as recorded. *hosts*: outcome by host, None while it is open."""

    run_id: str
    status: str
    header: Header
    process: Process
    started_at: str
    ended_at: str | None
    hosts: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One thing that a run left."""

    name: str
    media_type: str
    sha256: str
    size: int
    created_at: str

    @classmethod
    def of(cls, name: str, media_type: str, content: bytes, moment: datetime) -> Artifact:
        """Return what describes *content*. Raises PifleetError for one that is too large."""
        if len(content) > MAX_BODY:
            raise PifleetError(f"The artifact {name} has {len(content) >> 20} MB; the ledger takes {MAX_BODY >> 20}.", "Shorten it.")
        return cls(name, media_type, hashlib.sha256(content).hexdigest(), len(content), text_of(moment))

    @property
    def body(self) -> Body:
        """What an event says of it."""
        return Body(self.name, self.media_type, self.sha256, self.size)


def new_run_id(moment: datetime) -> str:
    """Return an id that sorts by time: UTC to the millisecond, and what tells apart those of the same one."""
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z-{secrets.token_hex(4)}"


class Runs:
    """Each method is one durable transaction. All raise LedgerError where the ledger cannot be used."""

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now, gone: Callable[[Process], bool] = is_gone) -> None:
        self._store = store
        self._now = now
        self._gone = gone

    def open(self, header: Header, process: Process, hosts: Iterable[str]) -> Opened:
        """Record that a run begins, and report (and mark) those before it that never ended.

        In check mode the record that a check ran is all that is written: no hosts, and no mark on other runs.
        """
        with self._store.write() as db:
            mine = open_run_of(db, process)
            if mine is not None:
                return Opened(mine, (), fresh=False)
            moment = self._now()
            run_id = new_run_id(moment)
            interrupted = self._interrupted(db, process)
            for run in () if header.check_mode else interrupted:
                self._end(db, run.run_id, "interrupted", "run.interrupted", {"found_by": run_id})
            row = {
                **asdict(header),
                "id": run_id,
                "status": "checked" if header.check_mode else "running",
                "controller": process.controller,
                "boot_id": process.boot_id,
                "pid": process.pid,
                "process_started": process.started,
                "started_at": text_of(moment),
                "ended_at": text_of(moment) if header.check_mode else None,
            }
            db.execute(insert(runs), row)
            names = [] if header.check_mode else sorted(set(hosts))
            if names:
                db.execute(insert(run_hosts), [{"run_id": run_id, "host": host} for host in names])
            told = {**asdict(header), "controller": process.controller, "hosts": names}
            self._tell(db, run_id, "run.checked" if header.check_mode else "run.opened", told)
            return Opened(run_id, interrupted, fresh=True)

    def close(self, process: Process, outcomes: Mapping[str, str], recorded: Recording | None = None, problem: str = "") -> tuple[str, str]:
        """End this process's open run with an outcome for each of its hosts, and return (run id, status).

        *recorded*: what the callback counted; *problem*: why it is no evidence, with which the run has failed.
        """
        with self._store.write() as db:
            run_id = open_run_of(db, process)
            if run_id is None:
                raise PifleetError(
                    "This run was never opened in the ledger, so there is nothing to close.",
                    "A playbook begins with run_record state=opened; was that left out by --start-at-task or --skip-tags?",
                )
            for host, outcome in sorted(outcomes.items()):
                values = {"outcome": outcome} if recorded is None else _values(outcome, recorded.counts().get(host, Counts()))
                db.execute(update(run_hosts).where(run_hosts.c.run_id == run_id, run_hosts.c.host == host).values(values))
            status = "failed" if problem or any(o in ("failed", "unreachable") for o in outcomes.values()) else "succeeded"
            report = {**self._report(db, run_id, recorded), **({"problem": problem} if problem else {})}
            self._end(db, run_id, status, "run.closed", report)
            return run_id, status

    def finish(self, run_id: str, counts: Mapping[str, Counts], recorded: Recording | None = None) -> str:
        """Compare a run's record with what Ansible counted in the end, and return its status.

        Where they differ, it is corrected; where it was not closed, it is closed.

        A run that is closed only here did not come to its end, so it has failed. Raises LedgerError where the ledger lacks it.
        """
        with self._store.write() as db:
            before = db.execute(select(runs.c.ended_at, runs.c.status).where(runs.c.id == run_id)).first()
            if before is None:
                raise LedgerError(f"The ledger {self._store.name} does not have the run {run_id}: it is another one than at its beginning.")
            told = db.execute(select(run_hosts).where(run_hosts.c.run_id == run_id)).all()
            final = {row.host: counts.get(row.host, Counts()) for row in told}
            differ = {row.host: final[row.host] for row in told if row.ok is None or _counts(row) != final[row.host]}
            for host, counted in sorted(differ.items()):
                values = {**asdict(counted), "outcome": counted.outcome}
                db.execute(update(run_hosts).where(run_hosts.c.run_id == run_id, run_hosts.c.host == host).values(values))
            bad = any(c.outcome in ("failed", "unreachable") for c in counts.values())
            status = "failed" if bad or before.ended_at is None or (before.status == "failed" and not differ) else "succeeded"
            if before.ended_at is None:
                self._end(db, run_id, status, "run.closed", self._report(db, run_id, recorded))
            elif differ or status != before.status:
                db.execute(update(runs).where(runs.c.id == run_id).values(status=status))
                self._tell(db, run_id, "run.amended", {"status": status, "hosts": _hosts(db, run_id)})
            return status

    def attach(self, process: Process, name: str, media_type: str, content: bytes, events: Sequence[Told] = ()) -> Artifact | None:
        """Keep *content* with this process's open run; equal contents are kept once. Return None where no run is open.

        *events*: of what it tells, each of which names it as its body.
        """
        made = Artifact.of(name, media_type, content, self._now())
        with self._store.write() as db:
            run_id = open_run_of(db, process)
            if run_id is None:
                return None
            keep(db, run_id, made, content, self._now)
            for event in events:
                append_event(db, event.kind, event.data, run_id=run_id, host=event.host, bodies=[made.body], now=self._now)
            return made

    def collect(self, process: Process, attempts: Sequence[Attempt]) -> bool:
        """Keep what nodes did by themselves as events of this process's open run, each once for ever. Return False where no run is open."""
        with self._store.write() as db:
            run_id = open_run_of(db, process)
            for attempt in attempts if run_id else ():
                if db.execute(select(collected.c.id).where(collected.c.id == attempt.id)).first() is None:
                    told = attempt.event
                    event = append_event(db, told.kind, told.data, run_id=run_id, host=told.host, now=self._now)
                    db.execute(insert(collected), {"id": attempt.id, "event_id": event.event_id})
            return run_id is not None

    def current(self, process: Process) -> str | None:
        """Return the id of the run that *process* has open; None where it has none, or where there is no ledger yet."""
        try:
            with self._store.read() as db:
                return open_run_of(db, process)
        except LedgerError:
            return None

    def all(self) -> tuple[Run, ...]:
        """Return every run, oldest first."""
        with self._store.read() as db:
            hosts: dict[str, dict[str, str | None]] = {}
            for row in db.execute(select(run_hosts.c.run_id, run_hosts.c.host, run_hosts.c.outcome).order_by(run_hosts.c.host)):
                hosts.setdefault(row.run_id, {})[row.host] = row.outcome
            return tuple(_run(row, hosts.get(row.id, {})) for row in db.execute(select(runs).order_by(runs.c.started_at, runs.c.id)))

    def last_like(self, header: Header) -> LastRun | None:
        """Return how long the newest run took that succeeded with the same playbook, hosts, tags and inventory; None: there is none."""
        wanted = select(runs.c.id, runs.c.tags, runs.c.skip_tags, runs.c.inventory).where(
            runs.c.status == "succeeded", runs.c.playbook == header.playbook, runs.c.host_limit.is_not_distinct_from(header.host_limit)
        )
        same = (header.tags, header.skip_tags, header.inventory)
        with self._store.read() as db:
            newest = db.execute(wanted.order_by(runs.c.started_at.desc(), runs.c.id.desc()).limit(50)).all()
            run_id = next((row.id for row in newest if (tuple(row.tags), tuple(row.skip_tags), tuple(row.inventory)) == same), None)
            closed = select(events.c.content).where(events.c.run_id == run_id, events.c.kind == "run.closed")
            told = db.execute(closed.order_by(events.c.seq.desc())).scalar() if run_id else None
        data = json.loads(bytes(told))["data"] if told is not None else {}
        if run_id is None or data.get("seconds") is None:
            return None
        return LastRun(run_id, data["seconds"], tuple(data.get("steps", ())))

    def counts(self, run_id: str) -> dict[str, Counts]:
        """Return what was counted for each host of a run."""
        with self._store.read() as db:
            rows = db.execute(select(run_hosts).where(run_hosts.c.run_id == run_id).order_by(run_hosts.c.host))
            return {row.host: _counts(row) for row in rows}

    def artifacts(self, run_id: str) -> tuple[tuple[Artifact, bytes], ...]:
        """Return what a run left, in order, with its contents."""
        wanted = select(artifacts, bodies.c.size, bodies.c.content).join(bodies).where(artifacts.c.run_id == run_id)
        with self._store.read() as db:
            rows = db.execute(wanted.order_by(artifacts.c.number)).all()
            return tuple((Artifact(r.name, r.media_type, r.sha256, r.size, r.created_at), bytes(r.content)) for r in rows)

    def _interrupted(self, db: Connection, process: Process) -> tuple[Interrupted, ...]:
        found = []
        for row in db.execute(select(runs).where(runs.c.status == "running").order_by(runs.c.started_at)).all():
            run = _run(row, {})
            foreign = run.process.controller != process.controller
            if self._gone(run.process) or (foreign and run.started_at < text_of(self._now() - FOREIGN_PATIENCE)):
                found.append(Interrupted(run.run_id, run.header.playbook, run.header.requester, run.started_at))
        return tuple(found)

    def _report(self, db: Connection, run_id: str, recorded: Recording | None) -> dict[str, Any]:
        """Return what is told of a run at its end, beside its status, and keep the list of what it changed."""
        if recorded is None:
            return {}
        if recorded.changes:
            content = json.dumps(recorded.changes, indent=1, ensure_ascii=False).encode()
            keep(db, run_id, Artifact.of("changes.json", "application/json", content, self._now()), content, self._now)
        return recorded.report()

    def _end(self, db: Connection, run_id: str, status: str, kind: str, told: Mapping[str, Any]) -> None:
        moment = text_of(self._now())
        db.execute(update(runs).where(runs.c.id == run_id).values(status=status, ended_at=moment))
        _end_rebuilds(db, run_id, moment, self._now, interrupted=status == "interrupted")
        self._tell(db, run_id, kind, {**told, "status": status, "hosts": _hosts(db, run_id)}, _bodies(db, run_id))

    def _tell(self, db: Connection, run_id: str, kind: str, told: Mapping[str, Any], bodies: Sequence[Body] = ()) -> None:
        append_event(db, kind, told, about=[("run", run_id)], run_id=run_id, bodies=bodies, now=self._now)


def open_run_of(db: Connection, process: Process) -> str | None:
    """Return the id of the run that *process* has open."""
    return db.execute(
        select(runs.c.id).where(
            runs.c.status == "running",
            runs.c.controller == process.controller,
            runs.c.boot_id == process.boot_id,
            runs.c.pid == process.pid,
            runs.c.process_started == process.started,
        )
    ).scalar()


def keep(db: Connection, run_id: str, made: Artifact, content: bytes, now: Callable[[], datetime] = utc_now) -> Artifact:
    """Keep *content*, which *made* describes, with a run; equal contents are kept once."""
    body = add_body(db, made.name, made.media_type, content)
    last = db.execute(select(func.max(artifacts.c.number)).where(artifacts.c.run_id == run_id)).scalar()
    described = {key: value for key, value in asdict(made).items() if key != "size"}
    db.execute(insert(artifacts), {**described, "run_id": run_id, "number": (last or 0) + 1})
    append_event(db, "artifact.kept", {"name": made.name}, about=[("run", run_id)], run_id=run_id, bodies=[body], now=now)
    return made


def _bodies(db: Connection, run_id: str) -> list[Body]:
    wanted = select(artifacts.c.name, artifacts.c.media_type, bodies.c.sha256, bodies.c.size).join(bodies)
    rows = db.execute(wanted.where(artifacts.c.run_id == run_id).order_by(artifacts.c.number))
    return [Body(row.name, row.media_type, row.sha256, row.size) for row in rows]


def _hosts(db: Connection, run_id: str) -> dict[str, dict[str, Any]]:
    """Return outcome and counts of the hosts of a run, as an event tells them."""
    rows = db.execute(select(run_hosts).where(run_hosts.c.run_id == run_id)).mappings()
    return {row["host"]: {k: v for k, v in row.items() if k not in ("run_id", "host") and v is not None} for row in rows}


def _values(outcome: str, counted: Counts) -> dict[str, Any]:
    return {**asdict(counted), "outcome": "not_run" if outcome == "ok" and counted == Counts() else outcome}


def _counts(row: Row[Any]) -> Counts:
    return Counts(*(getattr(row, kind) or 0 for kind in KINDS))


def _end_rebuilds(db: Connection, run_id: str, moment: str, now: Callable[[], datetime], *, interrupted: bool) -> None:
    """End the steps that a run leaves open, and their rebuilds, which a later run resumes. When a killed run stopped, nobody knows."""
    left = (rebuild_steps.c.run_id == run_id) & rebuild_steps.c.outcome.is_(None)
    outcome = "interrupted" if interrupted else "failed"
    ids = db.execute(select(rebuild_steps.c.rebuild_id).where(left)).scalars().all()
    db.execute(update(rebuild_steps).where(left).values(outcome=outcome, ended_at=None if interrupted else moment))
    ended = {"status": outcome, "ended_at": None if interrupted else moment}
    db.execute(update(rebuilds).where(rebuilds.c.id.in_(ids), rebuilds.c.status == "running").values(ended))
    hosts = db.execute(select(rebuilds.c.id, rebuilds.c.host).where(rebuilds.c.id.in_(ids)).order_by(rebuilds.c.id)).all()
    for row in hosts:
        append_event(db, f"rebuild.{outcome}", {"rebuild": row.id}, about=[("rebuild", row.id)], run_id=run_id, host=row.host, now=now)


def _run(row: Row[tuple[object, ...]], hosts: dict[str, str | None]) -> Run:
    header = Header(
        playbook=row.playbook,
        revision=row.revision,
        dirty=row.dirty,
        host_limit=row.host_limit,
        tags=tuple(row.tags),
        skip_tags=tuple(row.skip_tags),
        inventory=tuple(row.inventory),
        check_mode=row.check_mode,
        requester=row.requester,
        ansible_version=row.ansible_version,
        collection_version=row.collection_version,
    )
    process = Process(row.controller, row.boot_id, row.pid, row.process_started)
    return Run(row.id, row.status, header, process, row.started_at, row.ended_at, hosts)
