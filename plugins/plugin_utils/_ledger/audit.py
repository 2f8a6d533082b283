# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a ledger for its verification: rows as they are stored, whatever somebody did to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.verify import BodyRow, ChainRow, EventRow
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import aggregates
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import artifacts, bodies, chains, events
from sqlalchemy import Connection, Integer, Row, select, type_coerce
from sqlalchemy.types import NullType

#: rows that are in memory at once
BATCH = 200
# not what SQLAlchemy makes of a column's type: it fails where somebody stored another one
_EVENT = tuple(type_coerce(events.c[name], NullType()).label(name) for name in (f.name for f in fields(EventRow)))
_BODY = tuple(type_coerce(bodies.c[name], NullType()).label(name) for name in (f.name for f in fields(BodyRow)))


class Ledger:
    """The ``Source`` of a verification. *db*: a reading connection, which sees one moment."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        raw: Any = db.connection.driver_connection
        self._sqlite = isinstance(raw, sqlite3.Connection)
        if self._sqlite:
            # a text that is none any more is to be compared, not to end the verification
            raw.text_factory = lambda data: data.decode("utf-8", "surrogateescape")

    def damage(self) -> list[str]:
        """Return what SQLite finds wrong with the file; PostgreSQL fails in reading instead."""
        if not self._sqlite:
            return []
        said = [str(row) for row in self._db.exec_driver_sql("PRAGMA integrity_check(20)").scalars()]
        return [] if said == ["ok"] else said

    def chains(self) -> list[ChainRow]:
        wanted = select(chains.c.id, type_coerce(chains.c.own, Integer), chains.c.seq, chains.c.sha256, chains.c.created_at)
        return [ChainRow(*row) for row in self._db.execute(wanted.order_by(chains.c.id))]

    def events(self, chain_id: Any) -> Iterator[EventRow]:
        return self._events(select(*_EVENT).where(events.c.chain == chain_id).order_by(events.c.seq))

    def strays(self) -> list[EventRow]:
        return list(self._events(select(*_EVENT).where(events.c.chain.not_in(select(chains.c.id)))))

    def bodies(self) -> Iterator[BodyRow]:
        for row in self._stream(select(*_BODY), 20):
            yield BodyRow(row.sha256, row.size, row.media_type, _bytes(row.content))

    def body(self, sha256: str) -> bytes | None:
        content = _bytes(self._db.execute(select(type_coerce(bodies.c.content, NullType())).where(bodies.c.sha256 == sha256)).scalar())
        return content if isinstance(content, bytes) else None

    def artifacts(self) -> Iterator[tuple[Any, Any]]:
        for row in self._stream(select(artifacts.c.run_id, artifacts.c.sha256), BATCH):
            yield row.run_id, row.sha256

    def things(self) -> Iterator[tuple[str, str]]:
        for of in aggregates.AGGREGATES:
            yield from ((of, key) for key in aggregates.ids(self._db, of))

    def state(self, of: str, key: str) -> str:
        return aggregates.state(self._db, of, key).sha256

    def _events(self, wanted: Any) -> Iterator[EventRow]:
        for row in self._stream(wanted, BATCH):
            yield EventRow(row.id, row.chain, row.seq, row.kind, row.at, row.run_id, row.host, _bytes(row.content), row.sha256)

    def _stream(self, wanted: Any, size: int) -> Iterator[Row[Any]]:
        yield from self._db.execute(wanted, execution_options={"yield_per": size})


def _bytes(content: Any) -> Any:
    return bytes(content) if isinstance(content, (bytes, memoryview, bytearray)) else content
