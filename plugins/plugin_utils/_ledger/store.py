# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger's SQLite file: created, upgraded, opened, and written in durable transactions.

Rollback journal with ``synchronous=EXTRA``: a commit is on the disk when it returns, and there is no WAL, whose reset corrupts
files in SQLite before 3.51.3 (https://sqlite.org/wal.html). Every write takes the lock first (``BEGIN IMMEDIATE``), so that two
runs wait for each other instead of failing in the middle.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import sqlalchemy
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import schema
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

#: seconds that a write waits for another run's
BUSY_SECONDS = 20.0
MIGRATIONS = Path(__file__).resolve().parent / "migrations"


class LedgerError(PifleetError):
    """The ledger cannot be read or written."""


class Store:
    """One ledger file. *migrations*, *head* and *known* are those of the code; tests give others."""

    def __init__(
        self, path: Path, *, migrations: Path = MIGRATIONS, head: str = schema.HEAD, known: tuple[str, ...] = schema.KNOWN
    ) -> None:
        self.path = path
        self._migrations = migrations
        self._head = head
        self._known = known
        self._engine = _engine(path)
        self._ready = False

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, committed durably at the end of the block or not at all. Creates or upgrades the file first where needed."""
        with self._translated():
            if not self._ready:
                self._prepare()
            with self._engine.begin() as connection:
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view. Raises LedgerError where there is no ledger yet, or where it has to be upgraded by a writing run first."""
        with self._translated():
            if not self.path.exists():
                raise self._none()
            with self._engine.connect().execution_options(pifleet_begin="DEFERRED") as connection, connection.begin():
                version = self._version(connection)
                if version is None:
                    raise self._none()
                if version != self._head:
                    raise LedgerError(f"The ledger {self.path} is of an older version.", "The next run of a playbook upgrades it.")
                yield connection

    def _none(self) -> LedgerError:
        return LedgerError(f"There is no ledger at {self.path}.", "It is made by the first run of a playbook in this fleet_root.")

    def _prepare(self) -> None:
        """Make the file what the code expects. Of two processes that come here at once, one waits and then finds it done."""
        _create_private(self.path)
        with self._engine.begin() as connection:
            current = self._version(connection)
            if current != self._head:
                if current is not None:
                    _back_up(self.path, current)
                _migrate(connection, self._migrations, self._head)
        self._ready = True

    def _version(self, connection: Connection) -> str | None:
        """Return the file's schema version, None for an empty file. Raises LedgerError for one that this code does not know."""
        tables = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
        if not tables:
            return None
        if "alembic_version" not in tables:
            raise LedgerError(f"{self.path} is a database, but no ledger.", "Move it away; the next run makes a new ledger.")
        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if version not in self._known:
            raise LedgerError(
                f"The ledger {self.path} was written by a newer pifleet.ops (schema {version}; this one knows up to {self._head}).",
                "Update the collection. Nothing was changed.",
            )
        return str(version)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlalchemy.exc.DBAPIError as error:
            raise _explained(self.path, error) from error
        except sqlite3.Error as error:
            raise _explained(self.path, error) from error
        except OSError as error:
            raise LedgerError(f"The ledger {self.path} cannot be written: {error.strerror or error}.", _way_out(str(error))) from error


def _engine(path: Path) -> Engine:
    # NullPool: a connection lives as long as one transaction, so that none is inherited by a forked process (which SQLite forbids)
    url = URL.create("sqlite", database=str(path))
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": BUSY_SECONDS}, poolclass=NullPool)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, DDL included
    for pragma in ("journal_mode=DELETE", "synchronous=EXTRA", "foreign_keys=ON", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('pifleet_begin', 'IMMEDIATE')}")


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


def _back_up(path: Path, version: str) -> Path:
    """Copy the file beside itself before an upgrade, whole and durable, and return the copy's path."""
    stamp = datetime.now(tz=timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    copy = path.with_name(f"{path.name}.{version}-{stamp}.bak")
    temporary = copy.with_suffix(".new")
    _create_private(temporary)
    # the caller holds the write lock, so the file stands still; a reader of the rollback journal's mode may read beside it
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as source, closing(sqlite3.connect(temporary)) as target:
        source.backup(target)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, copy)
    atomic_file.fsync_folder(copy.parent)
    return copy


def _migrate(connection: Connection, migrations: Path, head: str) -> None:
    # imported here: only a new or an old file needs it, and it costs as much as all the rest
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, head)


def _explained(path: Path, error: Any) -> LedgerError:
    said = str(getattr(error, "orig", None) or error)
    return LedgerError(f"The ledger {path} cannot be used: {said}.", _way_out(said, path))


def _way_out(said: str, path: Path | None = None) -> str:
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
