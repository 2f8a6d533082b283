# SPDX-License-Identifier: GPL-3.0-or-later
"""Both sides, record by record: what the ledger and its outbox know, and what the hub has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import prefix_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Kind, Order, in_code_order
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import (
    bodies,
    body_upload_queue,
    chains,
    events,
    sync_events,
    sync_receipts,
)
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from sqlalchemy import Column, ColumnElement, Connection, Select, exists, func, null, select, union_all

#: records of one kind of difference that are named; all are counted
NAMED = 20

#: equal: both have it. waiting: only here, not acknowledged yet. stranded: only here, and queued for another hub. missing: acknowledged,
#: and the hub does not have it. different: other content. extra: only at the hub
Finding = Literal["equal", "waiting", "stranded", "missing", "different", "extra"]

#: where a record's hash can stand on this side
_SIDES = ("kept", "queued", "receipt", "stranded")

_Statement = Callable[[str, Order], Select[Any]]


class Lists(Protocol):
    """The port to what a hub has: key and hash of each record of one identity, by key."""

    def list_events(self) -> Iterator[tuple[str, str]]: ...

    def list_bodies(self) -> Iterator[tuple[str, str]]: ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many records there are of each finding, and the first of those that should not be."""

    counts: Mapping[Kind, Mapping[Finding, int]]
    named: tuple[tuple[Kind, Finding, str], ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is lost, changed or of unknown origin. What waits is no difference yet."""
        return not any(self.counts[kind][finding] for kind in self.counts for finding in ("stranded", "missing", "different", "extra"))

    @property
    def equal(self) -> bool:
        """Whether both sides have the same."""
        return self.ok and not any(counts["waiting"] for counts in self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "equal": self.equal,
            "counts": {kind: dict(counts) for kind, counts in self.counts.items()},
            "named": [{"kind": kind, "finding": finding, "key": key} for kind, finding, key in self.named],
        }


def compare(store: Store, scope: str, hub: Lists) -> Comparison:
    """Compare the ledger with a hub, for the rows of one scope, in constant memory. Raises LedgerError, and what the hub's port raises."""
    counts: dict[Kind, dict[Finding, int]] = {}
    named: list[tuple[Kind, Finding, str]] = []
    sides: tuple[tuple[Kind, _Statement, Callable[[], Iterator[tuple[str, str]]]], ...] = (
        ("event", _events, hub.list_events),
        ("body", _bodies, hub.list_bodies),
    )
    with store.read() as db:
        for kind, local, remote in sides:
            tally: dict[Finding, int] = dict.fromkeys(get_args(Finding), 0)
            for key, finding in _merge(_here(db, local(scope, in_code_order(db))), remote()):
                tally[finding] += 1
                if finding not in ("equal", "waiting") and tally[finding] <= NAMED:
                    named.append((kind, finding, key))
            counts[kind] = tally
    return Comparison(counts, tuple(named))


@dataclass(frozen=True, slots=True)
class _Here:
    """A record as this side has it: *hashes* of the ledger, the outbox and the receipt, where they are."""

    key: str
    hashes: frozenset[str]
    acknowledged: bool
    stranded: bool

    @property
    def absence(self) -> Finding:
        """What it is that the hub does not have it."""
        return "missing" if self.acknowledged else "stranded" if self.stranded else "waiting"


def _merge(here: Iterator[_Here], there: Iterator[tuple[str, str]]) -> Iterator[tuple[str, Finding]]:
    """Walk two sorted sides at once."""
    ours, theirs = next(here, None), next(there, None)
    while ours or theirs:
        if theirs and (not ours or theirs[0] < ours.key):
            yield theirs[0], "extra"
            theirs = next(there, None)
        elif ours and (not theirs or ours.key < theirs[0]):
            yield ours.key, ours.absence
            ours = next(here, None)
        elif ours and theirs:
            yield ours.key, "equal" if ours.hashes <= {theirs[1]} else "different"
            ours, theirs = next(here, None), next(there, None)


def _here(db: Connection, wanted: Select[Any]) -> Iterator[_Here]:
    with db.execute(wanted.execution_options(yield_per=500)) as found:
        for row in found:
            hashes = frozenset(filter(None, (row.kept, row.queued, row.receipt)))
            yield _Here(row.key, hashes, row.receipt is not None, row.queued is None and row.stranded is not None)


def _events(scope: str, order: Order) -> Select[Any]:
    own = _columns(events.c.id, kept=events.c.sha256).join(chains, chains.c.id == events.c.chain)
    return _together(own.where(chains.c.own, ~_elsewhere(events.c.id, scope, "event")), sync_events.c.event_id, scope, "event", order)


def _bodies(scope: str, order: Order) -> Select[Any]:
    kept = _columns(bodies.c.sha256, kept=bodies.c.sha256).where(~_elsewhere(bodies.c.sha256, scope, "body"))
    return _together(kept, body_upload_queue.c.sha256, scope, "body", order)


def _columns(key: Column[str], **hashes: Column[str]) -> Select[Any]:
    """Return a side of the union: its key, and the hash that it knows under the name of the side."""
    sides: list[ColumnElement[Any]] = [hashes.get(side, null()).label(side) for side in _SIDES]
    return select(key.label("key"), *sides)


def _elsewhere(key: Column[str], scope: str, kind: Kind) -> ColumnElement[bool]:
    """Whether a record was delivered for another identity, before the fleet had this one."""
    receipt = sync_receipts.c
    return exists().where(receipt.key == key, receipt.kind == kind, receipt.scope != scope)


def _together(kept: Select[Any], key: Column[str], scope: str, kind: Kind, order: Order) -> Select[Any]:
    """One row for each key that any side knows, by key, in the order in which the hub lists them too. *key*: of the queue."""
    receipt, queue = sync_receipts.c, key.table.c
    prefix = prefix_of(scope)
    sides = (
        kept,
        _columns(key, queued=queue.sha256).where(queue.scope == scope),
        _columns(receipt.key, receipt=receipt.sha256).where(receipt.scope == scope, receipt.kind == kind),
        # of the same owner and fleet: what waits for another's hub is no matter of this one
        _columns(key, stranded=queue.sha256).where(queue.scope != scope, func.substr(queue.scope, 1, len(prefix)) == prefix),
    )
    every = union_all(*sides).subquery()
    return select(every.c.key, *(func.max(every.c[side]).label(side) for side in _SIDES)).group_by(every.c.key).order_by(order(every.c.key))
