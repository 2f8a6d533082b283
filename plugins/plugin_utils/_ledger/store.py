# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger's database: created, upgraded, opened, and written in durable transactions. ``postgres`` has what differs there.

SQLite has a rollback journal with ``synchronous=EXTRA``: a commit is on the disk when it returns, and there is no WAL, whose reset corrupts
files in SQLite before 3.51.3 (https://sqlite.org/wal.html). Every write takes the lock first (``BEGIN IMMEDIATE``, in PostgreSQL an
advisory lock), so that two runs wait for each other instead of failing in the middle.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

import sqlalchemy
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import schema
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

#: what SQLite says of a file that is damaged, or no database at all; https://sqlite.org/rescode.html
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
#: seconds that a write waits for another run's
BUSY_SECONDS = 20.0
#: between the name of a ledger's file and the moment at which it was found damaged
DAMAGED = ".damaged-"
MIGRATIONS = Path(__file__).resolve().parent / "migrations"


class LedgerError(PifleetError):
    """The ledger cannot be read or written."""


class NoLedgerError(LedgerError):
    """There is nothing to read yet: no ledger, or one that the next run upgrades first."""


class Database(Protocol):
    """What the store needs of one kind of database. *name*: for people, without a password."""

    name: str
    engine: Engine

    def exists(self) -> bool:
        """Whether there is something to read from; a database that cannot be asked is told by reading."""

    def create(self) -> None:
        """Make what a first connection needs."""

    def back_up(self, connection: Connection, version: str) -> Path:
        """Copy the ledger, whose writers wait, before an upgrade from *version*, whole and durable, and return the copy's path."""

    def explained(self, error: BaseException) -> LedgerError:
        """Return what a person can do about an error of the database."""

    def claim(self, name: str) -> AbstractContextManager[bool]:
        """Have *name* for oneself as long as the block takes; whether nobody else, on any controller, had it."""

    def quarantine(self, error: BaseException) -> Path | None:
        """Where *error* says that the ledger is damaged, and it is: move it aside, whole, and return its new path."""


class Store:
    """One ledger. *place*: its file, or a URL (``postgresql://user@host/name``); *folder*: of backups where it is no file.

    *quarantine*: a file that a write finds damaged is moved aside, so that the next one begins a new one; else it is left where it is.
    *migrations*, *head* and *known* are those of the code; tests give others. Raises LedgerError for a place that is none.
    """

    def __init__(
        self,
        place: Path | str,
        folder: Path | None = None,
        *,
        quarantine: bool = False,
        migrations: Path = MIGRATIONS,
        head: str = schema.HEAD,
        known: tuple[str, ...] = schema.KNOWN,
    ) -> None:
        self._database = database_at(place, folder)
        self.name = self._database.name
        self._quarantine = quarantine
        self._migrations = migrations
        self._head = head
        self._known = known
        self._ready = False
        self._session: ExitStack | None = None
        self._kept: Connection | None = None

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep one connection for all transactions inside of the block, for what has many: to open one costs as much as a small commit.

        Of one thread, and never over a fork.
        """
        with ExitStack() as self._session:
            try:
                yield
            finally:
                self._session = self._kept = None

    def claim(self, name: str) -> AbstractContextManager[bool]:
        """Have *name* for oneself as long as the block takes, or this process lives; whether nobody else, on any controller, had it.

        A ledger that is a file is of one controller, whose processes can be asked whether they live: there everybody has it.
        """
        return self._database.claim(name)

    @contextmanager
    def _transaction(self, *, read: bool) -> Iterator[Connection]:
        with ExitStack() as here:
            connection = self._kept or (self._session or here).enter_context(self._database.engine.connect())
            if self._session:
                self._kept = connection
            here.enter_context(connection.execution_options(pifleet_read=read).begin())
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, committed durably at the end of the block or not at all. Creates or upgrades the ledger first where needed."""
        with self._translated(writes=True):
            if not self._ready:
                self._prepare()
            with self._transaction(read=False) as connection:
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view. Raises LedgerError where there is no ledger yet, or where it has to be upgraded by a writing run first."""
        with self._translated():
            if not self._database.exists():
                raise self._none()
            with self._transaction(read=True) as connection:
                version = self._version(connection)
                if version is None:
                    raise self._none()
                if version != self._head:
                    raise NoLedgerError(f"The ledger {self.name} is of an older version.", "The next run of a playbook upgrades it.")
                yield connection

    def _none(self) -> NoLedgerError:
        return NoLedgerError(f"There is no ledger at {self.name}.", "It is made by the first run of a playbook in this fleet_root.")

    def _prepare(self) -> None:
        """Make the ledger what the code expects. Of two processes that come here at once, one waits and then finds it done."""
        self._database.create()
        with self._database.engine.begin() as connection:
            current = self._version(connection)
            if current != self._head:
                if current is not None:
                    self._database.back_up(connection, current)
                migrate(connection, self._migrations, self._head)
        self._ready = True

    def _version(self, connection: Connection) -> str | None:
        """Return the ledger's schema version, None for an empty database. Raises LedgerError for one that this code does not know."""
        tables = sqlalchemy.inspect(connection).get_table_names()
        if not tables:
            return None
        if "alembic_version" not in tables:
            raise LedgerError(
                f"{self.name} is a database, but no ledger.", "Move it away, or give the ledger a place of its own; the next run makes it."
            )
        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if version not in self._known:
            raise LedgerError(
                f"The ledger {self.name} was written by a newer pifleet.ops (schema {version}; this one knows up to {self._head}).",
                "Update the collection. Nothing was changed.",
            )
        return str(version)

    @contextmanager
    def _translated(self, *, writes: bool = False) -> Iterator[None]:
        try:
            yield
        except (sqlalchemy.exc.DBAPIError, sqlite3.Error) as error:
            explained = self._database.explained(error)
            if writes and self._quarantine and (kept := self._database.quarantine(error)):
                explained = LedgerError(
                    f"{explained.what} It is damaged, and was moved to {kept} for the auditor.",
                    f"Restore a backup as {self.name}, or run again to begin a new one, which names the damaged one.",
                )
            raise explained from error
        except OSError as error:
            raise LedgerError(f"The ledger {self.name} cannot be written: {error.strerror or error}.", way_out(str(error))) from error


def database_at(place: Path | str, folder: Path | None = None) -> Database:
    """Return the database at *place*. Raises LedgerError for a URL that names none."""
    if isinstance(place, Path) or "://" not in place:
        return Sqlite(Path(place))
    try:
        url = make_url(place)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        raise LedgerError(
            "ledger_url is no URL.", "Give postgresql://USER@HOST/DATABASE, or sqlite:////absolute/path/of/ledger.db."
        ) from error
    if url.get_backend_name() == "sqlite" and url.database:
        return Sqlite(Path(url.database))
    # psycopg takes 50 ms to import, and most ledgers are files
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.postgres import Postgres

    return Postgres.at(url, folder)


class Sqlite:
    """A file of the controller."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        # NullPool: a connection lives as long as one transaction, so that none is inherited by a forked process (which SQLite forbids)
        url = URL.create("sqlite", database=str(path))
        self.engine = sqlalchemy.create_engine(url, connect_args={"timeout": BUSY_SECONDS}, poolclass=NullPool)
        event.listen(self.engine, "connect", self._on_connect)
        event.listen(self.engine, "begin", self._on_begin)

    def _on_connect(self, connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # transactions are begun below, DDL included
        record.info["file"] = self._file()
        for pragma in ("journal_mode=DELETE", "synchronous=EXTRA", "foreign_keys=ON", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {pragma}")

    def _on_begin(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {'DEFERRED' if connection.get_execution_options().get('pifleet_read') else 'IMMEDIATE'}")
        # with the lock in hand: a file that was moved or removed meanwhile would take what nobody finds again
        if connection.info["file"] != self._file():
            connection.exec_driver_sql("ROLLBACK")
            raise LedgerError(
                f"{self.path} is another file than the one that this run opened: it was moved, removed or replaced.",
                "Run again. Where it was moved as damaged, the new one names it.",
            )

    def _file(self) -> tuple[int, int] | None:
        """Return what tells the file from one that takes its place, None where there is none."""
        try:
            seen = self.path.stat()
        except FileNotFoundError:
            return None
        return seen.st_dev, seen.st_ino

    def exists(self) -> bool:
        return self.path.exists()

    def create(self) -> None:
        _create_private(self.path)

    def back_up(self, connection: Connection, version: str) -> Path:
        del connection  # it holds the write lock, so the file stands still; a reader of the rollback journal's mode may read beside it
        source = f"{self.path.as_uri()}?mode=ro"
        with (
            new_backup(self.path, version) as copy,
            closing(sqlite3.connect(source, uri=True)) as old,
            closing(sqlite3.connect(copy)) as new,
        ):
            old.backup(new)
        return final_name(copy)

    def explained(self, error: BaseException) -> LedgerError:
        said = str(getattr(error, "orig", None) or error)
        return LedgerError(f"The ledger {self.path} cannot be used: {said}.", way_out(said, self.path))

    def claim(self, name: str) -> AbstractContextManager[bool]:
        del name
        return nullcontext(True)

    def quarantine(self, error: BaseException) -> Path | None:
        if not _is_damage(error):
            return None
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # who comes second finds the new file of who came first
            fcntl.flock(folder, fcntl.LOCK_EX)
            with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)) as db:
                return None if _is_sound(db) else self._set_aside()
        except OSError:  # a read-only disk, or somebody else has moved it: there it stays
            return None
        finally:
            os.close(folder)

    def _set_aside(self) -> Path:
        stamp = datetime.now(tz=timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = self.path.with_name(f"{self.path.name}{DAMAGED}{stamp}")
        # the journal first: left behind, it would be rolled back into the new file
        for suffix in ("-journal", ""):
            if (source := Path(f"{self.path}{suffix}")).exists():
                source.rename(f"{kept}{suffix}")
        atomic_file.fsync_folder(self.path.parent)
        return kept


def damaged_before(connection: Connection) -> list[Path]:
    """Return the damaged files that stood in the place of this ledger before it, oldest first."""
    if connection.dialect.name != "sqlite" or not connection.engine.url.database:
        return []
    path = Path(connection.engine.url.database)
    return sorted(p for p in path.parent.glob(f"{path.name}{DAMAGED}*") if not p.name.endswith("-journal"))


def _is_damage(error: BaseException) -> bool:
    """The lower byte is the kind of an error: https://sqlite.org/rescode.html#primary_result_codes_versus_extended_result_codes."""
    return (getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


def _is_sound(db: sqlite3.Connection) -> bool:
    """Whether nothing speaks against a file but that it was busy, or could not be read now. No writer is at it meanwhile."""
    try:
        db.execute("BEGIN IMMEDIATE")
        return bool(db.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
    except sqlite3.Error as error:
        return not _is_damage(error)


def _create_private(path: Path) -> None:
    """Make folder (0700) and file (0600) where missing, and private where they are ours and are not."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        atomic_file.fsync_folder(path.parent)
    except FileExistsError:
        pass
    for place, mode in ((path.parent, 0o700), (path, 0o600)):
        seen = place.stat()
        if seen.st_uid == os.geteuid() and stat.S_IMODE(seen.st_mode) & 0o077:
            place.chmod(mode)


@contextmanager
def new_backup(path: Path, version: str) -> Iterator[Path]:
    """Give an empty private file to write a backup of *path* into; at the end of the block it is durable beside *path*."""
    stamp = datetime.now(tz=timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    temporary = path.with_name(f"{path.name}.{version}-{stamp}.new")
    _create_private(temporary)
    yield temporary
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, final_name(temporary))
    atomic_file.fsync_folder(path.parent)


def final_name(temporary: Path) -> Path:
    return temporary.with_suffix(".bak")


def migrate(connection: Connection, migrations: Path, head: str) -> None:
    """Bring what is behind *connection* to the schema *head*, in its transaction."""
    # imported here: only a new or an old ledger needs it, and it costs as much as all the rest
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, head)


def way_out(said: str, path: Path | None = None) -> str:
    """Return what to do about what SQLite or the operating system said."""
    text = said.lower()
    if "full" in text or "no space" in text or "quota" in text:
        return "Make room on the controller's disk and run again."
    if "locked" in text:
        return f"Another process has held it for {BUSY_SECONDS:.0f} seconds; find it with `fuser {path}`, or wait, and run again."
    if "malformed" in text or "not a database" in text:
        return (
            f"It is damaged. Keep it for the auditor (`mv {path} {path}.damaged`) and restore a backup in its place, "
            "or run again to begin a new one; `sqlite3 FILE .recover` saves what can be read."
        )
    if "readonly" in text or "read-only" in text or "permission" in text or "unable to open" in text:
        return "Give the user of this run write access to the file and its folder, or set fleet_root to a folder that has it."
    return "Look at the controller's disk and at the file, and run again."
