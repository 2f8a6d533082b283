# SPDX-License-Identifier: GPL-3.0-or-later
"""A hub that works for a fleet: a real repository, a ledger, and a caller of each role."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from ansible_collections.pifleet.ops.hub.app import create_app
from ansible_collections.pifleet.ops.hub.office import Office, open_office
from ansible_collections.pifleet.ops.hub.plays import Played
from ansible_collections.pifleet.ops.hub.queue import Priority, QueueHealth
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import ApiTokens, Role
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.support.fix_runs import COMPOSE, PROFILE, REQUIREMENTS, World
from tests.support.release_fleet import Repository

SECRET = b"a secret of the tests"
#: who holds a token, by its role
LOGINS: dict[Role, str] = {"viewer": "vera", "operator": "alice", "approver": "bob", "sync": "team-a/pi-cluster"}


class Recorded:
    """A queue that nobody works for: it keeps what it was told of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.works = False

    def start(self) -> None:
        self.works = True

    def stop(self) -> None:
        self.works = False

    def submit(self, run_id: str, *, priority: Priority = "normal") -> None:
        self.told.append((run_id, priority))

    def health(self) -> QueueHealth:
        return QueueHealth("embedded", ok=True, pending=len(self.told), workers=1)


class Recording:
    """Playbooks that are not run: *answer* is how they end, once *go_on* is set."""

    def __init__(self) -> None:
        self.played: list[tuple[str, dict[str, str]]] = []
        self.answer = Played(ok=True)
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, playbook: str, variables: Mapping[str, str]) -> Played:
        assert self.go_on.wait(30)
        self.played.append((playbook, dict(variables)))
        return self.answer


@dataclass
class HubFleet:
    """*world*: its ledger, by hand, as playbooks write it."""

    root: Path
    world: World = field(init=False)
    office: Office = field(init=False)
    app: FastAPI = field(init=False)
    repository: Repository = field(init=False)
    tokens: dict[Role, str] = field(init=False)
    queue: Recorded = field(init=False)
    player: Recording = field(init=False)
    #: values that the hub knows as secrets
    secrets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.repository = Repository(self.root)
        self.repository.write(".gitignore", ".pifleet/\nvar/\n")
        self.repository.write_yaml("fix_profiles/web.yml", PROFILE)
        self.repository.write_yaml("fix_profiles/protected.yml", {**PROFILE, "approval": {"requirement": "pre-run"}})
        self.repository.write("stacks/shop/compose.yaml", COMPOSE)
        self.repository.write("stacks/shop/web/requirements.txt", REQUIREMENTS)
        self.repository.commit()
        self.world = World(self.root / ".pifleet/ledger.db")
        self.queue = Recorded()
        self.player = Recording()
        self.office = open_office(self.root, self.world.store, self.queue, self.player, webhook_secret=SECRET, secrets=lambda: self.secrets)
        self.app = create_app(self.world.store, self.office)
        self.tokens = {role: ApiTokens(self.world.store).add(role, role, login, timedelta(days=1)) for role, login in LOGINS.items()}

    def refreshed(self, state: str = "succeeded") -> None:
        """Wait for the end of a refresh."""
        deadline = time.monotonic() + 30
        while (found := self.office.fleet.status().state) != state:
            assert time.monotonic() < deadline, found
            time.sleep(0.01)

    def client(self, role: Role | None) -> TestClient:
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return TestClient(self.app, headers=headers, raise_server_exceptions=False)
