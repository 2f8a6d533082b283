# SPDX-License-Identifier: GPL-3.0-or-later
"""The outbox: events and bodies that wait for their delivery to the hub, in tables of the ledger.

An event's own place is the ledger; a row here is a copy that waits. Nothing is lost where a row cannot be queued: the cursor of the chain
stays, and the next time all that is behind it is queued. A row leaves when the hub has acknowledged it, in the transaction that writes the
receipt.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import ATTEMPTS, LEGACY, LIMIT
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import text_of, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import (
    bodies,
    body_upload_queue,
    chains,
    events,
    sync_cursors,
    sync_events,
    sync_quarantine,
    sync_receipts,
    sync_state,
)
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Delete,
    Dialect,
    Insert,
    Integer,
    Select,
    Table,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.compiler import SQLCompiler

#: seconds before a refused row is tried again: the first time, and at most
BACKOFF_SECONDS = (1.0, 300.0)
#: rows and bytes that are read, queued or sent at once
BATCH_ROWS = 500
BATCH_BYTES = 4 << 20

CONFLICT = "another content is queued under this id"

Kind = Literal["event", "body"]
Order = Callable[[ColumnElement[str]], ColumnElement[str]]
Outcome = Literal["stored", "duplicate", "rejected"]


class OutboxFullError(PifleetError):
    """The outbox takes no more rows. What was to be queued stays in the ledger, and is queued when there is room."""

    def __init__(self, depth: int, limit: int) -> None:
        super().__init__(
            f"The outbox is full: it holds {depth} of {limit} rows.",
            "Evidence stays in the ledger and is queued when there is room: see `ansible-playbook playbooks/sync.yml -e mode=status`.",
        )
        self.depth = depth
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Clearance:
    """The preflight's consent to queue rows in *scope*. Only ``gate`` gives it."""

    scope: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row that waits. *key*: id of the event, or hash of the body; *content*: of an event, its canonical bytes, None for a body."""

    key: str
    sha256: str
    content: bytes | None = None
    media_type: str = "application/json"
    size: int = 0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What the hub said of one row."""

    key: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Queued:
    """How many rows were queued. *missing*: bodies that an event names and the ledger does not have."""

    events: int = 0
    bodies: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Depths:
    """What waits in one scope: rows that are or will be tried, dead letters, quarantined rows, and since when the oldest waits."""

    event_count: int
    body_upload_count: int
    dead: int
    quarantined: int
    oldest: str | None


@dataclass(frozen=True, slots=True)
class Stranded:
    """Rows that were queued for another identity than the fleet has: nothing sends them while it has this one."""

    scope: str
    event_count: int
    body_upload_count: int


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """How the delivery of one scope went last. Times are UTC, None for never."""

    last_attempt_at: str | None = None
    last_success_at: str | None = None
    last_error: str | None = None
    refused_token: str | None = None


def backoff(failures: int, jitter: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait after *failures* in a row: 1, doubling to 300, of which at least half, the rest by chance.

    The chance keeps controllers that failed together from coming back together.
    """
    first, most = BACKOFF_SECONDS
    whole = min(most, first * 2.0 ** min(max(failures, 1) - 1, 16))
    return whole / 2 + whole / 2 * jitter()


def insert_ignoring_key(db: Connection, table: Table) -> Insert:
    """Return an INSERT that leaves a row alone whose primary key is taken, and still fails for every other constraint."""
    return _insert_ignoring_key(db.dialect.name, table)


@cache
def _insert_ignoring_key(dialect: str, table: Table) -> Insert:
    statement: Insert = _inserts(dialect)(table).on_conflict_do_nothing(index_elements=list(table.primary_key.columns))
    return statement


@cache
def _grow_depth(dialect: str) -> Insert:
    by = bindparam("by", type_=Integer)
    first = _inserts(dialect)(sync_state).values(scope=bindparam("scope"), depth=case((by < 0, 0), else_=by))
    # rows that somebody else's hand has put there were never counted
    grown = case((sync_state.c.depth + by < 0, 0), else_=sync_state.c.depth + by)
    statement: Insert = first.on_conflict_do_update(index_elements=[sync_state.c.scope], set_={"depth": grown})
    return statement.returning(sync_state.c.depth)


def _inserts(dialect: str) -> Any:
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # with all its drivers: 0.05 s that a ledger in a file has no use for

        return postgresql.insert
    return sqlite.insert


def in_code_order(db: Connection) -> Order:
    """Return what makes a text sort by its characters' codes, as Python and SQLite do: PostgreSQL sorts by its database's language."""
    return (lambda key: key.collate("C")) if db.dialect.name == "postgresql" else (lambda key: key)


def affected(db: Connection, statement: Insert | Delete, values: Sequence[Mapping[str, Any]]) -> int:
    """Execute *statement*, one that stays, for each of *values*, and return how many rows it inserted or deleted together."""
    compiled = _compiled(db.dialect.name, statement, tuple(values[0]))
    order = compiled.positiontup
    parameters = [tuple(row[name] for name in order) for row in values] if order else list(values)
    done: CursorResult[Any] = db.exec_driver_sql(compiled.string, parameters, {"preserve_rowcount": True})
    return done.rowcount


@cache  # to compile a statement, or to look it up in SQLAlchemy's own cache, takes longer than to execute it
def _compiled(dialect: str, statement: Insert | Delete, names: tuple[str, ...]) -> SQLCompiler:
    kind: type[Dialect] = sqlite.dialect
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

        kind = PGDialect_psycopg
    return statement.compile(dialect=kind(), column_keys=list(names))


class Outbox:
    """The queues of one ledger. Each method is one durable transaction, or several that each leave a true state."""

    def __init__(
        self,
        store: Store,
        *,
        limit: int = LIMIT,
        attempts: int = ATTEMPTS,
        now: Callable[[], datetime] = utc_now,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._limit = limit
        self._attempts = attempts
        self._now = now
        self._jitter = jitter

    # queue

    def enqueue(self, clearance: Clearance, event_rows: Sequence[Row], body_rows: Sequence[Row] = ()) -> Queued:
        """Queue rows, all or none, and return how many were new. Raises OutboxFullError."""
        with self._store.write() as db:
            return self._insert(db, clearance.scope, event_rows, body_rows)

    def enqueue_from_ledger(self, clearance: Clearance) -> Queued:
        """Queue every event of this ledger's own chain that never was, in order, and the bodies that it names.

        Raises OutboxFullError when there is no room for the next one; what fitted is queued then.
        """
        total = Queued()
        while True:
            with self._store.write() as db:
                added = self._advance(db, clearance.scope)
            if added is None:
                return total
            total = Queued(total.events + added.events, total.bodies + added.bodies, total.missing + added.missing)

    def _advance(self, db: Connection, scope: str) -> Queued | None:
        """Queue the next batch. Return None where nothing is behind the cursor."""
        # the lock keeps two that queue at once from doing it twice; in SQLite the transaction has the file's
        chain = db.execute(select(chains.c.id).where(chains.c.own).with_for_update()).scalar_one()
        at = db.execute(select(sync_cursors.c.seq).where(sync_cursors.c.chain == chain)).scalar()
        batch = self._next_batch(db, scope, chain, at or 0)
        if batch is None:
            return None
        taken, named, through = batch
        present = set(db.execute(select(bodies.c.sha256).where(bodies.c.sha256.in_(named))).scalars())
        added = self._insert(db, scope, taken, [row for key, row in named.items() if key in present])
        for key in sorted(set(named) - present):
            quarantine(db, scope, "body", key, "the ledger does not have its content", {"sha256": key}, self._now())
        db.execute(insert_ignoring_key(db, sync_cursors), {"chain": chain, "seq": 0})
        db.execute(update(sync_cursors).where(sync_cursors.c.chain == chain).values(seq=through))
        return replace(added, missing=len(set(named) - present))

    def _next_batch(self, db: Connection, scope: str, chain: str, after: int) -> tuple[list[Row], dict[str, Row], int] | None:
        """Return the events after *after* for which there is room, the bodies they name, and the last one's number."""
        wanted = (
            select(events.c.id, events.c.seq, events.c.sha256, events.c.content)
            .where(events.c.chain == chain, events.c.seq > after)
            .order_by(events.c.seq)
            .limit(BATCH_ROWS)
        )
        depth = db.execute(select(sync_state.c.depth).where(sync_state.c.scope == scope)).scalar() or 0
        taken, named, through = list[Row](), dict[str, Row](), None
        for found in _within_bytes(db, wanted):
            fresh = {row.key: row for row in _bodies_of(bytes(found.content)) if row.key not in named}
            if depth + len(taken) + len(named) + 1 + len(fresh) > self._limit:
                if through is None:
                    raise OutboxFullError(depth, self._limit)
                break
            taken.append(Row(found.id, found.sha256, bytes(found.content)))
            named.update(fresh)
            through = found.seq
        return None if through is None else (taken, named, through)

    def _insert(self, db: Connection, scope: str, event_rows: Sequence[Row], body_rows: Sequence[Row]) -> Queued:
        """Insert rows that are not queued yet, and bodies that the hub has not yet. Raises OutboxFullError, which undoes all."""
        moment = text_of(self._now())
        new_events = _insert_events(db, scope, event_rows, self._now()) if event_rows else 0
        new_bodies = _insert_bodies(db, scope, body_rows, moment) if body_rows else 0
        depth = change_depth(db, scope, new_events + new_bodies)
        if depth > self._limit and new_events + new_bodies:
            raise OutboxFullError(depth - new_events - new_bodies, self._limit)
        return Queued(new_events, new_bodies)

    # deliver

    def due_events(self, scope: str, after: str = "") -> list[Row]:
        """Return events to send now, by id after *after*: at most 500, and at most about 4 MB."""
        table = sync_events
        wanted = select(table).where(*self._due(table, scope), table.c.event_id > after).order_by(table.c.event_id).limit(BATCH_ROWS)
        with self._store.read() as db:
            found = _within_bytes(db, wanted)
            return [Row(row.event_id, row.sha256, bytes(row.content), size=len(row.content), attempts=row.attempts) for row in found]

    def due_bodies(self, scope: str, after: str = "") -> list[Row]:
        """Return bodies to send now, by hash after *after*, without their contents."""
        table = body_upload_queue
        wanted = select(table).where(*self._due(table, scope), table.c.sha256 > after).order_by(table.c.sha256).limit(BATCH_ROWS)
        with self._store.read() as db:
            return [Row(row.sha256, row.sha256, None, row.media_type, row.size, row.attempts) for row in db.execute(wanted)]

    def set_aside(self, scope: str, row: Row, reason: str) -> None:
        """Move an event whose bytes in the outbox are damaged into the quarantine."""
        with self._store.write() as db:
            kept = {"event_id": row.key, "sha256": row.sha256, "content": row.content}
            quarantine(db, scope, "event", row.key, reason, kept, self._now())
            change_depth(db, scope, -_remove(db, scope, "event", [row]))

    def original_of(self, row: Row) -> bytes | None:
        """Return what the ledger itself has of an event, where that has the hash that the row was queued with."""
        with self._store.read() as db:
            content = db.execute(select(events.c.content).where(events.c.id == row.key)).scalar()
        return bytes(content) if content is not None and hashlib.sha256(content).hexdigest() == row.sha256 else None

    def content_of(self, sha256: str) -> bytes | None:
        """Return the content of a body, None where the ledger does not have it."""
        with self._store.read() as db:
            content = db.execute(select(bodies.c.content).where(bodies.c.sha256 == sha256)).scalar()
        return None if content is None else bytes(content)

    def _due(self, table: Table, scope: str) -> tuple[ColumnElement[bool], ...]:
        """A time further away than the longest wait was written under another clock: such a row is due."""
        now = self._now()
        later = table.c.next_attempt_at
        furthest = text_of(now + timedelta(seconds=BACKOFF_SECONDS[1]))
        return (table.c.scope == scope, ~table.c.dead, or_(later.is_(None), later <= text_of(now), later > furthest))

    def settle(self, scope: str, kind: Kind, rows: Sequence[Row], results: Iterable[Result]) -> None:
        """Write down what the hub said of *rows*: a receipt in place of a row that it has, a later time or a dead letter for another."""
        said = {result.key: result for result in results}
        done = [row for row in rows if row.key in said and said[row.key].outcome != "rejected"]
        refused = [row for row in rows if row.key in said and said[row.key].outcome == "rejected"]
        moment = text_of(self._now())
        with self._store.write() as db:
            if done:
                receipts = [{"scope": scope, "kind": kind, "key": r.key, "sha256": r.sha256, "acknowledged_at": moment} for r in done]
                affected(db, insert_ignoring_key(db, sync_receipts), receipts)
                change_depth(db, scope, -_remove(db, scope, kind, done))
                db.execute(update(sync_state).where(sync_state.c.scope == scope).values(last_success_at=moment))
            for row in refused:
                self._postpone(db, scope, kind, row, said[row.key].detail)

    def _postpone(self, db: Connection, scope: str, kind: Kind, row: Row, detail: str) -> None:
        table, key = _table_of(kind)
        attempts = row.attempts + 1
        later = self._now() + timedelta(seconds=backoff(attempts, self._jitter))
        db.execute(
            update(table)
            .where(table.c.scope == scope, key == row.key)
            .values(attempts=attempts, dead=attempts >= self._attempts, next_attempt_at=text_of(later), last_error=detail[:500])
        )

    def revive(self, scope: str) -> int:
        """Let dead letters be tried again, and return how many there were."""
        with self._store.write() as db:
            fresh = {"dead": False, "attempts": 0, "next_attempt_at": None}
            return sum(
                db.execute(update(table).where(table.c.scope == scope, table.c.dead).values(fresh)).rowcount
                for table in (sync_events, body_upload_queue)
            )

    # look and note

    def depths(self, scope: str) -> Depths:
        with self._store.read() as db:
            counts = [
                db.execute(
                    select(
                        func.count().filter(~table.c.dead).label("waiting"),
                        func.count().filter(table.c.dead).label("dead"),
                        func.min(table.c.queued_at).label("oldest"),
                    ).where(table.c.scope == scope)
                ).one()
                for table in (sync_events, body_upload_queue)
            ]
            held = db.execute(select(func.count()).select_from(sync_quarantine).where(sync_quarantine.c.scope == scope)).scalar_one()
        oldest = min((c.oldest for c in counts if c.oldest), default=None)
        return Depths(counts[0].waiting, counts[1].waiting, counts[0].dead + counts[1].dead, held, oldest)

    def stranded(self, scope: str) -> tuple[Stranded, ...]:
        """Return what is queued in other scopes than *scope*, by scope; legacy rows are not among it."""
        counts: dict[str, list[int]] = {}
        with self._store.read() as db:
            for index, table in enumerate((sync_events, body_upload_queue)):
                others = select(table.c.scope, func.count()).where(table.c.scope.not_in((scope, LEGACY))).group_by(table.c.scope)
                for other, count in db.execute(others):
                    counts.setdefault(other, [0, 0])[index] = count
        return tuple(Stranded(other, *counts[other]) for other in sorted(counts))

    def unqueued(self) -> int:
        """Return how many events of the ledger were never queued."""
        behind = select(chains.c.seq - func.coalesce(sync_cursors.c.seq, 0)).where(chains.c.own)
        with self._store.read() as db:
            count: int = db.execute(behind.join(sync_cursors, sync_cursors.c.chain == chains.c.id, isouter=True)).scalar_one()
            return count

    def state(self, scope: str) -> DeliveryState:
        with self._store.read() as db:
            return state_of(db, scope)

    def note_success(self, scope: str) -> None:
        """Remember that the hub has taken all that it was sent."""
        moment = text_of(self._now())
        self._note(scope, {"last_attempt_at": moment, "last_success_at": moment, "last_error": None, "refused_token": None})

    def note_failure(self, scope: str, error: str, refused_token: str | None = None) -> None:
        """Remember what went wrong with the hub (free of secrets), and the fingerprint of a token that it refused."""
        refused = {"refused_token": refused_token} if refused_token else {}
        self._note(scope, {"last_attempt_at": text_of(self._now()), "last_error": error[:500], **refused})

    def _note(self, scope: str, values: Mapping[str, str | None]) -> None:
        with self._store.write() as db:
            change_depth(db, scope, 0)
            db.execute(update(sync_state).where(sync_state.c.scope == scope).values(values))

    def recount(self, scope: str) -> int:
        """Count what stands in a scope, correct its depth where another hand has made it wrong, and return it."""
        rows = [select(func.count()).select_from(t).where(t.c.scope == scope).scalar_subquery() for t in (sync_events, body_upload_queue)]
        counted = rows[0] + rows[1]
        known = select(func.coalesce(func.max(sync_state.c.depth), 0)).where(sync_state.c.scope == scope).scalar_subquery()
        with self._store.read() as db:
            count, depth = db.execute(select(counted, known)).one()
        if count != depth:
            with self._store.write() as db:
                count = db.execute(select(counted)).scalar_one()
                change_depth(db, scope, 0)
                db.execute(update(sync_state).where(sync_state.c.scope == scope).values(depth=count))
        return int(count)


def state_of(db: Connection, scope: str) -> DeliveryState:
    """Return how the delivery of *scope* went last."""
    row = db.execute(select(sync_state).where(sync_state.c.scope == scope)).first()
    return DeliveryState(row.last_attempt_at, row.last_success_at, row.last_error, row.refused_token) if row else DeliveryState()


def change_depth(db: Connection, scope: str, by: int) -> int:
    """Keep, and return, the number of rows of a scope, which has to be known at each enqueue without counting them."""
    compiled = _compiled(db.dialect.name, _grow_depth(db.dialect.name), ())
    values: dict[str, str | int] = {**compiled.params, "scope": scope, "by": by}
    order = compiled.positiontup
    depth: int = db.exec_driver_sql(compiled.string, tuple(values[name] for name in order) if order else values).scalar_one()
    return depth


def quarantine(db: Connection, scope: str, kind: Kind, key: str, reason: str, row: Mapping[str, Any], moment: datetime) -> None:
    """Keep a row that cannot be queued, whole, once."""
    plain = {name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in row.items()}
    content = json.dumps({"kind": kind, "reason": reason, "row": plain}, sort_keys=True).encode()
    made = {
        "id": hashlib.sha256(scope.encode() + b"\0" + content).hexdigest(),
        "scope": scope,
        "kind": kind,
        "key": key.replace("\0", "\\0"),
        "reason": reason,
        "content": content,
        "quarantined_at": text_of(moment),
    }
    db.execute(insert_ignoring_key(db, sync_quarantine), made)


def _within_bytes(db: Connection, wanted: Select[Any]) -> Iterator[Any]:
    """Rows of *wanted* with their contents until these are about 4 MB; at least one. They are fetched as they are used."""
    size = 0
    with db.execute(wanted.execution_options(yield_per=50)) as found:
        for row in found:
            if size and size + len(row.content) > BATCH_BYTES:
                return
            size += len(row.content)
            yield row


def _bodies_of(content: bytes) -> list[Row]:
    """Return the bodies that an event names. What is no event names none: it is queued as it is, for the hub to judge."""
    try:
        named = json.loads(content)["bodies"]
        return [Row(b["sha256"], b["sha256"], None, b["media_type"], b["size"]) for b in named]
    except (ValueError, KeyError, TypeError):
        return []


def _insert_events(db: Connection, scope: str, rows: Sequence[Row], moment: datetime) -> int:
    queued_at = text_of(moment)
    values = [{"scope": scope, "event_id": r.key, "sha256": r.sha256, "content": r.content, "queued_at": queued_at} for r in rows]
    new = affected(db, insert_ignoring_key(db, sync_events), values)
    if new < len(rows):
        _keep_conflicts(db, scope, rows, moment)
    return new


def _keep_conflicts(db: Connection, scope: str, rows: Sequence[Row], moment: datetime) -> None:
    """A row whose id is queued with other content is evidence of its own: it is quarantined, not ignored."""
    table = sync_events
    standing = select(table.c.event_id, table.c.sha256).where(table.c.scope == scope, table.c.event_id.in_([r.key for r in rows]))
    queued = {r.event_id: r.sha256 for r in db.execute(standing)}
    for row in rows:
        if queued.get(row.key) != row.sha256:
            quarantine(db, scope, "event", row.key, CONFLICT, {"event_id": row.key, "sha256": row.sha256, "content": row.content}, moment)


def _insert_bodies(db: Connection, scope: str, rows: Sequence[Row], queued_at: str) -> int:
    receipt = sync_receipts.c
    delivered = select(receipt.key).where(receipt.scope == scope, receipt.kind == "body", receipt.key.in_([r.key for r in rows]))
    known = set(db.execute(delivered).scalars())
    values = [
        {"scope": scope, "sha256": r.key, "media_type": r.media_type, "size": r.size, "queued_at": queued_at}
        for r in rows
        if r.key not in known
    ]
    return affected(db, insert_ignoring_key(db, body_upload_queue), values) if values else 0


def _remove(db: Connection, scope: str, kind: Kind, rows: Sequence[Row]) -> int:
    return affected(db, _removal(kind), [{"the_scope": scope, "the_key": r.key, "the_sha256": r.sha256} for r in rows])


@cache
def _removal(kind: Kind) -> Delete:
    """Removes exactly what was sent: a row that changed meanwhile stays."""
    table, key = _table_of(kind)
    return delete(table).where(
        table.c.scope == bindparam("the_scope"), key == bindparam("the_key"), table.c.sha256 == bindparam("the_sha256")
    )


def _table_of(kind: Kind) -> tuple[Table, Column[Any]]:
    return (sync_events, sync_events.c.event_id) if kind == "event" else (body_upload_queue, body_upload_queue.c.sha256)
