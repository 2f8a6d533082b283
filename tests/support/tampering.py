# SPDX-License-Identifier: GPL-3.0-or-later
"""A ledger in which everything happened once, and what an intruder does to it."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation, chain, verify
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.recording import Recording
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.audit import Ledger
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import Head, head_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds, Subject
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.statements import Statements
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._rebuild_report import STEPS

from tests.support.rebuild_details import DETAILS

#: tables of which every byte counts
RECORDS = ("chains", "events", "bodies", "runs", "run_hosts", "artifacts", "rebuilds", "rebuild_steps")
HOSTS = ("pi-1", "pi-2", "pi-3")


class Clock:
    """Tells a time that goes on by a second with each look."""

    def __init__(self) -> None:
        self.now = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def header(*, check: bool = False) -> Header:
    return Header("site.yml", "a" * 40, False, "pi-1,pi-2", ("all",), (), ("inventory/lab",), check, "operator", "2.19.14", "0.1.0")


def someone(number: int) -> Process:
    return Process("controller", "boot", number, f"start-{number}")


def recording(run_id: str, *, failed: str = "") -> Recording:
    made = Recording(run_id)
    made.play("Prepare the nodes")
    for host in HOSTS:
        made.count(host, "ok", "changed")
        made.name(made.changes, host, "Write the file")
    if failed:
        made.count(failed, "failed")
        made.name(made.failures, failed, "Start the service")
    return made


def run(store: Store, state: Path, number: int, clock: Clock, *, failed: str = "", sign: bool = True) -> str:
    """A whole run with an artifact."""
    runs = Runs(store, now=clock, gone=lambda _process: False)
    run_id = runs.open(header(), someone(number), HOSTS).run_id
    runs.attach(someone(number), "cluster-baseline.diff", "text/x-diff", f"-old {number}\n+new {number}\n".encode())
    runs.close(someone(number), {h: "failed" if h == failed else "ok" for h in HOSTS}, recording(run_id, failed=failed))
    if sign:
        Statements(store, state, now=clock).sign(run_id)
    return run_id


def rebuild(store: Store, state: Path, number: int, clock: Clock) -> str:
    """A run that rebuilds a node."""
    runs, rebuilds = Runs(store, now=clock, gone=lambda _process: False), Rebuilds(store, now=clock)
    run_id = runs.open(header(), someone(number), HOSTS).run_id
    rebuilds.start(someone(number), Subject("pi-3", "pi-3", "agent", ("storage replaced",)), DETAILS["detect"])
    for step in STEPS[1:]:
        rebuilds.step(someone(number), "pi-3", step, DETAILS[step])
    rebuilds.finish(someone(number), "pi-3", {}, 60.0, lambda record: [("rebuild-pi-3.md", "text/markdown", record.node.encode())])
    runs.close(someone(number), dict.fromkeys(HOSTS, "ok"), recording(run_id))
    Statements(store, state, now=clock).sign(run_id)
    return run_id


def whole(store: Store, state: Path) -> Clock:
    """Have everything in *store* once: runs that succeeded, failed, were checked and killed, and a rebuild."""
    clock = Clock()
    run(store, state, 1, clock)
    Runs(store, now=clock).open(header(check=True), someone(2), HOSTS)
    run(store, state, 3, clock, failed="pi-2")
    Runs(store, now=clock, gone=lambda _p: False).open(header(), someone(4), HOSTS)
    Runs(store, now=clock, gone=lambda process: process.pid == 4).open(header(), someone(5), HOSTS)
    Runs(store, now=clock).close(someone(5), dict.fromkeys(HOSTS, "ok"), Recording())
    rebuild(store, state, 6, clock)
    run(store, state, 7, clock)
    return clock


def audit(store: Store, *anchors: verify.Anchor, trusted: tuple[str, ...] = ()) -> verify.Report:
    with store.read() as db:
        return verify.verify(Ledger(db), anchors, trusted)


def anchor(store: Store, place: str = "pi-1") -> verify.Anchor:
    with store.read() as db:
        head: Head = head_of(db)
    return verify.Anchor(place, head.chain, head.seq, head.sha256)


@dataclass
class Intruder:
    """Changes a ledger file behind the code's back."""

    path: Path
    choice: random.Random

    def sql(self, *statements: str) -> None:
        with closing(self.connect()) as db, db:
            for statement in statements:
                db.execute(statement)

    def rows(self, wanted: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute(wanted).fetchall()

    def flip(self, table: str) -> str:
        """Change one bit of one value, and return the row's own name for it, by its key's first column."""
        with closing(self.connect()) as db, db:
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            rowid, *values = self.choice.choice(db.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid").fetchall())
            filled = [(c, v) for c, v in zip(columns, values, strict=True) if v is not None and v != "" and v != b""]
            changed = 0
            while not changed:  # until it is not the key of another row
                column, value = self.choice.choice(filled)
                statement = f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid = ?"
                changed = db.execute(statement, (self._other(value), rowid)).rowcount
            return str(values[0])

    def connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path)
        db.execute("PRAGMA synchronous=OFF")
        return db

    def _other(self, value: object) -> object:
        if isinstance(value, bytes):
            at = self.choice.randrange(len(value))
            return value[:at] + bytes([value[at] ^ 1 << self.choice.randrange(8)]) + value[at + 1 :]
        if isinstance(value, str):
            at = self.choice.randrange(len(value))
            return value[:at] + chr(ord(value[at]) ^ 1 << self.choice.randrange(5)) + value[at + 1 :]
        if isinstance(value, float):
            return value + 1
        assert isinstance(value, int)
        return value ^ (1 << self.choice.randrange(10))

    def rewrite(self, seq: int, state: Path) -> None:
        """Change the event *seq* and recompute everything after it, signatures included: the intruder has the controller's key."""
        signer = attestation.own_signer(state / attestation.KEY_FILE)
        with closing(sqlite3.connect(self.path)) as db, db:
            found = db.execute("SELECT content FROM events WHERE seq = ?", (seq - 1,)).fetchone()
            previous = chain.digest(found[0]) if found else chain.GENESIS
            last: dict[str, tuple[str, str]] = {}
            for row_id, number, content in db.execute("SELECT id, seq, content FROM events ORDER BY seq").fetchall():
                table = json.loads(content)
                if number >= seq:
                    table["prev"] = previous
                    if number == seq:
                        table["data"]["requester"] = "somebody else"
                    if table["kind"] == "run.attested":
                        statement = json.loads(attestation.Envelope.from_dict(table["data"]["envelope"]).payload)
                        signed = attestation.payload(*last[table["run"]], statement["predicate"])
                        table["data"]["envelope"] = attestation.sign(signed, signer)
                    content = chain.canonical(table)
                    previous = chain.digest(content)
                    db.execute("UPDATE events SET content = ?, sha256 = ? WHERE id = ?", (content, previous, row_id))
                if table["run"] and table["kind"] not in ("run.attested", "key.introduced"):
                    last[table["run"]] = (row_id, chain.digest(content))
            db.execute("UPDATE chains SET sha256 = ?", (previous,))
