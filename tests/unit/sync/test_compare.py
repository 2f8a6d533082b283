# SPDX-License-Identifier: GPL-3.0-or-later
"""Both sides, record by record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import compare as module
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.compare import compare
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.delivery import Delivery
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.migration import Migration
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Clearance, Outbox
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.support.sync import IDENTITY, OTHER, MemoryHub, append, sha256

SCOPE = IDENTITY.scope
Ledger = Callable[[], Store]


@dataclass
class Sides:
    """What a hub lists."""

    events: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, hub: MemoryHub) -> Sides:
        return cls({key: sha256(content) for key, content in hub.events.items()}, {key: key for key in hub.bodies})

    def list_events(self) -> Iterator[tuple[str, str]]:
        return iter(sorted(self.events.items()))

    def list_bodies(self) -> Iterator[tuple[str, str]]:
        return iter(sorted(self.bodies.items()))


@pytest.fixture
def ids(ledger: Ledger) -> list[str]:
    return append(ledger(), 4, [b"one", b"two"])


@pytest.fixture
def sent(ledger: Ledger, ids: list[str]) -> Sides:
    """A hub that has everything."""
    outbox, hub = Outbox(ledger()), MemoryHub()
    outbox.enqueue_from_ledger(Clearance(SCOPE))
    assert Delivery(outbox, hub, SCOPE).run().events == len(ids)
    return Sides.of(hub)


def counts(ledger: Ledger, hub: Sides) -> tuple[dict[str, int], dict[str, int]]:
    found = compare(ledger(), SCOPE, hub)
    return tuple({f: n for f, n in found.counts[kind].items() if n} for kind in ("event", "body"))  # type: ignore[return-value]


def test_both_have_the_same(ledger: Ledger, sent: Sides) -> None:
    found = compare(ledger(), SCOPE, sent)
    assert (found.ok, found.equal, found.named) == (True, True, ())
    assert counts(ledger, sent) == ({"equal": 4}, {"equal": 2})


def test_what_waits_is_no_difference(ledger: Ledger, ids: list[str]) -> None:
    assert counts(ledger, Sides()) == ({"waiting": 4}, {"waiting": 2}), "not even queued"
    Outbox(ledger()).enqueue_from_ledger(Clearance(SCOPE))
    found = compare(ledger(), SCOPE, Sides())
    assert (found.ok, found.equal) == (True, False)
    assert counts(ledger, Sides()) == ({"waiting": 4}, {"waiting": 2})


def test_what_waits_for_another_hub_is_stranded(ledger: Ledger, ids: list[str]) -> None:
    before = replace(IDENTITY, hub_url="https://before.example.org")
    Outbox(ledger()).enqueue_from_ledger(Clearance(before.scope))
    append(ledger())
    found = compare(ledger(), SCOPE, Sides())
    assert (found.ok, found.equal) == (False, False)
    assert ("event", "stranded", ids[0]) in found.named
    assert counts(ledger, Sides()) == ({"stranded": 4, "waiting": 1}, {"stranded": 2})
    assert compare(ledger(), OTHER.scope, Sides()).ok, "they are none of another owner's"
    Migration(ledger()).adopt(IDENTITY)
    assert counts(ledger, Sides()) == ({"waiting": 5}, {"waiting": 2})


def test_every_difference_is_named(ledger: Ledger, sent: Sides, ids: list[str]) -> None:
    del sent.events[ids[1]], sent.bodies[sha256(b"one")]
    sent.events[ids[2]] = "f" * 64
    sent.events["0"] = sent.events["~"] = "e" * 64
    found = compare(ledger(), SCOPE, sent)
    assert not found.ok
    assert set(found.named) == {
        ("event", "missing", ids[1]),
        ("event", "different", ids[2]),
        ("event", "extra", "0"),
        ("event", "extra", "~"),
        ("body", "missing", sha256(b"one")),
    }
    assert found.to_dict()["counts"]["event"] == {"equal": 2, "waiting": 0, "stranded": 0, "missing": 1, "different": 1, "extra": 2}
    assert {"kind": "event", "finding": "missing", "key": ids[1]} in found.to_dict()["named"]


def test_ledger_that_was_rewritten_after_delivery_differs(ledger: Ledger, sent: Sides, ids: list[str]) -> None:
    with ledger().write() as db:
        db.exec_driver_sql(f"UPDATE events SET sha256 = '{'a' * 64}' WHERE seq = 1")
        db.exec_driver_sql("DELETE FROM events WHERE seq = 2")
    assert counts(ledger, sent)[0] == {"equal": 3, "different": 1}, "of a deleted one the receipt still tells"


def test_all_are_counted_and_the_first_named(ledger: Ledger, sent: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NAMED", 3)
    found = compare(ledger(), SCOPE, Sides({f"x{n}": "" for n in range(10)}))
    assert found.counts["event"]["extra"] == 10
    assert len([n for n in found.named if n[1] == "extra"]) == 3


def test_what_went_out_for_another_identity_is_not_asked_for(ledger: Ledger, ids: list[str]) -> None:
    outbox, hub = Outbox(ledger()), MemoryHub()
    outbox.enqueue_from_ledger(Clearance(OTHER.scope))
    Delivery(outbox, hub, OTHER.scope).run()
    assert compare(ledger(), SCOPE, Sides()).equal
    assert compare(ledger(), OTHER.scope, Sides.of(hub)).equal
