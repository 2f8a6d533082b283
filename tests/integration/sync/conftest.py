# SPDX-License-Identifier: GPL-3.0-or-later
"""A real hub over TLS, and a fleet of each test's own: its folder, its identity, its token."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Settings
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.received import Received
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.support.controller import ROOT, Controller, Played
from tests.support.hub import HubProcess

_numbers = itertools.count(1)
FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))
#: kind, table of the ledger, table of the hub, its key
TABLES = (("event", "events", "received_events", "event_id"), ("body", "bodies", "received_bodies", "sha256"))


@dataclass
class SyncFleet:
    """*controller*: runs playbooks on *folder*; *hub*: where its evidence goes, as *source* (owner/fleet)."""

    controller: Controller
    hub: HubProcess
    owner: str
    fleet: str

    @property
    def folder(self) -> Path:
        return self.controller.folder

    @property
    def source(self) -> str:
        return f"{self.owner}/{self.fleet}"

    @property
    def store(self) -> Store:
        return Store(self.folder / ".pifleet/ledger.db")

    @property
    def settings(self) -> Settings:
        return identity.load(self.folder)

    def configure(self, **changes: object) -> None:
        """Write ``evidence.yml``; a value None leaves the key out."""
        base = {
            "hub_url": self.hub.url,
            "owner": self.owner,
            "fleet": self.fleet,
            "token_file": "token",
            "ca_file": str(self.hub.ca),
        }
        values = {key: value for key, value in {**base, **changes}.items() if value is not None}
        (self.folder / "evidence.yml").write_text(json.dumps(values))

    def give_token(self, text: str | None = None, name: str = "token") -> Path:
        path = self.folder / name
        path.write_text(text or self.hub.token(self.source, f"{self.source} {next(_numbers)}"))
        path.chmod(0o600)
        return path

    def sync(self, *args: str) -> Played:
        """Run playbooks/sync.yml as a person does. *args*: such as ``-e mode=status``."""
        return self.controller.play((ROOT / "playbooks/sync.yml").read_text(), "--limit", "one", *args)

    def received(self) -> list[str]:
        """The ids of the events that the hub has, looked up in its database."""
        return [key for key, _sha256 in Received(self.hub.store).list_events(self.source, "", 10**9)]

    def assert_arrived(self) -> None:
        """The hub has every event and body of the ledger as it is there, once, and no other; nothing waits. Looked up in both files."""
        with closing(self._both()) as db:
            for kind, ours, theirs, key in TABLES:
                kept = db.execute(f"SELECT count(*) FROM {ours}").fetchone()[0]
                assert kept, f"no {ours} to look for"
                same = f"{ours} o JOIN hub.{theirs} t ON t.{key} = o.{'id' if kind == 'event' else key}"
                equal = db.execute(f"SELECT count(*) FROM {same} WHERE t.source = ? AND t.content = o.content", (self.source,))
                assert equal.fetchone()[0] == kept, f"{ours} that are lost or changed"
                there = db.execute(f"SELECT count(*) FROM hub.{theirs} WHERE source = ?", (self.source,))
                assert there.fetchone()[0] == kept, f"{theirs} that are doubled or of others"
                receipts = db.execute("SELECT count(*) FROM sync_receipts WHERE kind = ?", (kind,))
                assert receipts.fetchone()[0] == kept
            for table in ("sync_events", "body_upload_queue", "sync_quarantine"):
                assert db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0, f"rows are left in {table}"

    def assert_acknowledged_is_kept(self) -> None:
        """Whatever a receipt says the hub has, it has."""
        with closing(self._both()) as db:
            for kind, _ours, theirs, key in TABLES:
                missing = f"SELECT r.key FROM sync_receipts r WHERE r.kind = ? AND NOT EXISTS (SELECT 1 FROM hub.{theirs} t"
                found = db.execute(f"{missing} WHERE t.source = ? AND t.{key} = r.key AND t.sha256 = r.sha256)", (kind, self.source))
                assert found.fetchall() == []

    def _both(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.store.name, timeout=60)  # a service or the hub may write just now
        db.execute("ATTACH ? AS hub", (str(self.hub.folder / "hub.db"),))
        return db

    def queued(self) -> dict[str, int]:
        with self.store.read() as db:
            rows = db.exec_driver_sql("SELECT scope, count(*) FROM sync_events GROUP BY scope").all()
        return {row[0]: row[1] for row in rows}


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def fleet(tmp_path: Path, hub: HubProcess) -> SyncFleet:
    return new_fleet(tmp_path / "fleet", hub)


def new_fleet(folder: Path, hub: HubProcess) -> SyncFleet:
    folder.mkdir()
    found = SyncFleet(Controller(folder), hub, "team-a", f"fleet-{next(_numbers)}")
    found.configure()
    found.give_token()
    return found
