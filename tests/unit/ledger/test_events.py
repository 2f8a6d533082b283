# SPDX-License-Identifier: GPL-3.0-or-later
"""Events and bodies in a ledger: chained, committed with what they are about, and never twice at one place."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from datetime import datetime, timezone

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.chain import GENESIS, EventError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import MAX_BODY, add_body, append_event
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import bodies, chains, events
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from sqlalchemy import select

Ledger = Callable[[], Store]
MOMENT = datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def test_event_says_all_of_itself_in_its_content(ledger: Ledger) -> None:
    with ledger().write() as db:
        body = add_body(db, "a.diff", "text/x-diff", b"-a\n+b\n")
        first = append_event(db, "run.opened", {})
        made = append_event(db, "run.closed", {"b": 1.5, "a": "ü"}, run_id="r1", host="pi", bodies=[body], now=lambda: MOMENT)
    assert made.content == (
        b'{"at":"2025-01-02T03:04:05.000000Z","bodies":[{"media_type":"text/x-diff","name":"a.diff","sha256":"'
        + hashlib.sha256(b"-a\n+b\n").hexdigest().encode()
        + b'","size":6}],"chain":"'
        + made.chain.encode()
        + '","data":{"a":"ü","b":1.5},"host":"pi","kind":"run.closed","prev":"'.encode()
        + first.sha256.encode()
        + b'","run":"r1","seq":2,"states":[],"v":1}'
    )
    assert made.sha256 == hashlib.sha256(made.content).hexdigest()
    assert made.event_id == f"{made.chain}-0000000002"
    with ledger().read() as db:
        row = db.execute(select(events).order_by(events.c.seq.desc())).first()
        assert (row.id, row.chain, row.seq, row.kind, row.run_id, row.host) == (made.event_id, made.chain, 2, "run.closed", "r1", "pi")
        assert (bytes(row.content), row.sha256, row.at) == (made.content, made.sha256, "2025-01-02T03:04:05.000000Z")
        assert db.execute(select(chains.c.own, chains.c.seq, chains.c.sha256)).one() == (True, 2, made.sha256)
        assert tuple(db.execute(select(bodies)).one()) == (body.sha256, 6, b"-a\n+b\n", "text/x-diff")


def test_each_event_holds_on_to_the_one_before(ledger: Ledger) -> None:
    made = []
    for number in range(3):
        with ledger().write() as db:
            made.append(append_event(db, "run.opened", {"number": number}))
    assert [e.seq for e in made] == [1, 2, 3]
    assert [json.loads(e.content)["prev"] for e in made] == [GENESIS, made[0].sha256, made[1].sha256]
    assert [json.loads(e.content).get("began") is not None for e in made] == [True, False, False]


def test_event_goes_with_the_transaction(ledger: Ledger) -> None:
    def half_way() -> None:
        with ledger().write() as db:
            add_body(db, "x", "text/plain", b"x")
            append_event(db, "run.opened", {})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_way()
    with ledger().write() as db:
        assert append_event(db, "run.opened", {}).seq == 1
        assert db.execute(select(bodies)).all() == []


def test_equal_bodies_are_kept_once(ledger: Ledger) -> None:
    with ledger().write() as db:
        one, two = (add_body(db, name, "text/plain", b"same") for name in ("one", "two"))
        assert one.sha256 == two.sha256
        assert (one.name, two.name) == ("one", "two")
        assert len(db.execute(select(bodies)).all()) == 1


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        ("closed", {}, "no kind of event"),
        ("Run.closed", {}, "no kind of event"),
        ("run.closed", {"n": float("nan")}, "cannot be recorded as JSON"),
        ("run.closed", {"n": 2**60}, "cannot be recorded as JSON.*2\\^53"),
        ("run.closed", {"n": object()}, "cannot be recorded as JSON"),
        ("run.closed", {"n": "\ud800"}, "cannot be recorded as JSON"),
        ("run.closed", {"n": "x" * (1 << 20)}, "Put what is large into a body"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_leaves_nothing(ledger: Ledger, kind: str, data: dict[str, object], says: str) -> None:
    with pytest.raises(EventError, match=says), ledger().write() as db:
        append_event(db, kind, data)
    with ledger().write() as db:
        assert append_event(db, "run.opened", {}).seq == 1


def test_body_that_is_too_large_is_refused(ledger: Ledger) -> None:
    with ledger().write() as db, pytest.raises(EventError, match="takes 32"):
        add_body(db, "x", "text/plain", b"x" * (MAX_BODY + 1))


def test_writers_at_once_get_places_of_their_own(ledger: Ledger) -> None:
    with ledger().write():
        pass
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(5):
                with ledger().write() as db:
                    append_event(db, "run.opened", {})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with ledger().read() as db:
        rows = db.execute(select(events.c.seq, events.c.sha256, events.c.content).order_by(events.c.seq)).all()
    assert [row.seq for row in rows] == list(range(1, 21))
    assert [json.loads(row.content)["prev"] for row in rows] == [GENESIS, *(row.sha256 for row in rows[:-1])]
