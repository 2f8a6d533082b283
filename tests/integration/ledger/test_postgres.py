# SPDX-License-Identifier: GPL-3.0-or-later
"""What a ledger in PostgreSQL does that a file does not: the server that makes it, loses it, or refuses it."""

from __future__ import annotations

import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import schema, store
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import add_body, append_event
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store
from sqlalchemy import inspect

from tests.support.postgres import Server

Someone = Callable[[int], Process]
Ledger = Callable[[], Store]


def test_migrations_make_what_the_code_expects(server: Server, folder: Path) -> None:
    with Store(server.fresh(), folder).write() as db:
        assert compare_metadata(MigrationContext.configure(db, opts={"compare_type": True}), schema.metadata) == []
    assert not folder.exists(), "a new ledger is no upgrade"


def test_settings_that_durability_rests_on(ledger: Ledger) -> None:
    with ledger().write() as db:
        assert db.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_database_without_an_encoding(server: Server, folder: Path, header: Header, someone: Someone) -> None:
    """As `initdb --no-locale` makes them: the driver would give bytes for text."""
    server.execute("CREATE DATABASE plain TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    runs = Runs(Store(server.url("plain"), folder), gone=lambda _process: False)
    runs.open(header, someone(1), ["nœud"])
    assert [run.hosts for run in runs.all()] == [{"nœud": None}]


def test_many_that_create_it_at_once(server: Server, folder: Path) -> None:
    url, failures = server.fresh(), list[BaseException]()

    def create() -> None:
        try:
            with Store(url, folder).write() as db:
                append_event(db, "run.opened", {})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with Store(url, folder).read() as db:
        assert db.exec_driver_sql("SELECT array_agg(seq ORDER BY seq) FROM events").scalar() == [1, 2, 3, 4, 5, 6]
        assert db.exec_driver_sql("SELECT count(*) FROM chains").scalar() == 1


def test_older_ledger_is_upgraded_with_a_backup_that_is_a_ledger(
    server: Server, tmp_path: Path, folder: Path, header: Header, someone: Someone
) -> None:
    url, older = server.fresh(), tmp_path / "older"
    shutil.copytree(store.MIGRATIONS, older, ignore=shutil.ignore_patterns("__pycache__", f"v{schema.HEAD}*"))
    before = schema.KNOWN[:-1]
    with Store(url, folder, migrations=older, head=before[-1], known=before).write() as db:
        db.exec_driver_sql(
            "INSERT INTO runs VALUES ('r1', 'succeeded', 'site.yml', NULL, TRUE, NULL, '[\"all\"]', '[]', '[]', FALSE, 'operator', 'c', "
            "'b', 1, 's', '2.19', '0.1.0', '2025-01-02T03:04:05.000000Z', '2025-01-02T03:04:06.000000Z')"
        )
    runs = Runs(Store(url, folder), gone=lambda _process: False)
    runs.open(header, someone(1), ["a"])
    assert [r.status for r in runs.all()] == ["succeeded", "running"]
    (backup,) = folder.glob("*.bak")
    assert backup.name.startswith(f"ledger.db.{before[-1]}-")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with Store(backup, migrations=older, head=before[-1], known=before).read() as db:
        assert db.exec_driver_sql("SELECT id, dirty, tags FROM runs").all() == [("r1", 1, '["all"]')]
    assert [(r.run_id, r.header.dirty, r.header.tags) for r in _upgraded(backup).all()] == [("r1", True, ("all",))]


def _upgraded(path: Path) -> Runs:
    with Store(path).write():
        pass
    return Runs(Store(path))


def test_ledger_of_a_newer_version_is_refused_and_left_alone(url: str, ledger: Ledger, header: Header, someone: Someone) -> None:
    with ledger().write() as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    runs = Runs(ledger())
    for use in (runs.all, lambda: runs.open(header, someone(1), ["a"])):
        with pytest.raises(LedgerError, match=r"newer pifleet.ops \(schema 9999.*Update the collection"):
            use()


def test_failed_transaction_leaves_nothing(ledger: Ledger) -> None:
    def half_way() -> None:
        with ledger().write() as db:
            add_body(db, "x", "text/plain", b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_way()
    with ledger().read() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM bodies").scalar() == 0


def test_reader_sees_one_moment_and_writes_nothing(ledger: Ledger) -> None:
    with ledger().read() as db:
        before = db.exec_driver_sql("SELECT count(*) FROM events").scalar()
        with ledger().write() as other:
            append_event(other, "run.opened", {})
        assert db.exec_driver_sql("SELECT count(*) FROM events").scalar() == before
        with pytest.raises(LedgerError, match="read-only"), ledger().read() as reader:
            reader.exec_driver_sql("DELETE FROM events")


def test_ledger_that_another_process_holds(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = ledger()
    monkeypatch.setattr(store, "BUSY_SECONDS", 1.0)
    impatient = ledger()
    with ledger().write(), pytest.raises(LedgerError, match=r"1 seconds; pg_stat_activity"), impatient.write():
        pass


def test_server_that_dies_in_a_transaction_keeps_what_was_committed(tmp_path: Path) -> None:
    with Server() as mine:
        url = mine.fresh()

        def write(number: int, *, die: bool = False) -> None:
            with Store(url, tmp_path).write() as db:
                append_event(db, "run.opened", {"number": number})
                if die:
                    mine.stop("immediate")

        write(1)
        with pytest.raises(LedgerError, match="Look whether the server is up"):
            write(2, die=True)
        with pytest.raises(LedgerError, match="Look whether the server is up"):
            write(3)
        mine.start()
        write(4)
        with Store(url, tmp_path).read() as db:
            assert db.exec_driver_sql("SELECT array_agg(seq ORDER BY seq) FROM events").scalar() == [1, 2]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://user:hunter22@localhost/ledger", "password in it.*pgpass"),
        ("mysql://user@localhost/ledger", "names no ledger.*Give postgresql://"),
        ("postgresql://user@localhost", "names no ledger.*Give postgresql://"),
        ("postgresql://user@host:port/ledger", "is no URL"),
        ("sqlite://", "names no ledger"),
    ],
)
def test_url_that_names_no_ledger(url: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=says) as raised:
        Store(url, tmp_path)
    assert "hunter22" not in str(raised.value)


def test_url_of_a_file(tmp_path: Path, header: Header, someone: Someone) -> None:
    Runs(Store(f"sqlite:///{tmp_path}/sub/ledger.db")).open(header, someone(1), ["a"])
    assert len(Runs(Store(tmp_path / "sub" / "ledger.db")).all()) == 1


def test_database_that_is_not_there(server: Server, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"does not exist.*createdb"), Store(server.url("none"), tmp_path).write():
        pass


def test_user_that_the_server_does_not_know(server: Server, url: str, tmp_path: Path) -> None:
    with (
        pytest.raises(LedgerError, match=r"does not exist.*user in ledger_url"),
        Store(url.replace("pifleet@", "nobody@"), tmp_path).write(),
    ):
        pass


def test_user_without_rights(server: Server, tmp_path: Path) -> None:
    url = server.fresh()
    server.execute("CREATE ROLE guest LOGIN")
    with (
        pytest.raises(LedgerError, match=r"permission denied.*owner of the database"),
        Store(url.replace("pifleet@", "guest@"), tmp_path).write(),
    ):
        pass


def test_database_of_somebody_else(server: Server, tmp_path: Path) -> None:
    url = server.fresh()
    server.execute("CREATE TABLE other (x int)", url.split("?")[0].rpartition("/")[2])
    with pytest.raises(LedgerError, match=r"but no ledger.*place of its own"), Store(url, tmp_path).write():
        pass


def test_name_for_people_has_no_password(url: str, folder: Path) -> None:
    assert Store(url, folder).name.startswith("postgresql://pifleet@/ledger")


def test_empty_database_is_no_ledger_to_a_reader(server: Server, tmp_path: Path) -> None:
    url = server.fresh()
    with pytest.raises(LedgerError, match="There is no ledger"), Store(url, tmp_path).read():
        pass
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_tables_are_all_copied(ledger: Ledger, folder: Path) -> None:
    with ledger().write() as db:
        assert set(inspect(db).get_table_names()) == {*schema.metadata.tables, "alembic_version"}
