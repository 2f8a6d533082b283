# SPDX-License-Identifier: GPL-3.0-or-later
"""A pass of the outbox to a hub: what counts against a row, and what against nobody."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.delivery import (
    Delivered,
    Delivery,
    HubAuthError,
    HubError,
    HubRejectError,
)
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Clearance, Outbox, Row
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import bodies, sync_events
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.support.sync import IDENTITY, Clock, MemoryHub, append, event_row, keys, sha256

SCOPE = IDENTITY.scope
Ledger = Callable[[], Store]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(ledger: Ledger, clock: Clock) -> Outbox:
    return Outbox(ledger(), attempts=3, now=clock)


def fill(outbox: Outbox, count: int) -> list[Row]:
    rows = [event_row(number) for number in range(1, count + 1)]
    outbox.enqueue(Clearance(SCOPE), rows)
    return rows


def test_bodies_go_before_the_events_that_name_them(ledger: Ledger, outbox: Outbox) -> None:
    ids = append(ledger(), 2, [b"one", b"two"])
    outbox.enqueue_from_ledger(Clearance(SCOPE))
    hub = MemoryHub()
    order: list[str] = []
    hub.fails = lambda rows: order.extend(keys(rows))
    assert Delivery(outbox, hub, SCOPE).run() == Delivered(events=2, bodies=2)
    assert order == [*sorted(map(sha256, (b"one", b"two"))), *ids]
    assert hub.bodies == {sha256(b"one"): b"one", sha256(b"two"): b"two"}
    assert list(hub.events) == ids
    assert outbox.state(SCOPE).last_error is None
    assert Delivery(outbox, hub, SCOPE).run() == Delivered()


def test_rows_of_other_scopes_stay(outbox: Outbox) -> None:
    outbox.enqueue(Clearance(""), [event_row(1)])
    outbox.enqueue(Clearance("other"), [event_row(1)])
    hub = MemoryHub()
    Delivery(outbox, hub, SCOPE).run()
    assert hub.events == {}


def test_what_the_hub_has_already_leaves_too(outbox: Outbox) -> None:
    rows = fill(outbox, 2)
    hub = MemoryHub(events={rows[0].key: rows[0].content or b""})
    assert Delivery(outbox, hub, SCOPE).run().events == 2
    assert outbox.due_events(SCOPE) == []


def test_row_that_the_hub_names_as_bad_waits_and_dies_alone(outbox: Outbox, clock: Clock) -> None:
    rows = fill(outbox, 3)
    hub = MemoryHub(rejects={rows[1].key})
    assert Delivery(outbox, hub, SCOPE).run() == Delivered(events=2, rejected=1)
    for _ in range(2):
        clock.move(minutes=6)
        assert Delivery(outbox, hub, SCOPE).run() == Delivered(rejected=1)
    clock.move(minutes=6)
    assert Delivery(outbox, hub, SCOPE).run() == Delivered()
    assert outbox.depths(SCOPE).dead == 1
    hub.rejects.clear()
    outbox.revive(SCOPE)
    assert Delivery(outbox, hub, SCOPE).run() == Delivered(events=1)


def poison(*bad: str, error: type[Exception] = HubRejectError) -> Callable[[Sequence[Row]], None]:
    def fails(rows: Sequence[Row]) -> None:
        if set(keys(rows)) & set(bad):
            raise error("500")

    return fails


@pytest.mark.parametrize("bad", [[0], [6], [2, 3], [0, 1, 2, 3, 4, 5, 6]])
def test_rows_that_break_a_batch_are_found_and_the_others_delivered(outbox: Outbox, bad: list[int]) -> None:
    rows = fill(outbox, 7)
    hub = MemoryHub(fails=poison(*(rows[n].key for n in bad)))
    assert Delivery(outbox, hub, SCOPE).run() == Delivered(events=7 - len(bad), rejected=len(bad))
    assert set(hub.events) == {row.key for n, row in enumerate(rows) if n not in bad}
    with_errors = [row for row in outbox.due_events(SCOPE, "") if row.attempts]
    assert with_errors == [], "they wait"
    assert len(hub.asked) < 60


def test_body_that_the_hub_does_not_take_holds_up_nobody(ledger: Ledger, outbox: Outbox) -> None:
    append(ledger(), 1, [b"good", b"bad"])
    outbox.enqueue_from_ledger(Clearance(SCOPE))
    hub = MemoryHub(fails=poison(sha256(b"bad")))
    assert Delivery(outbox, hub, SCOPE).run() == Delivered(events=1, bodies=1, rejected=1)


def test_body_whose_content_was_flipped_is_not_sent(ledger: Ledger, outbox: Outbox) -> None:
    append(ledger(), 1, [b"whole"])
    outbox.enqueue_from_ledger(Clearance(SCOPE))
    with ledger().write() as db:
        db.execute(bodies.update().values(content=b"flipped"))
    hub = MemoryHub()
    assert Delivery(outbox, hub, SCOPE).run() == Delivered(events=1, rejected=1)
    assert hub.bodies == {}


def test_body_that_the_ledger_lost_holds_up_nobody(ledger: Ledger, outbox: Outbox, clock: Clock, path: Path) -> None:
    ids = append(ledger(), 2, [b"lost", b"kept"])
    outbox.enqueue_from_ledger(Clearance(SCOPE))
    # another hand: sqlite3 minds no foreign key by itself
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM bodies WHERE sha256 = ?", (sha256(b"lost"),))
    hub = MemoryHub()
    assert Delivery(outbox, hub, SCOPE).run() == Delivered(events=2, bodies=1, rejected=1)
    assert (list(hub.events), hub.bodies) == (ids, {sha256(b"kept"): b"kept"})
    for _ in range(2):
        clock.move(minutes=6)
        assert Delivery(outbox, hub, SCOPE).run() == Delivered(rejected=1)
    assert outbox.depths(SCOPE).dead == 1


@pytest.mark.parametrize("of_the_ledger", [True, False], ids=["of this ledger", "of another one"])
def test_event_whose_bytes_were_flipped_is_sent_from_the_ledger_or_quarantined(ledger: Ledger, outbox: Outbox, of_the_ledger: bool) -> None:
    if of_the_ledger:
        (key,) = append(ledger(), 1)
        outbox.enqueue_from_ledger(Clearance(SCOPE))
    else:
        (key,) = keys(fill(outbox, 1))
    with ledger().write() as db:
        db.execute(sync_events.update().values(content=b"flipped"))
    hub = MemoryHub()
    done = Delivery(outbox, hub, SCOPE).run()
    if of_the_ledger:
        assert (done, list(hub.events)) == (Delivered(events=1), [key])
    else:
        assert (done, hub.events) == (Delivered(quarantined=1), {})
        assert outbox.depths(SCOPE).quarantined == 1
    assert outbox.recount(SCOPE) == 0
    assert outbox.due_events(SCOPE) == []


def always(error: Exception) -> Callable[[Sequence[Row]], None]:
    def fails(_rows: Sequence[Row]) -> None:
        raise error

    return fails


@pytest.mark.parametrize("error", [HubError("down"), HubRejectError("500 to everything")])
def test_hub_that_is_out_of_order_costs_no_row_a_try(ledger: Ledger, outbox: Outbox, error: Exception) -> None:
    append(ledger(), 3, [b"body"])
    outbox.enqueue_from_ledger(Clearance(SCOPE))
    hub = MemoryHub(fails=always(error))
    for _ in range(10):
        done = Delivery(outbox, hub, SCOPE).run()
        assert (done.events, done.bodies, done.rejected, done.error) == (0, 0, 0, error)
        assert not done.complete
    assert [row.attempts for row in outbox.due_events(SCOPE)] == [0, 0, 0]
    assert len(outbox.due_bodies(SCOPE)) == 1
    assert outbox.state(SCOPE).last_error == str(error)
    hub.fails = lambda _rows: None
    assert Delivery(outbox, hub, SCOPE).run() == Delivered(events=3, bodies=1)


def test_refused_token_is_remembered(outbox: Outbox) -> None:
    fill(outbox, 1)
    done = Delivery(outbox, MemoryHub(fails=always(HubAuthError("401", "", "fingerprint"))), SCOPE).run()
    assert isinstance(done.error, HubAuthError)
    assert outbox.state(SCOPE).refused_token == "fingerprint"
    Delivery(outbox, MemoryHub(), SCOPE).run()
    assert outbox.state(SCOPE).refused_token is None


def test_hub_that_dies_between_batches_loses_nothing(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import outbox as module

    monkeypatch.setattr(module, "BATCH_ROWS", 2)
    rows = fill(outbox, 5)
    hub = MemoryHub(fails=poison(rows[2].key, error=HubError))
    assert Delivery(outbox, hub, SCOPE).run().events == 2
    assert keys(outbox.due_events(SCOPE)) == [row.key for row in rows[2:4]]


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_it_stops_when_it_is_asked_to(ledger: Ledger, outbox: Outbox, after: int) -> None:
    append(ledger(), 1, [b"one", b"two"])
    outbox.enqueue_from_ledger(Clearance(SCOPE))
    left = after

    def stop() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    hub = MemoryHub()
    assert Delivery(outbox, hub, SCOPE, stop=stop).run().complete
    assert hub.stored <= after
