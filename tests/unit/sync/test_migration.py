# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows in = rows taken + rows quarantined, whatever they are and wherever it is killed; none twice, none of another identity."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.migration import LegacyRows, Migrated, Migration
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import CONFLICT, Clearance, Outbox, Result
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import bodies, body_upload_queue, sync_events, sync_state
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store
from hypothesis import HealthCheck, given, settings, strategies
from sqlalchemy import delete, func, insert, select

from tests.support.sync import IDENTITY, OTHER, append, event_row, keys, sha256

Ledger = Callable[[], Store]
SCOPE = IDENTITY.scope
LEGACY = Clearance("")
WHEN = "2025-01-01T00:00:00.000000Z"
FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))
NOTHING = Migrated(LegacyRows(0, 0), LegacyRows(0, 0))


@pytest.fixture
def before(tmp_path: Path) -> Store:
    """The ledger that the fleet had before: another file."""
    return Store(tmp_path / "before" / "ledger.db")


def legacy(store: Store, count: int, contents: Iterable[bytes] = ()) -> tuple[list[str], list[str]]:
    """Queue events and bodies as a fleet without identity does. Return their keys."""
    ids = append(store, count, list(contents))
    Outbox(store).enqueue_from_ledger(LEGACY)
    return ids, sorted(map(sha256, contents))


def put(store: Store, table: sqlalchemy.Table, *rows: dict[str, Any]) -> None:
    with store.write() as db:
        for row in rows:
            db.execute(insert(table), row)


def event(number: int, scope: str = "", **other: Any) -> dict[str, Any]:
    row = event_row(number)
    return {"scope": scope, "event_id": row.key, "sha256": row.sha256, "content": row.content, "queued_at": WHEN, **other}


def standing(store: Store, table: sqlalchemy.Table = sync_events) -> set[tuple[str, str]]:
    key = table.c.event_id if table is sync_events else table.c.sha256
    with store.read() as db:
        return {(row[0], row[1]) for row in db.execute(select(table.c.scope, key))}


def reasons(store: Store) -> dict[str, str]:
    with store.read() as db:
        return {row[0]: row[1] for row in db.exec_driver_sql("SELECT key, reason FROM sync_quarantine")}


def test_both_tables_move_into_an_empty_scope(ledger: Ledger) -> None:
    store = ledger()
    ids, hashes = legacy(store, 3, [b"one", b"two"])
    migration = Migration(store)
    found = migration.detect_legacy_rows(IDENTITY)
    assert (found.event_rows, found.body_upload_rows, found.total_rows) == (3, 2, 5)
    assert migration.run(IDENTITY) == Migrated(LegacyRows(3, 2), LegacyRows(0, 0))
    assert migration.detect_legacy_rows(IDENTITY).total_rows == 0
    outbox = Outbox(store)
    assert keys(outbox.due_events(SCOPE)) == ids
    assert keys(outbox.due_bodies(SCOPE)) == hashes
    assert migration.run(IDENTITY) == NOTHING
    depths = {scope: outbox.recount(scope) for scope in ("", SCOPE)}
    assert depths == {"": 0, SCOPE: 5}


def test_depth_is_right_without_counting(ledger: Ledger) -> None:
    store = ledger()
    legacy(store, 3, [b"one"])
    put(store, sync_events, event(1, event_id="broken", content=None))
    Migration(store).run(IDENTITY)
    with store.read() as db:
        assert {r[0]: r[1] for r in db.exec_driver_sql("SELECT scope, depth FROM sync_state")} == {"": 0, SCOPE: 4}


def test_into_a_scope_with_rows_equal_and_other(ledger: Ledger) -> None:
    store = ledger()
    put(store, sync_events, event(1), event(2), event(3), event(2, SCOPE), event(4, SCOPE))
    other = event_row(3, text="other")
    put(store, sync_events, event(3, SCOPE, sha256=other.sha256, content=other.content))
    assert Migration(store).run(IDENTITY) == Migrated(LegacyRows(2, 0), LegacyRows(1, 0))
    assert standing(store) == {(SCOPE, event_row(n).key) for n in (1, 2, 3, 4)}
    assert reasons(store) == {event_row(3).key: CONFLICT}
    with store.read() as db:
        kept = json.loads(bytes(db.exec_driver_sql("SELECT content FROM sync_quarantine").scalar_one()))
        assert bytes(db.execute(select(sync_events.c.content).where(sync_events.c.event_id == other.key)).scalar_one()) == other.content
    assert kept["row"]["sha256"] == event_row(3).sha256


def test_rows_that_break_a_constraint_are_quarantined(ledger: Ledger) -> None:
    store = ledger()
    put(store, bodies, *({"sha256": n * 64, "size": 1, "content": b"x"} for n in "ab"))
    broken: dict[str, dict[str, Any]] = {
        "null": {"sha256": None},
        "empty": {"content": None},
        "short": {"sha256": "abc"},
        "flipped": {"content": b"other bytes"},
    }
    put(store, sync_events, event(1), *(event(2, event_id=name, **values) for name, values in broken.items()), event(3, queued_at=None))
    put(store, body_upload_queue, {"scope": "", "sha256": "a" * 64, "media_type": "text/plain", "size": -1})
    put(store, body_upload_queue, {"scope": "", "sha256": "b" * 64, "media_type": None, "size": 1})
    assert Migration(store).detect_legacy_rows(IDENTITY) == LegacyRows(6, 2)
    assert Migration(store).run(IDENTITY) == Migrated(LegacyRows(2, 0), LegacyRows(4, 2))
    assert standing(store) == {(SCOPE, event_row(1).key), (SCOPE, event_row(3).key)}
    assert standing(store, body_upload_queue) == set()
    said = reasons(store)
    assert set(said) == {*broken, "a" * 64, "b" * 64}
    assert said["flipped"] == "its content does not have its hash"
    assert all("check" in said[key].lower() for key in ("null", "empty", "a" * 64, "b" * 64)), said


def test_rows_of_other_identities_stay_where_they_are(ledger: Ledger, before: Store) -> None:
    store = ledger()
    put(store, sync_events, event(1), event(2, OTHER.scope))
    put(before, sync_events, event(3), event(4, OTHER.scope), event(5, SCOPE))
    migration = Migration(store, before)
    assert migration.detect_legacy_rows(IDENTITY) == LegacyRows(3, 0)
    assert migration.standing() == LegacyRows(4, 0)
    assert migration.run(IDENTITY) == Migrated(LegacyRows(3, 0), LegacyRows(0, 0))
    assert standing(store) == {(OTHER.scope, event_row(2).key), *((SCOPE, event_row(n).key) for n in (1, 3, 5))}
    assert standing(before) == {(OTHER.scope, event_row(4).key)}
    assert (migration.detect_legacy_rows(IDENTITY).total_rows, migration.standing().total_rows) == (0, 1)


def test_between_two_databases_contents_come_along(ledger: Ledger, before: Store) -> None:
    store = ledger()
    ids, hashes = legacy(before, 2, [b"one", b"two", b"flipped"])
    with before.write() as db:
        db.execute(bodies.update().where(bodies.c.sha256 == sha256(b"flipped")).values(content=b"other"))
    assert Migration(store, before).run(IDENTITY) == Migrated(LegacyRows(2, 2), LegacyRows(0, 1))
    outbox = Outbox(store)
    assert keys(outbox.due_events(SCOPE)) == ids
    assert [outbox.content_of(key) for key in keys(outbox.due_bodies(SCOPE))] == [
        content for _hash, content in sorted((sha256(c), c) for c in (b"one", b"two"))
    ]
    assert set(hashes) - set(reasons(store)) == {sha256(b"one"), sha256(b"two")}
    assert standing(before) == standing(before, body_upload_queue) == set()


def test_body_whose_content_is_gone_is_quarantined(ledger: Ledger, before: Store) -> None:
    store = ledger()
    _ids, (gone,) = legacy(before, 1, [b"gone"])
    with before.write() as db:
        db.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    engine = sqlalchemy.create_engine(f"sqlite:///{before.name}")
    with engine.begin() as db:
        db.execute(delete(bodies))
    engine.dispose()
    assert Migration(store, before).run(IDENTITY) == Migrated(LegacyRows(1, 0), LegacyRows(0, 1))
    assert reasons(store) == {gone: "the ledger does not have its content"}


def test_what_columns_do_not_promise_is_quarantined(ledger: Ledger, before: Store) -> None:
    """SQLite keeps what it is given, whatever the column says."""
    store = ledger()
    with before.write() as db:
        db.exec_driver_sql("INSERT INTO sync_events (scope, event_id, sha256, content) VALUES ('', 'text', 'x', 'no bytes')")
        db.exec_driver_sql("INSERT INTO sync_events (scope, event_id, sha256, content) VALUES ('', x'00ff', NULL, x'00')")
        db.exec_driver_sql(f"INSERT INTO sync_events (scope, event_id, sha256, content) VALUES ('', 'nul' || char(0), '{'a' * 64}', NULL)")
    put(before, sync_events, event(1))
    assert Migration(store, before, batch=2).run(IDENTITY) == Migrated(LegacyRows(1, 0), LegacyRows(3, 0))
    assert len(reasons(store)) == 3


def test_no_ledger_has_no_rows(ledger: Ledger, before: Store, tmp_path: Path) -> None:
    migration = Migration(ledger(), before)
    assert migration.detect_legacy_rows(IDENTITY).total_rows == migration.standing().total_rows == 0
    assert migration.run(IDENTITY) == NOTHING
    assert not Path(before.name).exists()


def test_row_that_was_delivered_after_a_kill_is_not_queued_again(ledger: Ledger, before: Store) -> None:
    """The target committed, the source did not delete, and the service delivered meanwhile."""
    store = ledger()
    put(before, sync_events, event(1), event(2))
    put(store, sync_events, event(1, SCOPE))
    outbox = Outbox(store)
    rows = outbox.due_events(SCOPE)
    outbox.settle(SCOPE, "event", rows, [Result(rows[0].key, "stored")])
    assert Migration(store, before).run(IDENTITY) == Migrated(LegacyRows(2, 0), LegacyRows(0, 0))
    assert standing(store) == {(SCOPE, event_row(2).key)}


def test_row_that_changes_while_it_is_moved_is_moved_the_next_time(ledger: Ledger, before: Store) -> None:
    store = ledger()
    put(before, sync_events, event(1))
    changed = event_row(1, text="changed")
    migration = Migration(store, before)
    take = migration._take

    def meddle(*args: Any) -> int:
        done = take(*args)
        with before.write() as db:
            db.execute(sync_events.update().values(content=changed.content, sha256=changed.sha256))
        return done

    migration._take = meddle  # type: ignore[method-assign]
    migration.run(IDENTITY)
    assert standing(before) == {("", event_row(1).key)}
    assert Migration(store, before).run(IDENTITY) == Migrated(LegacyRows(0, 0), LegacyRows(1, 0))


def _killed_at(number: int, work: Callable[[], None]) -> bool:
    """Run *work* in a process that is killed before its statement *number*. Return whether it was."""
    child = os.fork()
    if child == 0:
        left = number

        def count(*_: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
            sqlalchemy.event.listen(sqlalchemy.Engine, "commit", count)
            work()
            os._exit(0)
        except BaseException:  # the child must not run the parent's tests
            os._exit(1)
    _pid, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


Open = Callable[[], Store]


@dataclass(frozen=True)
class Prepared:
    """What stood where before a migration: keys of both tables that are to be taken, and those that cannot be."""

    taken: frozenset[str]
    quarantined: frozenset[str]
    stays: frozenset[tuple[str, str]]


def prepare(target: Store, source: Store, *, empty: bool) -> Prepared:
    """Fill both legacy tables of *source*, which may be *target*, with rows of all kinds; *empty*: nothing stands in the scope yet."""
    with target.write():
        pass  # it is there, and empty
    ids, hashes = legacy(source, 4, [b"one", b"two", b"three"])
    put(source, sync_events, event(9, event_id="broken", content=None), event(8, OTHER.scope))
    put(source, bodies, {"sha256": "a" * 64, "size": 1, "content": b"x"})
    put(source, body_upload_queue, {"scope": "", "sha256": "a" * 64, "media_type": "text/plain", "size": -1})
    stays = {(OTHER.scope, event_row(8).key)}
    if empty:
        # between two databases a body's content comes along, and this one does not have its hash
        return Prepared(frozenset([*ids, *hashes]), frozenset(["broken", "a" * 64]), frozenset(stays))
    with source.read() as db:
        same = db.execute(select(sync_events).where(sync_events.c.event_id == ids[0])).one()
    put(target, sync_events, event(7, SCOPE), event(1, SCOPE, event_id=ids[1]))
    put(target, sync_events, event(1, SCOPE, event_id=same.event_id, sha256=same.sha256, content=bytes(same.content)))
    if target.name != source.name:
        put(
            target,
            bodies,
            {"sha256": hashes[0], "size": 3, "content": next(c for c in (b"one", b"two", b"three") if sha256(c) == hashes[0])},
        )
    put(target, body_upload_queue, {"scope": SCOPE, "sha256": hashes[0], "media_type": "other/type", "size": 3, "queued_at": WHEN})
    stays |= {(SCOPE, key) for key in (event_row(7).key, *ids[:2], hashes[0])}
    held = {"broken", "a" * 64, ids[1], hashes[0]}
    return Prepared(frozenset({*ids, *hashes} - held), frozenset(held), frozenset(stays))


def rows_of(store: Store) -> set[tuple[str, str]]:
    return standing(store) | standing(store, body_upload_queue)


def killed_everywhere(fresh: Callable[[], tuple[Open, Open]], was: Prepared, every: int = 1) -> int:
    """Kill a migration before each statement and commit in turn, then once more by chance; after the next run all is as it has to be.

    *fresh*: makes the prepared databases anew, and returns what opens target and source. Return how many points there were.
    """
    number, chance = 0, random.Random(5)
    while True:
        target, source = fresh()

        def migration(target: Open = target, source: Open = source) -> Migration:
            return Migration(target(), None if source is target else source(), batch=2)

        killed = _killed_at(number, lambda migration=migration: migration().run(IDENTITY))  # type: ignore[misc]
        waiting = {key for scope, key in rows_of(source()) if scope == ""}
        come = {key for scope, key in rows_of(target()) if scope == SCOPE} & was.taken | set(reasons(target()))
        assert waiting | come == was.taken | was.quarantined, f"killed before statement {number}"
        twice = {key for key in waiting & come if (SCOPE, key) not in was.stays}
        assert len(twice) <= (0 if source is target else 2), "both have it until the source has committed too"
        if killed:
            _killed_at(chance.randrange(60), lambda migration=migration: migration().run(IDENTITY))  # type: ignore[misc]
        found = migration().detect_legacy_rows(IDENTITY)
        done = migration().run(IDENTITY)
        assert found == LegacyRows(
            done.taken.event_rows + done.quarantined.event_rows, done.taken.body_upload_rows + done.quarantined.body_upload_rows
        )
        assert set(reasons(target())) == was.quarantined, f"killed before statement {number}"
        assert rows_of(target()) | rows_of(source()) == {(SCOPE, key) for key in was.taken} | was.stays
        assert migration().detect_legacy_rows(IDENTITY).total_rows == 0
        with target().read() as db:
            depth = db.execute(select(sync_state.c.depth).where(sync_state.c.scope == SCOPE)).scalar_one()
        assert depth == len({key for key in was.taken if (SCOPE, key) not in was.stays}), "what was there before was put there by hand"
        assert_unchanged(target())
        if not killed:
            return number
        number += every


def assert_unchanged(store: Store) -> None:
    """Every event that was taken has the bytes of its hash."""
    with store.read() as db:
        rows = db.execute(select(sync_events.c.sha256, sync_events.c.content).where(sync_events.c.scope == SCOPE)).all()
    assert rows
    assert all(sha256(bytes(row.content)) == row.sha256 for row in rows)


@pytest.mark.parametrize("empty", [True, False], ids=["into an empty scope", "into a scope with rows"])
@pytest.mark.parametrize("between", [False, True], ids=["within one database", "between two"])
def test_killed_at_every_row_and_repeated(path: Path, before: Store, between: bool, empty: bool) -> None:
    """*path*: tests/integration/ledger does the same in PostgreSQL, with databases of its own."""
    files = (path, Path(before.name)) if between else (path, path)
    was = prepare(Store(path), before if between else Store(path), empty=empty)
    templates = [(file, file.read_bytes()) for file in files]

    def fresh() -> tuple[Open, Open]:
        for file, content in templates:
            file.write_bytes(content)
        opened = [lambda file=file: Store(file) for file in files]
        return opened[0], opened[1 if between else 0]

    assert killed_everywhere(fresh, was, 1 if FULL else 17) > 30, "it was killed in earnest"


ROWS = strategies.lists(
    strategies.tuples(
        strategies.sampled_from(["legacy", "ours", "theirs"]),
        strategies.integers(1, 6),
        strategies.sampled_from(["sound", "other text", "no content", "no hash", "wrong hash"]),
    ),
    max_size=14,
    unique_by=lambda row: row[:2],
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=ROWS, batch=strategies.integers(1, 4), fails=strategies.integers(0, 40))
def test_nothing_is_lost_or_doubled(
    path: Path, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, str]], batch: int, fails: int
) -> None:
    """*path*: of files only; each example has one of its own."""
    store = Store(tmp_path_factory.mktemp("ledger") / "ledger.db")
    with store.write() as db:
        for where, number, what in rows:
            row = event_row(number, text=what if what == "other text" else "")
            values = {"sha256": None if what == "no hash" else row.sha256, "content": None if what == "no content" else row.content}
            if what == "wrong hash":
                values["content"] = b"x"
            scope = {"legacy": "", "ours": SCOPE, "theirs": OTHER.scope}[where]
            if scope and None in values.values():
                continue
            db.execute(insert(sync_events), {"scope": scope, "event_id": row.key, "queued_at": WHEN, **values})
    with store.read() as db:
        was = {(r.scope, r.event_id): (r.sha256, r.content) for r in db.execute(select(sync_events))}
    _interrupted(store, batch, fails)
    Migration(store, batch=batch).run(IDENTITY)
    with store.read() as db:
        now = {(r.scope, r.event_id): (r.sha256, r.content) for r in db.execute(select(sync_events))}
        held = db.exec_driver_sql("SELECT key FROM sync_quarantine").scalars().all()
        depth = db.exec_driver_sql("SELECT depth FROM sync_state WHERE scope = ?", (SCOPE,)).scalar() or 0
    mine = {key: row for (scope, key), row in was.items() if scope == ""}
    assert {k: v for k, v in now.items() if k[0] == OTHER.scope} == {k: v for k, v in was.items() if k[0] == OTHER.scope}
    assert not [key for key in now if key[0] == ""]
    assert {k: v for k, v in now.items() if k in was} == {k: v for k, v in was.items() if k[0]}, "what stood in the scope stands unchanged"
    for key, row in mine.items():
        assert (now.get((SCOPE, key)) == row) != (key in held), (key, row)
    assert len(held) == len(set(held))
    assert depth == len([k for k in now if k[0] == SCOPE and k not in was])


def _interrupted(store: Store, batch: int, fails: int) -> None:
    """Run a migration whose statement number *fails* does not return."""
    left = fails

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    engine = store._database.engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", count)
    try:
        Migration(store, batch=batch).run(IDENTITY)
    except (KeyboardInterrupt, LedgerError):
        pass
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", count)


def test_a_large_queue_moves_in_batches(ledger: Ledger) -> None:
    store = ledger()
    with store.write() as db:
        db.execute(insert(sync_events), [event(number) for number in range(1, 1201)])
    assert Migration(store).run(IDENTITY).taken.event_rows == 1200
    with store.read() as db:
        assert db.execute(select(func.count()).where(sync_events.c.scope == SCOPE)).scalar_one() == 1200
