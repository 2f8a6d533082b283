# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger's file: durable, private, upgraded with a backup, and clear about what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import verify
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import schema, store
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.audit import Ledger
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import append_event
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store
from sqlalchemy.exc import IntegrityError

from tests.unit.ledger import conftest as files

ROOT = Path(__file__).resolve().parents[3]
Someone = Callable[[int], Process]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- schema --------------------------------------------------------------------------------------------------------------


def test_migrations_make_what_the_code_expects(path: Path) -> None:
    with Store(path).write() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_head_and_known_versions_are_those_of_the_migrations() -> None:
    script = ScriptDirectory(str(store.MIGRATIONS))
    assert script.get_heads() == [schema.HEAD]
    assert tuple(r.revision for r in reversed(list(script.walk_revisions()))) == schema.KNOWN


def test_settings_that_durability_rests_on(path: Path) -> None:
    with Store(path).write() as db:
        found = {p: db.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")}
    assert found == {"journal_mode": "delete", "synchronous": 3, "foreign_keys": 1, "busy_timeout": int(store.BUSY_SECONDS * 1000)}


def test_ready_file_is_used_without_alembic(path: Path) -> None:
    with Store(path).write():
        pass
    code = (
        "import sys; sys.path.insert(0, '.collections'); from pathlib import Path;"
        "from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store\n"
        f"with Store(Path({str(path)!r})).write(): pass\n"
        "assert 'alembic' not in sys.modules and 'sqlalchemy.orm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- the file ------------------------------------------------------------------------------------------------------------


def test_file_and_folder_are_private_whatever_the_umask(path: Path) -> None:
    old = os.umask(0)
    try:
        with Store(path).write():
            pass
    finally:
        os.umask(old)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_file_and_folder_that_others_can_read_become_private(path: Path) -> None:
    with Store(path).write():
        pass
    path.chmod(0o644)
    path.parent.chmod(0o755)
    with Store(path).write():
        pass
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_reading_makes_nothing(path: Path) -> None:
    with pytest.raises(LedgerError, match="There is no ledger"), Store(path).read():
        pass
    assert not path.parent.exists()


def test_reading_what_a_killed_creation_left(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(LedgerError, match="There is no ledger"), Store(path).read():
        pass


def test_failed_transaction_leaves_nothing(path: Path, runs: Runs, header: Header, someone: Someone) -> None:
    runs.open(header, someone(1), ["a"])

    def half_way() -> None:
        with Store(path).write() as db:
            db.exec_driver_sql("DELETE FROM run_hosts")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_way()
    assert runs.all()[0].hosts == {"a": None}


# --- upgrades ------------------------------------------------------------------------------------------------------------

NEXT = """
from alembic import op
import sqlalchemy as sa
revision, down_revision, branch_labels, depends_on = "9999", "{head}", None, None
def upgrade():
    op.add_column("runs", sa.Column("note", sa.String))
    {more}
"""


@pytest.fixture
def newer(tmp_path: Path) -> Callable[[Path, str], Store]:
    """The same code with one more migration."""

    def make(path: Path, more: str = "") -> Store:
        migrations = tmp_path / f"migrations{len(more)}"
        if not migrations.exists():
            shutil.copytree(store.MIGRATIONS, migrations, ignore=shutil.ignore_patterns("__pycache__"))
            (migrations / "versions" / "v9999_note.py").write_text(NEXT.format(head=schema.HEAD, more=more))
        return Store(path, migrations=migrations, head="9999", known=(*schema.KNOWN, "9999"))

    return make


def test_older_file_is_upgraded_with_a_backup(path: Path, runs: Runs, header: Header, someone: Someone, newer) -> None:
    runs.open(header, someone(1), ["a"])
    with newer(path).write() as db:
        assert "note" in {row[1] for row in db.exec_driver_sql("PRAGMA table_info(runs)")}
        assert db.exec_driver_sql("SELECT count(*) FROM runs").scalar() == 1
    (backup,) = path.parent.glob("*.bak")
    assert backup.name.startswith(f"ledger.db.{schema.HEAD}-")
    assert mode(backup) == 0o600
    assert Runs(Store(backup)).all()[0].header == header
    with newer(path).write():
        pass
    assert len(list(path.parent.glob("*.bak"))) == 1, "a file that is up to date is not backed up"


# what the code of the first release wrote: one run, open, with an artifact
FIRST_RELEASE = """
INSERT INTO runs VALUES ('r1', 'running', 'site.yml', '{commit}', 0, NULL, '["all"]', '[]', '["inventory/lab"]', 0,
  'operator', 'controller', 'boot', 1, 'start-1', '2.19.14', '0.1.0', '2025-01-02T03:04:05.000000Z', NULL);
INSERT INTO run_hosts (run_id, host) VALUES ('r1', 'a');
INSERT INTO bodies VALUES ('230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5', 4, CAST('body' AS BLOB));
INSERT INTO artifacts VALUES ('r1', 1, 'diff', 'text/x-diff', '230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5',
  '2025-01-02T03:04:06.000000Z');
"""


def test_ledger_of_the_first_release_keeps_its_runs(tmp_path: Path, path: Path, header: Header, someone: Someone) -> None:
    first = tmp_path / "first"
    shutil.copytree(store.MIGRATIONS, first, ignore=shutil.ignore_patterns("__pycache__", "v000[2-9]*"))
    with Store(path, migrations=first, head="0001", known=("0001",)).write() as db:
        for statement in FIRST_RELEASE.format(commit="a" * 40).split(";")[:-1]:
            db.exec_driver_sql(statement)
        assert not {"rebuilds", "events"} & set(db.exec_driver_sql("SELECT name FROM sqlite_master").scalars())
    new = Runs(Store(path), gone=lambda process: process.pid == 1)
    assert [i.run_id for i in new.open(header, someone(2), ["a"]).interrupted] == ["r1"]
    assert [(r.status, r.header) for r in new.all()] == [("interrupted", header), ("running", header)]
    assert [(artifact.media_type, body) for artifact, body in new.artifacts("r1")] == [("text/x-diff", b"body")]
    with Store(path).read() as db:
        assert db.exec_driver_sql("SELECT media_type FROM bodies").scalars().all() == ["text/x-diff"]
    (backup,) = path.parent.glob("*.bak")
    assert backup.name.startswith("ledger.db.0001-")


# a fix run with a step, as it was before fix runs could wait in a queue
FIX_RUN = """
INSERT INTO fix_runs (id, seq, service, stack, node, instruction, status, requester, run_id, created_at)
  VALUES ('fix-000001-web', 1, 'web', 'shop', 'pi-1', 'auto', 'failed', 'operator', '{run}', '2025-01-02T03:04:05.000000Z');
INSERT INTO fix_run_steps (fix_run_id, number, step, state, detail) VALUES ('fix-000001-web', 1, 'analyze', 'failed', '{{}}');
"""


def test_fix_runs_from_before_the_queue_are_kept_whole(tmp_path: Path, path: Path, header: Header, someone: Someone) -> None:
    old = tmp_path / "old"
    shutil.copytree(store.MIGRATIONS, old, ignore=shutil.ignore_patterns("__pycache__", "v0008*", "v0009*"))
    before = Store(path, migrations=old, head="0007", known=schema.KNOWN[:7])
    run_id = Runs(before).open(header, someone(1), ["a"]).run_id
    with before.write() as db:
        for statement in FIX_RUN.format(run=run_id).split(";")[:-1]:
            db.exec_driver_sql(statement)
    with Store(path).write() as db:
        assert db.exec_driver_sql("SELECT id, run_id, priority, deliveries FROM fix_runs").all() == [("fix-000001-web", run_id, None, None)]
        assert db.exec_driver_sql("SELECT step, state FROM fix_run_steps").all() == [("analyze", "failed")]
        assert db.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        db.exec_driver_sql("UPDATE fix_runs SET run_id = NULL")
        with pytest.raises(IntegrityError):
            db.exec_driver_sql("INSERT INTO fix_run_steps (fix_run_id, number, step, state, detail) VALUES ('x', 1, 'a', 'b', '{}')")


def test_reader_does_not_upgrade(path: Path, runs: Runs, header: Header, someone: Someone, newer) -> None:
    runs.open(header, someone(1), ["a"])
    with pytest.raises(LedgerError, match="next run of a playbook upgrades"), newer(path).read():
        pass


def test_failed_upgrade_leaves_the_file_as_it_was(path: Path, runs: Runs, header: Header, someone: Someone, newer) -> None:
    runs.open(header, someone(1), ["a"])
    with pytest.raises(RuntimeError, match="half way"), newer(path, "raise RuntimeError('half way')").write():
        pass
    assert runs.all()[0].status == "running"
    with Store(path).read() as db:
        assert "note" not in {row[1] for row in db.exec_driver_sql("PRAGMA table_info(runs)")}


def test_file_of_a_newer_version_is_refused_and_left_alone(path: Path, runs: Runs, header: Header, someone: Someone, newer) -> None:
    with newer(path).write():
        pass
    before = path.read_bytes()
    for use in (runs.all, lambda: runs.open(header, someone(1), ["a"])):
        with pytest.raises(
            LedgerError, match=rf"newer pifleet.ops \(schema 9999; this one knows up to {schema.HEAD}\).*Update the collection"
        ):
            use()
    assert path.read_bytes() == before


def test_two_that_create_it_at_once(path: Path) -> None:
    failures: list[BaseException] = []

    def create() -> None:
        try:
            with Store(path).write() as db:
                db.exec_driver_sql("SELECT count(*) FROM runs")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- what can be wrong with it -------------------------------------------------------------------------------------------


def other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE other (x)")


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, but it is long enough to be looked at" * 40)


def corrupt_page(path: Path) -> None:
    with Store(path).write():
        pass
    with path.open("r+b") as stream:
        stream.seek(100)
        stream.write(b"\xff" * 3000)


@pytest.mark.parametrize(
    ("harm", "says"),
    [(other_database, "no ledger.*Move it away"), (garbage, "damaged.*mv .*recover"), (corrupt_page, "damaged.*mv .*recover")],
)
def test_file_that_is_no_ledger_is_told_and_kept(path: Path, runs: Runs, header: Header, someone: Someone, harm, says: str) -> None:
    path.parent.mkdir()
    harm(path)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=says):
        runs.open(header, someone(1), ["a"])
    assert path.read_bytes() == before


def damaged_pages(path: Path) -> None:
    """A ledger whose first page is whole, so that the damage shows in use alone."""
    runs = Runs(Store(path))
    for number in range(3):
        runs.open(files.HEADER, files.process_number(number), ["a"])
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 4096):
        content[start : start + 64] = b"\xff" * 64
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", [garbage, corrupt_page, damaged_pages])
def test_damaged_file_of_the_fleet_is_moved_aside_and_named_by_the_next(path: Path, header: Header, someone: Someone, harm) -> None:
    path.parent.mkdir()
    harm(path)
    before, journal = path.read_bytes(), Path(f"{path}-journal")
    runs = Runs(Store(path, quarantine=True))
    with pytest.raises(LedgerError, match=r"damaged, and was moved to .*Restore a backup.*or run again"):
        runs.open(header, someone(1), ["a"])
    (kept,) = path.parent.glob("ledger.db.damaged-*")
    assert kept.read_bytes() == before
    assert not path.exists() and not journal.exists()
    assert runs.open(header, someone(1), ["a"]).fresh
    with Store(path).read() as db:
        first = db.exec_driver_sql("SELECT kind, content FROM events WHERE seq = 1").one()
        assert not verify.verify(Ledger(db)).findings
    assert first.kind == "ledger.replaced"
    assert json.loads(first.content)["data"] == {"file": kept.name, "sha256": hashlib.sha256(before).hexdigest()}


def test_journal_that_sqlite_could_not_roll_back_is_moved_too(path: Path) -> None:
    """Else SQLite takes it for one of the new file's, and rolls it back into that."""
    path.parent.mkdir()
    garbage(path)
    journal = Path(f"{path}-journal")
    journal.write_bytes(b"what was under way")
    kept = store.Sqlite(path)._set_aside()
    assert Path(f"{kept}-journal").read_bytes() == b"what was under way"
    assert not journal.exists() and not path.exists()
    with Store(path).write() as db:
        assert store.damaged_before(db) == [kept]


def test_of_many_that_find_it_damaged_one_moves_it_and_nobody_the_new_one(path: Path) -> None:
    path.parent.mkdir()
    garbage(path)
    barrier, failures = threading.Barrier(6), list[str]()

    def use() -> None:
        barrier.wait()
        for _ in range(4):
            try:
                with Store(path, quarantine=True).write() as db:
                    append_event(db, "test.event", {})
            except LedgerError as error:
                failures.append(str(error))

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(path.parent.glob("ledger.db.damaged-*"))) == 1
    assert sum("was moved" in failure for failure in failures) == 1
    with Store(path).read() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM events").scalar() == 6 * 4 - len(failures) + 1


def test_file_that_is_not_damaged_is_never_moved(path: Path, header: Header, someone: Someone) -> None:
    """Whatever went wrong: only what SQLite itself finds damaged is moved."""
    path.parent.mkdir()
    other_database(path)
    with pytest.raises(LedgerError, match="no ledger"):
        Runs(Store(path, quarantine=True)).open(header, someone(1), ["a"])
    said = sqlite3.DatabaseError("database disk image is malformed")
    said.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    assert store.Sqlite(path).quarantine(said) is None
    assert path.exists()


def test_reader_of_a_damaged_file_moves_nothing(path: Path) -> None:
    path.parent.mkdir()
    garbage(path)
    with pytest.raises(LedgerError, match=r"damaged.*mv"), Store(path, quarantine=True).read():
        pass
    assert [p.name for p in path.parent.iterdir()] == ["ledger.db"]


def test_folder_that_cannot_be_made(tmp_path: Path, header: Header, someone: Someone) -> None:
    (tmp_path / ".pifleet").write_text("a file is in the way")
    with pytest.raises(LedgerError, match=r"cannot be written|cannot be used"):
        Runs(Store(tmp_path / ".pifleet" / "ledger.db")).open(header, someone(1), ["a"])


def test_file_that_is_read_only(path: Path, runs: Runs, header: Header, someone: Someone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so SQLite itself opens the file for reading."""
    with Store(path).write():
        pass
    connect = sqlite3.connect

    def read_only(database: str, **options: object) -> sqlite3.Connection:
        return connect(f"file:{database}?mode=ro", uri=True, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3.dbapi2, "connect", read_only)
    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(LedgerError, match=r"readonly.*write access"):
        runs.open(header, someone(1), ["a"])


def test_disk_that_is_full(path: Path, runs: Runs, header: Header, someone: Someone) -> None:
    """A limit of the file's size is what a process can do to itself to see the error of a full disk."""
    run_id = runs.open(header, someone(1), ["a"]).run_id
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, old[1]))
    try:
        with pytest.raises(LedgerError, match=r"cannot be used: .*(full|I/O).*disk"):
            runs.attach(someone(1), "large", "text/plain", b"x" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert runs.artifacts(run_id) == ()
    assert runs.attach(someone(1), "large", "text/plain", b"x" * 200_000) is not None


def test_ledger_that_another_process_holds(
    path: Path, runs: Runs, header: Header, someone: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.open(header, someone(1), ["a"])
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.1)
    impatient = Runs(Store(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match=r"locked.*fuser"):
            impatient.open(header, someone(2), ["a"])
        assert len(runs.all()) == 1, "a reader is not kept waiting"
    impatient.open(header, someone(2), ["a"])


# --- kill -9 -------------------------------------------------------------------------------------------------------------

WRITER = """
import sys
sys.path.insert(0, ".collections")
from pathlib import Path
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
runs = Runs(Store(Path(sys.argv[1])), gone=lambda process: False)
header = Header("site.yml", None, None, None, (), (), (), False, "operator", "2.19", "0.1.0")
number = int(sys.argv[2])
print("begin", flush=True)
while True:
    number += 1
    me = Process("controller", "boot", number, "x")
    run_id = runs.open(header, me, [f"host{n}" for n in range(20)]).run_id
    print("opened", run_id, flush=True)
    runs.attach(me, "diff", "text/plain", f"{number} ".encode() * 5000)
    print("noted", run_id, flush=True)
    runs.close(me, {f"host{n}": "ok" for n in range(20)})
    print("closed", run_id, flush=True)
"""


def test_killed_at_any_moment_what_was_acknowledged_is_there(path: Path) -> None:
    """kill -9 in the creation of the file, then in its use: whole transactions only, and none lost that was acknowledged."""
    said: dict[str, str] = {}
    for number in range(40 if os.environ.get("PIFLEET_TEST_FULL") else 6):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(number * 10_000)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        if number % 3:  # not in the creation: it has written
            lines.append(child.stdout.readline())
        time.sleep(0.003 + (0.041 * number) % 0.1)
        child.kill()
        lines += child.communicate()[0].splitlines(keepends=True)
        said.update({line.split()[1]: line.split()[0] for line in lines if line.endswith("\n") and " " in line})
        if not path.exists():
            continue
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    found = {run.run_id: run for run in Runs(Store(path)).all()}
    for run_id, state in said.items():
        assert len(found[run_id].hosts) == 20
        assert state != "closed" or found[run_id].status == "succeeded"
        assert state != "noted" or len(Runs(Store(path)).artifacts(run_id)) == 1
    assert said


def test_killed_in_the_creation_is_created_by_the_next(path: Path, header: Header, someone: Someone) -> None:
    path.parent.mkdir()
    path.touch(0o600)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:  # what a kill between two statements leaves, in one transaction
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE runs (id)")
        db.execute("ROLLBACK")
    assert Runs(Store(path)).open(header, someone(1), ["a"]).fresh


@pytest.mark.parametrize("reading", [False, True])
@pytest.mark.parametrize("replaced", [False, True])
def test_session_does_not_go_on_in_a_file_that_was_moved(path: Path, reading: bool, replaced: bool) -> None:
    said = "There is no ledger" if reading and not replaced else "another file"
    mine = Store(path)
    with mine.session():
        with mine.write() as db:
            db.exec_driver_sql("CREATE TABLE notes (text TEXT)")
        path.rename(path.with_name("moved"))
        if replaced:
            with Store(path).write():
                pass
        for _ in range(2):
            with pytest.raises(LedgerError, match=said), mine.read() if reading else mine.write() as db:
                db.exec_driver_sql("INSERT INTO notes VALUES ('lost')")
    with Store(path.with_name("moved")).read() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM notes").scalar() == 0


def test_session_has_one_connection_for_all_its_transactions(path: Path) -> None:
    store = Store(path)
    opened: list[object] = []
    sqlalchemy.event.listen(store._database.engine, "connect", lambda *_: opened.append(1))
    with store.session():
        assert not path.exists(), "it is opened when it is needed"
        with pytest.raises(LedgerError, match="There is no ledger"), store.read():
            pass
        assert not path.exists()
        with store.write() as db:
            db.exec_driver_sql("CREATE TABLE notes (text TEXT)")
        opened.clear()
        for _ in range(3):
            with store.write() as db:
                db.exec_driver_sql("INSERT INTO notes VALUES ('kept')")
            with store.read() as db:
                assert db.exec_driver_sql("SELECT count(*) FROM notes").scalar()
        with pytest.raises(KeyboardInterrupt), store.write() as db:
            raise KeyboardInterrupt(db.exec_driver_sql("INSERT INTO notes VALUES ('undone')"))
        with Store(path).read() as db:
            assert db.exec_driver_sql("SELECT count(*) FROM notes").scalar() == 3
    assert len(opened) <= 1
    with store.write() as db:
        db.exec_driver_sql("DROP TABLE notes")
    assert len(opened) <= 2
