# SPDX-License-Identifier: GPL-3.0-or-later
"""What whoever has the database can do to a ledger, in SQLite and in PostgreSQL: at random, constraints and all, and undone again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation, chain, verify
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import schema
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.audit import Ledger
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from securesystemslib.signer import Signer
from sqlalchemy import JSON, Connection, event, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tests.support import tampering

#: tables of which every byte counts
RECORDS = (*tampering.RECORDS, "releases", "release_phases")
#: how far a chain is cut off at most: of more than 50 missing events only the first and the last are named
CUT = 40


@dataclass(frozen=True)
class Done:
    """*what* was done, to which records, by their *names*; what verification then says."""

    what: str
    names: tuple[str, ...]
    report: verify.Report

    @property
    def found(self) -> bool:
        """Whether each of the records is named by a finding."""
        said = [f"{finding.subject} {finding.text}" for finding in self.report.findings]
        return all(any(name in line for line in said) for name in self.names)


class Vandal:
    """*url*: of the ledger. What it changes is gone once it was verified."""

    def __init__(self, url: str) -> None:
        self._engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool)
        self._postgres = url.startswith("postgresql")
        if not self._postgres:
            # sqlite3 of Python begins no transaction before a savepoint: what is released there would stay
            event.listen(self._engine, "connect", lambda raw, _record: setattr(raw, "isolation_level", None))
            event.listen(self._engine, "begin", lambda db: db.exec_driver_sql("BEGIN IMMEDIATE"))

    def attack(self, seed: int, anchors: Sequence[verify.Anchor] = (), signer: Signer | None = None) -> Done:
        """Do one thing out of all, chosen by *seed*. With *signer*, the controller's key: rewrite the end of the chain."""
        choice = random.Random(seed)
        harms: list[Callable[[Connection, random.Random], tuple[str, Sequence[str]]]] = [
            *(self.flip, self.flip, self.flip, self.delete, self.delete),
            *(self.swap, self.swap_bodies, self.truncate, self.shorten, self.double),
        ]
        harm = choice.choice(harms)
        with self._engine.connect() as db:
            if self._postgres:
                db.exec_driver_sql("SET LOCAL session_replication_role = replica")
            what, names = self.rewrite(db, choice, signer) if signer else harm(db, choice)
            report = verify.verify(Ledger(db), anchors)
            db.rollback()
        return Done(f"seed {seed}: {what}", tuple(names), report)

    def flip(self, db: Connection, choice: random.Random) -> tuple[str, Sequence[str]]:
        """Change one bit of one value."""
        table, row = self._any_row(db, choice)
        filled = [c.name for c in table.columns if row[c.name] is not None and row[c.name] not in ("", b"")]
        while True:  # until it is something that the column takes, and no other row's key
            column = choice.choice(filled)
            try:
                with db.begin_nested():
                    self._set(db, table, row, column, _flipped(row[column], choice))
                return f"a bit of {column} of {table.name} {_name(table, row)}", [_name(table, row)]
            except (DBAPIError, UnicodeDecodeError):
                continue

    def delete(self, db: Connection, choice: random.Random) -> tuple[str, Sequence[str]]:
        table, row = self._any_row(db, choice)
        db.execute(text(f"DELETE FROM {table.name} WHERE {_where(table)}"), _key(table, row))
        return f"{table.name} {_name(table, row)} deleted", [_name(table, row)]

    def swap(self, db: Connection, choice: random.Random) -> tuple[str, Sequence[str]]:
        """Let two events change places, with their hashes or without."""
        columns = choice.choice(["content", "content, sha256"])
        one, other = choice.sample(self._rows(db, schema.events), 2)
        for into, of in ((one, other), (other, one)):
            values = ", ".join(f"{c} = :{c}" for c in columns.split(", "))
            db.execute(text(f"UPDATE events SET {values} WHERE id = :id"), {**of, "id": into["id"]})
        return f"{columns} of two events swapped", [one["id"], other["id"]]

    def swap_bodies(self, db: Connection, choice: random.Random) -> tuple[str, Sequence[str]]:
        one, other = choice.sample(self._rows(db, schema.bodies), 2)
        for into, of in ((one, other), (other, one)):
            db.execute(text("UPDATE bodies SET content = :content WHERE sha256 = :sha256"), {**of, "sha256": into["sha256"]})
        return "contents of two bodies swapped", [one["sha256"], other["sha256"]]

    def truncate(self, db: Connection, choice: random.Random) -> tuple[str, Sequence[str]]:
        gone = self._rows(db, schema.events)[-choice.randrange(1, CUT) :]
        db.execute(text("DELETE FROM events WHERE seq >= :seq"), {"seq": gone[0]["seq"]})
        return f"the last {len(gone)} events cut off", [row["id"] for row in gone]

    def shorten(self, db: Connection, choice: random.Random) -> tuple[str, Sequence[str]]:
        """Cut off the end of a content."""
        table = choice.choice([schema.events, schema.bodies])
        row = choice.choice([r for r in self._rows(db, table) if r["content"]])
        self._set(db, table, row, "content", row["content"][: choice.randrange(len(row["content"]))])
        return f"content of {table.name} {_name(table, row)} cut off", [_name(table, row)]

    def double(self, db: Connection, choice: random.Random) -> tuple[str, Sequence[str]]:
        """Put an event in once more, at the end of the chain."""
        rows = self._rows(db, schema.events)
        row = choice.choice(rows)
        made = {**row, "seq": rows[-1]["seq"] + 1, "id": chain.event_id(row["chain"], rows[-1]["seq"] + 1)}
        db.execute(insert(schema.events), made)
        return f"event {row['id']} once more as {made['id']}", [made["id"]]

    def rewrite(self, db: Connection, choice: random.Random, signer: Signer | None) -> tuple[str, Sequence[str]]:
        """Change an event, and compute everything after it anew, signatures and head included."""
        assert signer
        rows = self._rows(db, schema.events)
        first = choice.randrange(1, len(rows))
        previous, last = rows[first - 1]["sha256"], dict[str, tuple[str, str]]()
        for number, row in enumerate(rows):
            table, digest = json.loads(row["content"]), row["sha256"]
            if number >= first:
                table["prev"] = previous
                if number == first:
                    table["at"] = row["at"] = "2020-01-01T00:00:00.000000Z"
                if table["kind"] == "run.attested":
                    statement = json.loads(attestation.Envelope.from_dict(table["data"]["envelope"]).payload)
                    table["data"]["envelope"] = attestation.sign(attestation.payload(*last[table["run"]], statement["predicate"]), signer)
                content = chain.canonical(table)
                previous = digest = chain.digest(content)
                db.execute(
                    text("UPDATE events SET content = :content, sha256 = :sha256, at = :at WHERE id = :id"),
                    {"content": content, "sha256": digest, "at": row["at"], "id": row["id"]},
                )
            if table["run"] and table["kind"] not in ("run.attested", "key.introduced"):
                last[table["run"]] = (row["id"], digest)
        db.execute(text("UPDATE chains SET sha256 = :sha256 WHERE own"), {"sha256": previous})
        return f"everything from {rows[first]['id']} on written anew", [rows[-1]["id"]]

    def _any_row(self, db: Connection, choice: random.Random) -> tuple[sqlalchemy.Table, dict[str, Any]]:
        filled = [(table, rows) for name in RECORDS if (rows := self._rows(db, table := schema.metadata.tables[name]))]
        table, rows = choice.choice(filled)
        return table, choice.choice(rows)

    def _rows(self, db: Connection, table: sqlalchemy.Table) -> list[dict[str, Any]]:
        """The rows as they are stored, in an order that every database gives."""
        names = ", ".join(f"CAST({c.name} AS TEXT) AS {c.name}" if isinstance(c.type, JSON) else c.name for c in table.columns)
        order = "seq" if table is schema.events else ", ".join(c.name for c in table.primary_key)
        return [
            {k: bytes(v) if isinstance(v, memoryview) else v for k, v in row.items()}
            for row in db.execute(text(f"SELECT {names} FROM {table.name} ORDER BY {order}")).mappings()
        ]

    def _set(self, db: Connection, table: sqlalchemy.Table, row: dict[str, Any], column: str, value: Any) -> None:
        placed = ":changed"
        if isinstance(row[column], str):
            # SQLite takes texts that are none
            value, placed = (value.decode(), placed) if self._postgres else (value, "CAST(:changed AS TEXT)")
            if self._postgres and isinstance(table.c[column].type, JSON):
                placed = "CAST(:changed AS JSON)"
        done = db.execute(
            text(f"UPDATE {table.name} SET {column} = {placed} WHERE {_where(table)}"), {**_key(table, row), "changed": value}
        )
        assert done.rowcount == 1


def _flipped(value: Any, choice: random.Random) -> Any:
    """*value* with one other bit; texts as bytes."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value ^ 1 << choice.randrange(10)
    if isinstance(value, float):
        return value + 1
    content = value.encode() if isinstance(value, str) else value
    at = choice.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << choice.randrange(8)]) + content[at + 1 :]


def _where(table: sqlalchemy.Table) -> str:
    return " AND ".join(f"{c.name} = :key_{c.name}" for c in table.primary_key)


def _key(table: sqlalchemy.Table, row: dict[str, Any]) -> dict[str, Any]:
    return {f"key_{c.name}": row[c.name] for c in table.primary_key}


def _name(table: sqlalchemy.Table, row: dict[str, Any]) -> str:
    """A record's own name: its id, or that of what it is a part of."""
    return str(row[next(iter(table.primary_key)).name])


def copied(ledger: Path, url: str, folder: Path) -> Store:
    """Return a ledger at *url*, an empty database, with all that the file *ledger* has."""
    made = Store(url, folder)
    with Store(ledger).read() as old, made.write() as new:
        new.execute(schema.chains.delete())
        for table in schema.metadata.sorted_tables:
            rows = [dict(row) for row in old.execute(select(table)).mappings()]
            if rows:
                new.execute(insert(table), rows)
    return made
