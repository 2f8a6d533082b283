# SPDX-License-Identifier: GPL-3.0-or-later
"""A ledger in PostgreSQL, which several operators share.

The same promises as of the file: a write has a lock from its beginning to its end, a commit is durable when it returns, and a reader sees
one moment. The password comes from where libpq looks for it (``~/.pgpass``, ``PGPASSFILE``, ``PGPASSWORD``), never from the URL: that would
put it into inventories, results and logs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import store
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError
from sqlalchemy import CheckConstraint, Connection, MetaData, String, event, insert, select
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

CONNECT_SECONDS = 10
#: rows that are copied at once
BATCH = 500
#: names the lock of writers, of pg_advisory_xact_lock, within one database ("pifleet" in ASCII)
WRITERS = 0x7069666C656574


class Postgres:
    """A database of a server. *folder*: of the controller, where backups go."""

    def __init__(self, url: URL, folder: Path) -> None:
        self.name = url.render_as_string(hide_password=True).replace("+psycopg", "")
        self.folder = folder
        arguments = {
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "pifleet",
            # of a database in SQL_ASCII the driver would give bytes: https://www.psycopg.org/psycopg3/docs/basic/adapt.html#strings-adaptation
            "client_encoding": "utf8",
            # the server's own settings may be weaker; https://www.postgresql.org/docs/current/runtime-config-wal.html
            "options": f"-c synchronous_commit=on -c lock_timeout={store.BUSY_SECONDS:.0f}s -c timezone=UTC",
        }
        # NullPool: a connection lives as long as one transaction, so that none is inherited by a forked process
        self.engine = sqlalchemy.create_engine(url, connect_args=arguments, poolclass=NullPool)
        event.listen(self.engine, "begin", _on_begin)

    @classmethod
    def at(cls, url: URL, folder: Path | None) -> Postgres:
        """Return the database of a URL that a person gave. Raises LedgerError."""
        if url.get_backend_name() not in ("postgresql", "postgres") or not url.database:
            raise LedgerError(
                f"ledger_url names no ledger: {url.render_as_string(hide_password=True)}.",
                "Give postgresql://USER@HOST/DATABASE, or sqlite:////absolute/path/of/ledger.db.",
            )
        if url.password:
            raise LedgerError(
                "ledger_url has a password in it, which would be shown in logs and results.",
                "Leave it out, and put it into ~/.pgpass of the user who runs Ansible (mode 0600).",
            )
        if folder is None:
            raise LedgerError("A ledger in PostgreSQL needs a folder of the controller for its backups.", "Give the fleet's .pifleet.")
        return cls(url.set(drivername="postgresql+psycopg"), folder)

    def exists(self) -> bool:
        return True

    def create(self) -> None:
        """Nothing: the database is made by who runs the server."""

    def back_up(self, connection: Connection, version: str) -> Path:
        """Copy all tables into a ledger file, which can be read, verified and brought back like any other."""
        with store.new_backup(self.folder / "ledger.db", version) as copy:
            engine = sqlalchemy.create_engine(URL.create("sqlite", database=str(copy)), poolclass=NullPool)
            with engine.begin() as target:
                copy_all(connection, target)
        return store.final_name(copy)

    def explained(self, error: BaseException) -> LedgerError:
        cause = getattr(error, "orig", None) or error
        said = scrub(" ".join(str(cause).split()))
        return LedgerError(f"The ledger {self.name} cannot be used: {said}.", _way_out(cause, said))

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """With a lock of the session, which the server lets go of when the connection ends, as it does with its process."""
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        try:
            connection = self.engine.raw_connection()
        except (sqlalchemy.exc.DBAPIError, psycopg.Error) as error:
            raise self.explained(error) from error
        with closing(connection):
            try:
                connection.driver_connection.autocommit = True  # type: ignore[union-attr]
                cursor = connection.cursor()
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (key,))
                mine = cursor.fetchone() == (True,)
            except psycopg.Error as error:
                raise self.explained(error) from error
            yield mine

    def quarantine(self, error: BaseException) -> None:
        """Nothing: a damaged server is not mended from here."""


def copy_all(source: Connection, target: Connection) -> None:
    """Make in *target*, an empty database of any kind, the tables of *source* with all their rows. Memory does not grow with them."""
    tables = MetaData()
    event.listen(tables, "column_reflect", _as_generic)
    tables.reflect(source)
    for table in tables.tables.values():
        # checks are written in the source's own words; the rows have passed them
        for check in [c for c in table.constraints if isinstance(c, CheckConstraint)]:
            table.constraints.discard(check)
    tables.create_all(target)
    for table in tables.sorted_tables:
        rows = source.execute(select(table), execution_options={"yield_per": BATCH})
        for batch in rows.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in batch])


def _as_generic(_inspector: object, _table: object, column: dict[str, Any]) -> None:
    column["type"] = column["type"].as_generic()
    if isinstance(column["type"], String):
        column["type"].collation = None  # of the source alone
    column["default"] = None  # written in the source's own words


def _on_begin(connection: Connection) -> None:
    if connection.get_execution_options().get("pifleet_read"):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")


def _way_out(cause: object, said: str) -> str:
    """The codes: https://www.postgresql.org/docs/current/errcodes-appendix.html."""
    code = (getattr(cause, "sqlstate", None) or "") if isinstance(cause, psycopg.Error) else ""
    text = said.lower()
    if code.startswith("28") or "password" in text or "authentication" in text or "pg_hba" in text or 'role "' in text:
        return "Look at the user in ledger_url, at ~/.pgpass of the user who runs Ansible, and at the server's pg_hba.conf."
    if code == "3D000" or ("database" in text and "does not exist" in text):
        return "Create it on the server (`createdb`), owned by the user in ledger_url."
    if code == "55P03":
        return f"Another run has held it for {store.BUSY_SECONDS:.0f} seconds; pg_stat_activity shows who. Wait, and run again."
    if code.startswith("53"):
        return "The server has no room or no connection left; make some, and run again."
    if code == "25006":
        return "This server only reads (a standby). Name the primary in ledger_url."
    if code == "42501":
        return "Make the user in ledger_url the owner of the database."
    if code.startswith("XX"):
        return "The server's data is damaged. Keep it for the auditor, and restore a backup."
    return "Look whether the server is up and can be reached from the controller, and run again."
