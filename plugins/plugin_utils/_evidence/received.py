# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hub has received: events and bodies, by the identity (``owner/fleet``) that the sender's token proves.

What is returned as stored or duplicate is durable when it is returned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import chain
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Result, insert_ignoring_key
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import text_of, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import received_bodies, received_events
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from sqlalchemy import Column, ColumnElement, Connection, insert, select


@dataclass(frozen=True, slots=True)
class Incoming:
    """An event as it arrives: its id, the hash that the sender has of it, its canonical bytes."""

    event_id: str
    sha256: str
    content: bytes


class Received:
    """The repository of received evidence. Every method is one transaction and raises LedgerError."""

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._now = now

    def store_events(self, source: str, rows: Sequence[Incoming]) -> list[Result]:
        """Keep what is new, and return for every row, in order, whether it is kept now, was already, or is not acceptable and why.

        Without rows: show that the database can be locked for writing.
        """
        faults = [_fault(row) for row in rows]
        moment = text_of(self._now())
        results, new = list[Result](), list[dict[str, object]]()
        with self._store.write() as db:
            known = _known(db, source, rows)
            for row, fault in zip(rows, faults, strict=True):
                before = known.get(row.event_id)
                if fault is None and before not in (None, row.sha256):
                    fault = "another content was received under this id before"
                if fault is not None:
                    results.append(Result(row.event_id, "rejected", fault))
                elif before is not None:
                    results.append(Result(row.event_id, "duplicate"))
                else:
                    results.append(Result(row.event_id, "stored"))
                    known[row.event_id] = row.sha256
                    new.append(
                        {
                            "source": source,
                            "event_id": row.event_id,
                            "sha256": row.sha256,
                            "content": row.content,
                            "received_at": moment,
                        }
                    )
            if new:
                db.execute(insert(received_events), new)
        return results

    def store_body(self, source: str, sha256: str, media_type: str, content: bytes) -> Result:
        """Keep a body, once."""
        if hashlib.sha256(content).hexdigest() != sha256:
            return Result(sha256, "rejected", "the content does not have this hash")
        row = {
            "source": source,
            "sha256": sha256,
            "media_type": media_type,
            "size": len(content),
            "content": content,
            "received_at": text_of(self._now()),
        }
        with self._store.write() as db:
            new = db.execute(insert_ignoring_key(db, received_bodies), row).rowcount
        return Result(sha256, "stored" if new else "duplicate")

    def list_events(self, source: str, after: str, limit: int) -> list[tuple[str, str]]:
        """Return id and hash of at most *limit* events, by id after *after*."""
        table = received_events.c
        return self._page(table.event_id, table.sha256, table.source == source, after, limit)

    def list_bodies(self, source: str, after: str, limit: int) -> list[tuple[str, str]]:
        """Return the hash (twice) of at most *limit* bodies, by hash after *after*."""
        table = received_bodies.c
        return self._page(table.sha256, table.sha256, table.source == source, after, limit)

    def _page(self, key: Column[str], sha256: Column[str], ours: ColumnElement[bool], after: str, limit: int) -> list[tuple[str, str]]:
        wanted = select(key.label("key"), sha256.label("hash")).where(ours, key > after).order_by(key).limit(limit)
        with self._store.read() as db:
            return [(row.key, row.hash) for row in db.execute(wanted)]


def _known(db: Connection, source: str, rows: Sequence[Incoming]) -> dict[str, str]:
    table = received_events.c
    wanted = select(table.event_id, table.sha256).where(table.source == source, table.event_id.in_([row.event_id for row in rows]))
    return {row.event_id: row.sha256 for row in db.execute(wanted)}


def _fault(row: Incoming) -> str | None:
    """Why an event is not acceptable, whoever sends it."""
    if hashlib.sha256(row.content).hexdigest() != row.sha256:
        return "the content does not have this hash"
    try:
        event = json.loads(row.content)
        if chain.event_id(event["chain"], event["seq"]) != row.event_id:
            return "the content is another event than the id says"
    except (ValueError, KeyError, TypeError):
        return "the content is no event"
    return None
