# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of runs: opened, closed, and what they left."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process, is_gone
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import artifacts, bodies, rebuild_steps, rebuilds, run_hosts, runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from sqlalchemy import Connection, Row, func, insert, select, update

#: bytes of one artifact; more belongs into a file of its own
MAX_BODY = 32 << 20
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
class Counts:
    """How many task results of each kind a host had."""

    ok: int = 0
    changed: int = 0
    failed: int = 0
    unreachable: int = 0
    skipped: int = 0
    rescued: int = 0
    ignored: int = 0

    @property
    def outcome(self) -> str:
        if self.unreachable:
            return "unreachable"
        if self.failed:
            return "failed"
        return "ok" if any((self.ok, self.changed, self.skipped, self.rescued, self.ignored)) else "not_run"


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


def utc_now() -> datetime:
    return datetime.now(tz=timezone.utc)


def text_of(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


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

        In check mode the one row is all that is written: no hosts, and no mark on other runs.
        """
        with self._store.write() as db:
            mine = open_run_of(db, process)
            if mine is not None:
                return Opened(mine, (), fresh=False)
            interrupted = self._interrupted(db, process, mark=not header.check_mode)
            moment = self._now()
            run_id = new_run_id(moment)
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
            rows = [] if header.check_mode else [{"run_id": run_id, "host": host} for host in sorted(set(hosts))]
            if rows:
                db.execute(insert(run_hosts), rows)
            return Opened(run_id, interrupted, fresh=True)

    def close(self, process: Process, outcomes: Mapping[str, str]) -> tuple[str, str]:
        """End this process's open run with an outcome for each of its hosts, and return (run id, status)."""
        with self._store.write() as db:
            run_id = open_run_of(db, process)
            if run_id is None:
                raise PifleetError(
                    "This run was never opened in the ledger, so there is nothing to close.",
                    "A playbook begins with run_record state=opened; was that left out by --start-at-task or --skip-tags?",
                )
            for host, outcome in sorted(outcomes.items()):
                db.execute(update(run_hosts).where(run_hosts.c.run_id == run_id, run_hosts.c.host == host).values(outcome=outcome))
            status = "failed" if any(o in ("failed", "unreachable") for o in outcomes.values()) else "succeeded"
            self._end(db, run_id, status)
            return run_id, status

    def finish(self, run_id: str, counts: Mapping[str, Counts]) -> str:
        """Fill in the counts of a run's hosts as Ansible had them in the end, and close it where that did not happen. Return the status.

        A run that is closed only here did not come to its end, so it has failed.
        """
        with self._store.write() as db:
            ended = db.execute(select(runs.c.ended_at).where(runs.c.id == run_id)).scalar_one()
            for host in db.execute(select(run_hosts.c.host).where(run_hosts.c.run_id == run_id)).scalars().all():
                counted = counts.get(host, Counts())
                values = {**asdict(counted), "outcome": counted.outcome}
                db.execute(update(run_hosts).where(run_hosts.c.run_id == run_id, run_hosts.c.host == host).values(values))
            bad = any(c.outcome in ("failed", "unreachable") for c in counts.values())
            status = "failed" if bad or ended is None else "succeeded"
            if ended is None:
                self._end(db, run_id, status)
            else:
                db.execute(update(runs).where(runs.c.id == run_id).values(status=status))
            return status

    def attach(self, process: Process, name: str, media_type: str, content: bytes) -> Artifact | None:
        """Keep *content* with this process's open run; equal contents are kept once. Return None where no run is open."""
        made = Artifact.of(name, media_type, content, self._now())
        with self._store.write() as db:
            run_id = open_run_of(db, process)
            if run_id is None:
                return None
            return keep(db, run_id, made, content)

    def all(self) -> tuple[Run, ...]:
        """Return every run, oldest first."""
        with self._store.read() as db:
            hosts: dict[str, dict[str, str | None]] = {}
            for row in db.execute(select(run_hosts.c.run_id, run_hosts.c.host, run_hosts.c.outcome).order_by(run_hosts.c.host)):
                hosts.setdefault(row.run_id, {})[row.host] = row.outcome
            return tuple(_run(row, hosts.get(row.id, {})) for row in db.execute(select(runs).order_by(runs.c.started_at, runs.c.id)))

    def counts(self, run_id: str) -> dict[str, Counts]:
        """Return what was counted for each host of a run."""
        fields = tuple(Counts.__dataclass_fields__)
        with self._store.read() as db:
            rows = db.execute(select(run_hosts).where(run_hosts.c.run_id == run_id).order_by(run_hosts.c.host))
            return {row.host: Counts(*(getattr(row, f) or 0 for f in fields)) for row in rows}

    def artifacts(self, run_id: str) -> tuple[tuple[Artifact, bytes], ...]:
        """Return what a run left, in order, with its contents."""
        wanted = select(artifacts, bodies.c.size, bodies.c.content).join(bodies).where(artifacts.c.run_id == run_id)
        with self._store.read() as db:
            rows = db.execute(wanted.order_by(artifacts.c.number)).all()
            return tuple((Artifact(r.name, r.media_type, r.sha256, r.size, r.created_at), bytes(r.content)) for r in rows)

    def _interrupted(self, db: Connection, process: Process, *, mark: bool) -> tuple[Interrupted, ...]:
        found = []
        for row in db.execute(select(runs).where(runs.c.status == "running").order_by(runs.c.started_at)).all():
            run = _run(row, {})
            foreign = run.process.controller != process.controller
            if self._gone(run.process) or (foreign and run.started_at < text_of(self._now() - FOREIGN_PATIENCE)):
                found.append(Interrupted(run.run_id, run.header.playbook, run.header.requester, run.started_at))
                if mark:
                    self._end(db, run.run_id, "interrupted")
        return tuple(found)

    def _end(self, db: Connection, run_id: str, status: str) -> None:
        moment = text_of(self._now())
        db.execute(update(runs).where(runs.c.id == run_id).values(status=status, ended_at=moment))
        _end_rebuilds(db, run_id, moment, interrupted=status == "interrupted")


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


def keep(db: Connection, run_id: str, made: Artifact, content: bytes) -> Artifact:
    """Keep *content*, which *made* describes, with a run; equal contents are kept once."""
    if db.execute(select(bodies.c.sha256).where(bodies.c.sha256 == made.sha256)).first() is None:
        db.execute(insert(bodies), {"sha256": made.sha256, "size": made.size, "content": content})
    last = db.execute(select(func.max(artifacts.c.number)).where(artifacts.c.run_id == run_id)).scalar()
    described = {key: value for key, value in asdict(made).items() if key != "size"}
    db.execute(insert(artifacts), {**described, "run_id": run_id, "number": (last or 0) + 1})
    return made


def _end_rebuilds(db: Connection, run_id: str, moment: str, *, interrupted: bool) -> None:
    """End the steps that a run leaves open, and their rebuilds, which a later run resumes. When a killed run stopped, nobody knows."""
    left = (rebuild_steps.c.run_id == run_id) & rebuild_steps.c.outcome.is_(None)
    outcome = "interrupted" if interrupted else "failed"
    ids = db.execute(select(rebuild_steps.c.rebuild_id).where(left)).scalars().all()
    db.execute(update(rebuild_steps).where(left).values(outcome=outcome, ended_at=None if interrupted else moment))
    ended = {"status": outcome, "ended_at": None if interrupted else moment}
    db.execute(update(rebuilds).where(rebuilds.c.id.in_(ids), rebuilds.c.status == "running").values(ended))


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
