# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of evidence: events, appended to this ledger's own chain, and bodies.

``append_event`` and ``add_body`` work in the transaction of the caller, so that a fact and its evidence are committed together or not at
all::

    with store.write() as db:
        report = add_body(db, "report.md", "text/markdown", text.encode())
        event = append_event(db, "rebuild.finished", {"seconds": 7.5}, about=[("rebuild", rebuild_id)], host=host, bodies=[report])
        event.event_id, event.sha256, report.sha256

What goes in was scrubbed of secrets by the caller, who alone knows them; what looks like one is masked here too. Who changes rows of
``aggregates`` appends an event about them in the same transaction, after the change: rows that no event is about count as tampered with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import chain
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.chain import Body, Draft, Event
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import masked
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import aggregates
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import HEAD, bodies, chains, events
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, damaged_before
from sqlalchemy import Connection, insert, select, update

#: bytes of one body; more belongs into a file of its own
MAX_BODY = 32 << 20
#: name of the body of the first event of a chain that is younger than its ledger
EARLIER = "earlier.json"


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: number and hash of its last event. *seq* is 0 where there is none yet."""

    chain: str
    seq: int
    sha256: str


def utc_now() -> datetime:
    return datetime.now(tz=timezone.utc)


def text_of(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def append_event(
    db: Connection,
    kind: str,
    data: Mapping[str, Any],
    *,
    about: Sequence[tuple[str, str]] = (),
    run_id: str | None = None,
    host: str | None = None,
    bodies: Sequence[Body] = (),
    now: Callable[[], datetime] = utc_now,
) -> Event:
    """Record that something happened, as the next event of this ledger's own chain, and return the event.

    *kind*: such as ``run.closed``; *data*: what there is to say, as JSON can hold it; *about*: (kind, id) of each thing whose rows changed;
    *run_id*: the run it happened in; *host*: where it concerns one host; *bodies*: what ``add_body`` returned.
    Raises EventError for what cannot be recorded.
    """
    moment = text_of(now())
    if head_of(db).seq == 0:
        _begin(db, moment, set(about))
    states = [aggregates.state(db, of, key) for of, key in about]
    return _append(db, Draft(kind, moment, masked(data), run_id, host, bodies, states))


def append_sealed(
    db: Connection, kind: str, data: Mapping[str, Any], *, run_id: str | None, now: Callable[[], datetime] = utc_now
) -> Event:
    """The same for *data* that must stay as it is to the last byte, as signatures and public keys."""
    return _append(db, Draft(kind, text_of(now()), data, run_id))


def head_of(db: Connection) -> Head:
    """Return the head of this ledger's own chain. Raises LedgerError where it has not one such chain."""
    found = db.execute(select(chains.c.id, chains.c.seq, chains.c.sha256).where(chains.c.own)).all()
    if len(found) != 1:
        raise LedgerError(
            f"The ledger has {len(found)} chains of its own instead of one: somebody changed it.",
            "Keep it for the auditor, and restore a backup, or move it away to begin a new one.",
        )
    return Head(found[0].id, found[0].seq, found[0].sha256)


def hash_at(db: Connection, seq: int) -> str | None:
    """Return the hash of an event of this ledger's own chain, None where there is none of that number."""
    own = select(events.c.sha256).join(chains).where(chains.c.own, events.c.seq == seq)
    return db.execute(own).scalar()


def _append(db: Connection, draft: Draft) -> Event:
    head = head_of(db)
    if head.seq == 0:
        draft = replace(draft, began=db.execute(select(chains.c.created_at).where(chains.c.id == head.chain)).scalar_one())
    event = chain.seal(draft, head.chain, head.seq + 1, head.sha256)
    db.execute(
        insert(events),
        {
            "id": event.event_id,
            "chain": event.chain,
            "seq": event.seq,
            "kind": event.kind,
            "at": event.at,
            "run_id": event.run_id,
            "host": event.host,
            "content": event.content,
            "sha256": event.sha256,
        },
    )
    db.execute(update(chains).where(chains.c.id == event.chain).values(seq=event.seq, sha256=event.sha256))
    return event


def _begin(db: Connection, moment: str, without: set[tuple[str, str]]) -> None:
    """Begin a chain: with the damaged ledgers that it follows, and, in a ledger that is older than it, what vouches for the rows there."""
    for path in damaged_before(db):
        with path.open("rb") as stream:
            _append(db, Draft("ledger.replaced", moment, {"file": path.name, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}))
    earlier = [aggregates.state(db, of, key) for of, key in _earlier(db) if (of, key) not in without]
    if earlier:
        body = add_body(db, EARLIER, "application/json", chain.canonical([asdict(state) for state in earlier]))
        _append(db, Draft("ledger.began", moment, {"schema": HEAD, "earlier": len(earlier)}, bodies=[body]))


def _earlier(db: Connection) -> Iterable[tuple[str, str]]:
    return ((of, key) for of in aggregates.AGGREGATES for key in aggregates.ids(db, of))


def add_body(db: Connection, name: str, media_type: str, content: bytes) -> Body:
    """Keep *content*, once for all that have the same, and return what an event says of it. Raises EventError for one that is too large."""
    if len(content) > MAX_BODY:
        raise chain.EventError(f"{name} has {len(content) >> 20} MB; the ledger takes {MAX_BODY >> 20}.", "Shorten it.")
    body = Body(name, media_type, chain.digest(content), len(content))
    if db.execute(select(bodies.c.sha256).where(bodies.c.sha256 == body.sha256)).first() is None:
        row = {"sha256": body.sha256, "media_type": media_type, "size": body.size, "content": content}
        db.execute(insert(bodies), row)
    return body
