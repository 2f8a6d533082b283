# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence for tests: a clock that is set, ledgers with events, rows of the outbox, and a hub that is a dictionary."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import chain, identity
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Identity
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Result, Row
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.owner import OwnerRecord
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin, process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import add_body, append_event
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

IDENTITY = Identity("team-a", "pi-cluster", "https://hub.example.org")
OTHER = Identity("team-b", "pi-cluster", "https://hub.example.org")
START = datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    moment: datetime = START

    def __call__(self) -> datetime:
        return self.moment

    def move(self, **by: float) -> None:
        self.moment += timedelta(**by)


def append(store: Store, count: int = 1, bodies: Sequence[bytes] = (), kind: str = "test.event") -> list[str]:
    """Append *count* events to the ledger; the first has *bodies*. Return their ids."""
    with store.write() as db:
        kept = [add_body(db, f"body {n}", "text/plain", content) for n, content in enumerate(bodies)]
        return [append_event(db, kind, {"number": n}, bodies=kept if n == 0 else ()).event_id for n in range(count)]


def event_row(number: int, chain_id: str = "c0ffee", text: str = "") -> Row:
    """Return an event as it waits in an outbox: a real one, though of no ledger."""
    sealed = chain.seal(chain.Draft("test.event", "2025-01-02T03:04:05.000000Z", {"text": text}), chain_id, number, "0" * 64)
    return Row(sealed.event_id, sealed.sha256, sealed.content)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def keys(rows: Iterable[Row]) -> list[str]:
    return [row.key for row in rows]


def settings_file(root: Path, **values: object) -> Path:
    """Write ``evidence.yml``; without values: of IDENTITY, with a valid token."""
    token = root / "token"
    token.write_text(f"pft_20990101T000000Z_{'a' * 43}\n")
    token.chmod(0o600)
    given = values or {"hub_url": IDENTITY.hub_url, "owner": IDENTITY.owner, "fleet": IDENTITY.fleet, "token_file": "token"}
    path = root / "evidence.yml"
    path.write_text(json.dumps(given))
    return path


@dataclass
class MemoryHub:
    """A hub that keeps what it gets. *fails*: called with the rows before anything is kept; what it raises, the hub raises."""

    events: dict[str, bytes] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    rejects: set[str] = field(default_factory=set)
    fails: Callable[[Sequence[Row]], None] = lambda _rows: None
    asked: list[int] = field(default_factory=list)
    stored: int = 0

    def send_events(self, rows: Sequence[Row]) -> list[Result]:
        self.asked.append(len(rows))
        self.fails(rows)
        return [self._keep(self.events, row, row.content or b"") for row in rows]

    def send_body(self, row: Row, content: bytes) -> Result:
        self.fails([row])
        return self._keep(self.bodies, row, content)

    def _keep(self, where: dict[str, bytes], row: Row, content: bytes) -> Result:
        if row.key in self.rejects:
            return Result(row.key, "rejected", "not this one")
        if row.key in where:
            return Result(row.key, "duplicate")
        where[row.key] = content
        self.stored += 1
        return Result(row.key, "stored")


def owner_record(**changes: Any) -> OwnerRecord:
    """Return the record of this process as a sync service of IDENTITY."""
    mine = process.identify(os.getpid())
    record = OwnerRecord(
        pid=mine.pid,
        started_at="2025-01-02T03:04:05.000000Z",
        controller=mine.controller,
        boot_id=mine.boot_id,
        process_started=mine.started,
        port=12345,
        executable_path=identity.executable_path(),
        source_path=identity.source_path(),
        package_version=origin.collection_version(),
        server_url=IDENTITY.hub_url,
        team_or_user=IDENTITY.team_or_user,
        queue_db_path="/fleet/.pifleet/ledger.db",
    )
    return replace(record, **changes)


def leave_record(folder: Path, record: OwnerRecord, name: str = "owner.json") -> None:
    """Write a record as a service does, without being one."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(record)))
