# SPDX-License-Identifier: GPL-3.0-or-later
"""What is queued waits, in order, once, within its bounds; what leaves has a receipt."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import outbox as module
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import (
    Clearance,
    Depths,
    Outbox,
    OutboxFullError,
    Queued,
    Result,
    Row,
    backoff,
)
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import text_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store
from hypothesis import given, strategies

from tests.support.sync import IDENTITY, START, Clock, append, event_row, keys, sha256

Ledger = Callable[[], Store]
SCOPE = IDENTITY.scope
CLEAR = Clearance(SCOPE)


def scalar(store: Store, statement: str) -> object:
    with store.read() as db:
        return db.exec_driver_sql(statement).scalar()


def execute(store: Store, statement: str) -> None:
    with store.write() as db:
        db.exec_driver_sql(statement)


def stored(rows: list[Row]) -> list[Result]:
    return [Result(row.key, "stored") for row in rows]


def test_everything_in_the_ledger_is_queued_once_in_order(ledger: Ledger) -> None:
    store = ledger()
    ids = append(store, 3, [b"one", b"two"])
    outbox = Outbox(store)
    assert outbox.enqueue_from_ledger(CLEAR) == Queued(3, 2)
    assert outbox.enqueue_from_ledger(CLEAR) == Queued()
    ids += append(store, 1)
    assert outbox.enqueue_from_ledger(CLEAR) == Queued(1, 0)
    rows = outbox.due_events(SCOPE)
    assert keys(rows) == ids
    assert all(sha256(row.content or b"") == row.sha256 for row in rows)
    bodies = outbox.due_bodies(SCOPE)
    assert keys(bodies) == sorted([sha256(b"one"), sha256(b"two")])
    assert [(b.media_type, b.size) for b in bodies] == [("text/plain", 3)] * 2
    assert outbox.content_of(sha256(b"one")) == b"one"


def test_many_more_than_a_batch_are_queued(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", 3)
    store = ledger()
    ids = append(store, 10)
    outbox = Outbox(store)
    assert outbox.enqueue_from_ledger(CLEAR) == Queued(10, 0)
    seen: list[str] = []
    while rows := outbox.due_events(SCOPE, seen[-1] if seen else ""):
        assert len(rows) <= 3
        seen += keys(rows)
    assert seen == ids


def test_a_batch_is_bounded_by_its_bytes(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ledger()
    append(store, 5)
    outbox = Outbox(store)
    outbox.enqueue_from_ledger(CLEAR)
    monkeypatch.setattr(module, "BATCH_BYTES", len(outbox.due_events(SCOPE)[0].content or b"") * 2)
    assert len(outbox.due_events(SCOPE)) == 2
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    assert len(outbox.due_events(SCOPE)) == 1, "one is always taken"


def test_body_that_the_hub_has_is_not_sent_again(ledger: Ledger) -> None:
    store = ledger()
    outbox = Outbox(store)
    append(store, 1, [b"same"])
    outbox.enqueue_from_ledger(CLEAR)
    bodies = outbox.due_bodies(SCOPE)
    outbox.settle(SCOPE, "body", bodies, stored(bodies))
    append(store, 1, [b"same"])
    assert outbox.enqueue_from_ledger(CLEAR) == Queued(1, 0)


def test_body_that_the_ledger_lost_holds_up_nobody(ledger: Ledger) -> None:
    store = ledger()
    ids = append(store, 2, [b"lost"])
    execute(store, "DELETE FROM bodies")
    outbox = Outbox(store)
    assert outbox.enqueue_from_ledger(CLEAR) == Queued(2, 0, missing=1)
    assert keys(outbox.due_events(SCOPE)) == ids
    assert outbox.depths(SCOPE).quarantined == 1
    assert scalar(store, "SELECT reason FROM sync_quarantine") == "the ledger does not have its content"


def test_event_that_is_none_is_queued_as_it_is(ledger: Ledger) -> None:
    store = ledger()
    (tampered, whole) = append(store, 2)
    with store.write() as db:
        db.exec_driver_sql("UPDATE events SET content = CAST('[1' AS BLOB) WHERE seq = 1" if db.dialect.name == "sqlite" else
                           "UPDATE events SET content = '[1'::bytea WHERE seq = 1")  # fmt: skip
    outbox = Outbox(store)
    assert outbox.enqueue_from_ledger(CLEAR) == Queued(2)
    assert keys(outbox.due_events(SCOPE)) == [tampered, whole]


def test_full_outbox_refuses_visibly_and_loses_nothing(ledger: Ledger) -> None:
    store = ledger()
    ids = append(store, 5)
    outbox = Outbox(store, limit=3)
    with pytest.raises(OutboxFullError, match="3 of 3 rows"):
        outbox.enqueue_from_ledger(CLEAR)
    rows = outbox.due_events(SCOPE)
    assert keys(rows) == ids[:3]
    outbox.settle(SCOPE, "event", rows[:2], stored(rows))
    append(store, 1)
    with pytest.raises(OutboxFullError) as raised:
        outbox.enqueue_from_ledger(CLEAR)
    assert (raised.value.depth, raised.value.limit) == (3, 3)
    rows = outbox.due_events(SCOPE)
    outbox.settle(SCOPE, "event", rows, stored(rows))
    assert outbox.enqueue_from_ledger(CLEAR) == Queued(1)


def test_event_with_more_bodies_than_there_is_room_for_waits(ledger: Ledger) -> None:
    store = ledger()
    append(store, 1, [b"1", b"2", b"3"])
    with pytest.raises(OutboxFullError):
        Outbox(store, limit=3).enqueue_from_ledger(CLEAR)
    assert scalar(store, "SELECT count(*) FROM sync_events") == 0
    assert Outbox(store, limit=4).enqueue_from_ledger(CLEAR) == Queued(1, 3)


def test_rows_are_queued_all_or_none(ledger: Ledger) -> None:
    outbox = Outbox(ledger(), limit=2)
    with pytest.raises(OutboxFullError):
        outbox.enqueue(CLEAR, [event_row(n) for n in (1, 2, 3)])
    assert outbox.due_events(SCOPE) == []
    assert outbox.enqueue(CLEAR, [event_row(1), event_row(2)]) == Queued(2)
    assert outbox.enqueue(CLEAR, [event_row(1), event_row(2)]) == Queued(), "queued already: no row more, so it is no refusal"


def test_scopes_have_bounds_and_rows_of_their_own(ledger: Ledger) -> None:
    outbox = Outbox(ledger(), limit=1)
    outbox.enqueue(CLEAR, [event_row(1)])
    outbox.enqueue(Clearance(""), [event_row(1)])
    assert [keys(outbox.due_events(scope)) for scope in (SCOPE, "", "third")] == [[event_row(1).key], [event_row(1).key], []]


def test_other_content_under_a_queued_id_is_quarantined(ledger: Ledger) -> None:
    store = ledger()
    outbox = Outbox(store)
    outbox.enqueue(CLEAR, [event_row(1, text="first")])
    for _twice in range(2):
        assert outbox.enqueue(CLEAR, [event_row(1, text="second"), event_row(2)]).events <= 1
    assert outbox.depths(SCOPE).quarantined == 1, "the same row is kept once"
    assert outbox.due_events(SCOPE)[0].content == event_row(1, text="first").content
    kept = json.loads(bytes(scalar(store, "SELECT content FROM sync_quarantine")))  # type: ignore[call-overload]
    assert kept["row"]["sha256"] == event_row(1, text="second").sha256


def test_acknowledged_row_leaves_with_a_receipt(ledger: Ledger) -> None:
    store, clock = ledger(), Clock()
    outbox = Outbox(store, now=clock)
    outbox.enqueue(CLEAR, [event_row(1), event_row(2)])
    rows = outbox.due_events(SCOPE)
    outbox.settle(SCOPE, "event", rows, [Result(rows[0].key, "duplicate"), Result("unknown", "stored")])
    assert keys(outbox.due_events(SCOPE)) == [rows[1].key], "what was not named waits on"
    with store.read() as db:
        receipts = db.exec_driver_sql("SELECT scope, kind, key, sha256, acknowledged_at FROM sync_receipts").all()
    assert [tuple(r) for r in receipts] == [(SCOPE, "event", rows[0].key, rows[0].sha256, text_of(START))]
    assert outbox.state(SCOPE).last_success_at == text_of(START)
    assert scalar(store, "SELECT depth FROM sync_state") == 1


def test_row_that_changed_meanwhile_is_not_removed(ledger: Ledger) -> None:
    store = ledger()
    outbox = Outbox(store)
    outbox.enqueue(CLEAR, [event_row(1)])
    rows = outbox.due_events(SCOPE)
    execute(store, f"UPDATE sync_events SET sha256 = '{'f' * 64}'")
    outbox.settle(SCOPE, "event", rows, stored(rows))
    assert len(outbox.due_events(SCOPE)) == 1


def test_refused_row_waits_longer_each_time_and_dies(ledger: Ledger) -> None:
    clock = Clock()
    outbox = Outbox(ledger(), attempts=3, now=clock, jitter=lambda: 1.0)
    outbox.enqueue(CLEAR, [event_row(1), event_row(2)])
    for wait in (1, 2):
        (row, *_others) = outbox.due_events(SCOPE)
        outbox.settle(SCOPE, "event", [row], [Result(row.key, "rejected", "bad")])
        assert keys(outbox.due_events(SCOPE)) == [event_row(2).key], "the others are not held up"
        clock.move(seconds=wait - 0.1)
        assert len(outbox.due_events(SCOPE)) == 1
        clock.move(seconds=0.1)
        assert outbox.due_events(SCOPE)[0].attempts == {1: 1, 2: 2}[wait]
    (row, *_others) = outbox.due_events(SCOPE)
    outbox.settle(SCOPE, "event", [row], [Result(row.key, "rejected", "bad")])
    clock.move(days=2)
    assert keys(outbox.due_events(SCOPE)) == [event_row(2).key]
    assert outbox.depths(SCOPE) == Depths(1, 0, 1, 0, text_of(START))
    assert outbox.revive(SCOPE) == 1
    assert [(r.key, r.attempts) for r in outbox.due_events(SCOPE)] == [(event_row(1).key, 0), (event_row(2).key, 0)]


@pytest.mark.parametrize("hours", [-24, 24])
def test_clock_that_jumps_a_day_stops_no_row_for_longer_than_the_longest_wait(ledger: Ledger, hours: int) -> None:
    clock = Clock()
    outbox = Outbox(ledger(), now=clock)
    outbox.enqueue(CLEAR, [event_row(1)])
    rows = outbox.due_events(SCOPE)
    outbox.settle(SCOPE, "event", rows, [Result(rows[0].key, "rejected")])
    assert outbox.due_events(SCOPE) == []
    clock.move(hours=hours)
    assert len(outbox.due_events(SCOPE)) == 1


def test_delivery_is_noted(ledger: Ledger) -> None:
    clock = Clock()
    outbox = Outbox(ledger(), now=clock)
    outbox.note_failure(SCOPE, "down", "0123")
    clock.move(hours=1)
    outbox.note_failure(SCOPE, "still down")
    state = outbox.state(SCOPE)
    assert (state.last_attempt_at, state.last_success_at) == (text_of(START + timedelta(hours=1)), None)
    assert (state.last_error, state.refused_token) == ("still down", "0123")
    outbox.note_success(SCOPE)
    state = outbox.state(SCOPE)
    assert (state.last_success_at, state.last_error, state.refused_token) == (text_of(clock.moment), None, None)
    assert outbox.state("third") == module.DeliveryState()


def test_depth_that_another_hand_made_wrong_is_counted_again(ledger: Ledger) -> None:
    store = ledger()
    outbox = Outbox(store, limit=2)
    outbox.enqueue(CLEAR, [event_row(1), event_row(2)])
    execute(store, "DELETE FROM sync_events")
    assert outbox.recount(SCOPE) == 0
    outbox.enqueue(CLEAR, [event_row(3)])
    assert scalar(store, "SELECT depth FROM sync_state") == 1


def test_scoped_row_has_to_be_complete_and_a_legacy_one_not(ledger: Ledger) -> None:
    store = ledger()
    execute(store, "INSERT INTO sync_events (scope, event_id) VALUES ('', 'x')")
    for columns, values in (("sha256", "'short'"), ("sha256, queued_at", f"'{'a' * 64}', 'now'"), ("queued_at", "'now'")):
        with pytest.raises(LedgerError, match=r"(?i)check"):
            execute(store, f"INSERT INTO sync_events (scope, event_id, {columns}) VALUES ('{SCOPE}', 'x', {values})")
    with pytest.raises(LedgerError, match=r"(?i)foreign key"):
        execute(store, f"INSERT INTO body_upload_queue (scope, sha256) VALUES ('', '{'a' * 64}')")


def test_two_that_queue_at_once_queue_each_event_once(ledger: Ledger) -> None:
    ids = append(ledger(), 40, [b"body"])
    added: list[Queued] = []

    def work() -> None:
        added.append(Outbox(ledger()).enqueue_from_ledger(CLEAR))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(q.events for q in added) == 40
    assert sum(q.bodies for q in added) == 1
    assert keys(Outbox(ledger()).due_events(SCOPE)) == ids


@given(failures=strategies.integers(min_value=-1, max_value=10_000), chance=strategies.floats(min_value=0, max_value=1, exclude_max=True))
def test_waits_double_from_one_second_to_five_minutes(failures: int, chance: float) -> None:
    whole = min(300.0, 2.0 ** min(max(failures, 1) - 1, 20))
    assert whole / 2 <= backoff(failures, lambda: chance) <= whole
    assert backoff(failures, lambda: 0.0) * 2 == whole
