# SPDX-License-Identifier: GPL-3.0-or-later
"""Row-level migration: rows that were queued before the fleet had an identity, or for its hub before, become its own.

A batch is inserted where it belongs, ignoring only rows whose key is taken there; then exactly those rows are deleted whose bytes now stand
in the target, or were acknowledged by the hub already. What is left of the batch conflicts with other content or breaks a constraint: it is
kept whole in ``sync_quarantine``. Within one database all of that is one transaction; between two the target commits before the source
deletes. Killed anywhere and repeated, no row is lost and none is there twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import LEGACY, Identity
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import (
    BATCH_BYTES,
    BATCH_ROWS,
    CONFLICT,
    Kind,
    Outbox,
    affected,
    change_depth,
    insert_ignoring_key,
    quarantine,
)
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import text_of, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import bodies, body_upload_queue, sync_events, sync_receipts
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import NoLedgerError, Store
from sqlalchemy import Column, ColumnElement, Connection, Delete, RowMapping, Table, bindparam, delete, func, select, type_coerce
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.types import NullType

#: what a database says of a row that it does not take, and not of itself
_REFUSALS = (IntegrityError, DataError)


@dataclass(frozen=True, slots=True)
class LegacyRows:
    """How many legacy rows wait: events, bodies, both."""

    event_rows: int
    body_upload_rows: int

    @property
    def total_rows(self) -> int:
        return self.event_rows + self.body_upload_rows


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did with the rows it found: *taken*: theirs stand in the scope now, or did already, or were acknowledged."""

    taken: LegacyRows
    quarantined: LegacyRows


@dataclass(frozen=True, slots=True)
class _Queue:
    """One of the two tables: its key, and the columns that hold what is delivered."""

    kind: Kind
    table: Table
    key: Column[Any]
    content: tuple[str, ...]

    def standing(self, scope: str) -> Any:
        # as they are: a legacy row may hold what its column does not promise
        raw = (_raw(self.table.c[name]).label(name) for name in (*self.content, "queued_at"))
        return select(_raw(self.key).label("key"), *raw).where(self.table.c.scope == scope)


_QUEUES = (
    _Queue("event", sync_events, sync_events.c.event_id, ("sha256", "content")),
    _Queue("body", body_upload_queue, body_upload_queue.c.sha256, ("sha256", "media_type", "size")),
)


class Migration:
    """Takes legacy rows of *target* itself, and of *source*, another ledger that the fleet had before, into the scope of an identity."""

    def __init__(
        self, target: Store, source: Store | None = None, *, batch: int = BATCH_ROWS, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._target = target
        self._source = source
        self._batch = batch
        self._now = now

    def detect_legacy_rows(self, identity: Identity) -> LegacyRows:
        """Return the rows that a migration would take into the identity's scope. Rows of other identities are none of them."""
        counts = [_count(store, scopes) for store, scopes in self._places(identity)]
        return LegacyRows(*(sum(count[index] for count in counts) for index in (0, 1)))

    def standing(self) -> LegacyRows:
        """Return all rows of the legacy queue, whoever they belong to."""
        counts = [_count(self._target, (LEGACY,)), *([_count(self._source, None)] if self._source else [])]
        return LegacyRows(*(sum(count[index] for count in counts) for index in (0, 1)))

    def run(self, identity: Identity) -> Migrated:
        """Take over what there is. Raises LedgerError; what was done until then stays done, and the next run goes on."""
        return self._take_over(self._places(identity), identity)

    def adopt(self, identity: Identity) -> Migrated:
        """Take over what was queued for the same owner and fleet and another hub. Raises LedgerError, as ``run`` does."""
        scopes = tuple(s.scope for s in Outbox(self._target).stranded(identity.scope) if s.scope.startswith(identity.prefix))
        return self._take_over([(self._target, scopes)], identity)

    def _take_over(self, places: Sequence[tuple[Store, tuple[str, ...]]], identity: Identity) -> Migrated:
        totals = {queue.kind: [0, 0] for queue in _QUEUES}
        for store, scopes in places:
            if not any(_count(store, scopes)):
                continue
            for scope in scopes:
                for queue in reversed(_QUEUES):
                    for taken, held in self._batches(store, queue, scope, identity.scope):
                        totals[queue.kind][0] += taken
                        totals[queue.kind][1] += held
        return Migrated(*(LegacyRows(totals["event"][index], totals["body"][index]) for index in (0, 1)))

    def _places(self, identity: Identity) -> list[tuple[Store, tuple[str, ...]]]:
        places: list[tuple[Store, tuple[str, ...]]] = [(self._target, (LEGACY,))]
        if self._source is not None:
            places.append((self._source, (LEGACY, identity.scope)))
        return places

    def _batches(self, store: Store, queue: _Queue, scope: str, into: str) -> Iterator[tuple[int, int]]:
        """Take over batch after batch, by key, and give how many rows of each were taken and quarantined."""
        after: Any = None
        while True:
            move = self._move_within if store is self._target else self._move_between
            rows, taken = move(store, queue, scope, into, after)
            if not rows:
                return
            yield taken, len(rows) - taken
            after = rows[-1]["key"]

    def _move_within(self, store: Store, queue: _Queue, scope: str, into: str, after: Any) -> tuple[list[dict[str, Any]], int]:
        with store.write() as db:
            rows = self._read(db, queue, scope, after)
            taken = self._take(db, queue, into, rows) if rows else 0
            _delete(db, queue, scope, rows)
        return rows, taken

    def _move_between(self, store: Store, queue: _Queue, scope: str, into: str, after: Any) -> tuple[list[dict[str, Any]], int]:
        with store.read() as source:
            rows = self._read(source, queue, scope, after)
            if queue.kind == "body":
                rows = _with_contents(source, rows)
        if not rows:
            return rows, 0
        with self._target.write() as db:
            taken = self._take(db, queue, into, rows)
        with store.write() as source:
            _delete(source, queue, scope, rows)
        return rows, taken

    def _read(self, db: Connection, queue: _Queue, scope: str, after: Any) -> list[dict[str, Any]]:
        wanted = queue.standing(scope).order_by(queue.key).limit(self._batch)
        if after is not None:
            wanted = wanted.where(_raw(queue.key) > after)
        rows, size = [], 0
        with db.execute(wanted.execution_options(yield_per=50)) as found:
            for row in found.mappings():
                rows.append(_plain(row))
                size += len(rows[-1].get("content") or b"")
                if size >= BATCH_BYTES:
                    break
        return rows

    def _take(self, db: Connection, queue: _Queue, into: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Bring *rows* into a scope, quarantine those that cannot be, and return how many came in or were there already."""
        moment = self._now()
        reasons = {row["key"]: fault for row in rows if (fault := _fault(queue, row))}
        sound = [row for row in rows if row["key"] not in reasons]
        settled = _acknowledged(db, queue, into, sound)
        new, refused = _insert(db, queue, into, [row for row in sound if row["key"] not in settled], text_of(moment))
        change_depth(db, into, new)
        standing = {row.key: _content(queue, _plain(row._mapping)) for row in db.execute(_among(queue.standing(into), queue, rows))}
        settled |= {row["key"] for row in rows if standing.get(row["key"]) == _content(queue, row)}
        for row in rows:
            if row["key"] not in settled:
                reason = reasons.get(row["key"]) or refused.get(row["key"]) or CONFLICT
                quarantine(db, into, queue.kind, str(row["key"]), reason, row, moment)
        return len(settled)


def _raw(column: Column[Any]) -> ColumnElement[Any]:
    """Return a column without its type, so that what is bound and fetched is left as it is."""
    return type_coerce(column, NullType())


def _count(store: Store, scopes: Sequence[str] | None) -> tuple[int, int]:
    """Return the rows in the two tables, of all scopes where *scopes* is None. A ledger that is none yet, or is older, has none."""
    try:
        with store.read() as db:
            counts = [
                db.execute(
                    select(func.count()).select_from(queue.table).where(*([] if scopes is None else [queue.table.c.scope.in_(scopes)]))
                ).scalar_one()
                for queue in _QUEUES
            ]
    except NoLedgerError:
        return (0, 0)
    return (counts[0], counts[1])


def _plain(row: RowMapping) -> dict[str, Any]:
    """Return a row with plain bytes: psycopg gives memoryviews of columns whose type it was not told."""
    return {name: bytes(value) if isinstance(value, memoryview) else value for name, value in row.items()}


def _content(queue: _Queue, row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in queue.content)


def _fault(queue: _Queue, row: Mapping[str, Any]) -> str | None:
    """What is wrong with the bytes of a row, which no constraint would notice."""
    content = row.get("content")
    if not _is_text(row["key"]):
        return "its key is no text"
    if queue.kind == "event" and content is not None and row["sha256"] is not None:
        if not isinstance(content, bytes):
            return "its content is no bytes"
        if hashlib.sha256(content).hexdigest() != row["sha256"]:
            return "its content does not have its hash"
    if "body_content" in row:
        if row["body_content"] is None:
            return "the ledger does not have its content"
        if hashlib.sha256(row["body_content"]).hexdigest() != row["sha256"]:
            return "its content does not have its hash"
    return None


def _is_text(key: Any) -> bool:
    """Whether every database can hold it as text: PostgreSQL takes no NUL in one."""
    return isinstance(key, str) and "\0" not in key


def _with_contents(db: Connection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first of *rows*, about 4 MB of them, with the contents of their bodies."""
    result, size = [], 0
    for row in rows:
        content = db.execute(select(bodies.c.content).where(bodies.c.sha256 == row["key"])).scalar()
        result.append({**row, "body_content": None if content is None else bytes(content)})
        size += len(content or b"")
        if size >= BATCH_BYTES:
            break
    return result


def _among(statement: Any, queue: _Queue, rows: Sequence[Mapping[str, Any]]) -> Any:
    texts = [row["key"] for row in rows if _is_text(row["key"])]
    return statement.where(_raw(queue.key).in_(texts))


def _acknowledged(db: Connection, queue: _Queue, scope: str, rows: Sequence[Mapping[str, Any]]) -> set[Any]:
    """Return the keys of rows that the hub has acknowledged already, after an earlier migration that was killed."""
    receipt = sync_receipts.c
    wanted = select(receipt.key, receipt.sha256).where(receipt.scope == scope, receipt.kind == queue.kind)
    known = {r.key: r.sha256 for r in db.execute(wanted.where(receipt.key.in_([str(row["key"]) for row in rows])))}
    return {row["key"] for row in rows if row["sha256"] is not None and known.get(row["key"]) == row["sha256"]}


def _insert(db: Connection, queue: _Queue, scope: str, rows: Sequence[Mapping[str, Any]], moment: str) -> tuple[int, dict[Any, str]]:
    """Insert rows, together or, where one breaks a constraint, each alone. Return how many are new, and why which were refused."""
    try:
        with db.begin_nested():
            return _insert_all(db, queue, scope, rows, moment), {}
    except _REFUSALS:
        pass
    new, refused = 0, {}
    for row in rows:
        try:
            with db.begin_nested():
                new += _insert_all(db, queue, scope, [row], moment)
        except _REFUSALS as error:
            refused[row["key"]] = " ".join(str(error.orig).split())
    return new, refused


def _insert_all(db: Connection, queue: _Queue, scope: str, rows: Sequence[Mapping[str, Any]], moment: str) -> int:
    if not rows:
        return 0
    if "body_content" in rows[0]:
        contents = [{"sha256": r["key"], "size": len(r["body_content"]), "content": r["body_content"], **_media_type(r)} for r in rows]
        db.execute(insert_ignoring_key(db, bodies), contents)
    values = [{"scope": scope, **{name: row[name] for name in queue.content}, queue.key.name: row["key"]} for row in rows]
    queued = [{**value, "queued_at": row["queued_at"] or moment} for value, row in zip(values, rows, strict=True)]
    return affected(db, insert_ignoring_key(db, queue.table), queued)


def _media_type(row: Mapping[str, Any]) -> dict[str, str]:
    return {"media_type": row["media_type"] or "application/octet-stream"}


def _delete(db: Connection, queue: _Queue, scope: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Delete exactly what was read: a row that changed meanwhile stays, and is looked at the next time."""
    if rows:
        values = [{"the_scope": scope, "the_key": row["key"], **{f"the_{n}": row[n] for n in queue.content}} for row in rows]
        change_depth(db, scope, -affected(db, _deletion(queue), values))


@cache
def _deletion(queue: _Queue) -> Delete:
    table = queue.table
    same = [_raw(table.c[name]).is_not_distinct_from(bindparam(f"the_{name}")) for name in queue.content]
    return delete(table).where(table.c.scope == bindparam("the_scope"), _raw(queue.key) == bindparam("the_key"), *same)
