# SPDX-License-Identifier: GPL-3.0-or-later
"""An environment, its plan, and releases of it in a ledger of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.releases import Releases
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import config, executor, planner
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import PHASES, Image, Plan, Release

HEADER = Header("playbooks/deploy.yml", "a" * 40, False, None, ("all",), (), ("inventory",), False, "operator", "2.19.14", "0.1.0")
GROUPS = {"workers": ["pi-3", "pi-2", "pi-4"], "control_plane": ["pi-1"]}
SERVICES: dict[str, dict[str, Any]] = {"web": {"image": "web"}, "job": {"image": "job", "ports": ["1:1"]}, "other": {}}
YAML = """
environments:
  prod:
    base: services
    registry: registry.example:5000/fleet
    retain: 2
    batches: {canary: 1, size: 2}
    services:
      web:
        role: workers
        image: web
        build: {context: apps/web}
        migrations: {pre: {argv: [migrate, up], reversible: true}}
      job: {role: control_plane, image: job, build: {context: apps/job}}
"""


def digest_of(number: int) -> str:
    return f"sha256:{number:064x}"


class World:
    """A ledger at *place*, whose clock goes on by a second with each look, and a run that is open in it.

    ``open`` opens the ledger as another process does.
    """

    def __init__(self, place: Path | str, folder: Path | None = None) -> None:
        self.moment = datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
        self.place = place
        self.open = lambda: Store(place, folder)
        self.store = self.open()
        self.gone: set[int] = set()
        self.runs = Runs(self.store, self.now, gone=lambda process: process.pid in self.gone)
        self.releases = Releases(self.store, self.now, gone=lambda process: process.pid in self.gone)
        self.mine = self.process(1)
        self.runs.open(HEADER, self.mine, ["pi-1"])

    def now(self) -> datetime:
        self.moment += timedelta(seconds=1)
        return self.moment

    def process(self, pid: int) -> Process:
        return Process("controller", "boot", pid, f"start-{pid}")

    def another_run(self, pid: int) -> Process:
        """A run of another process."""
        process = self.process(pid)
        self.runs.open(HEADER, process, ["pi-1"])
        return process

    def create(self, plan: Plan, process: Process | None = None) -> Release:
        return self.releases.create(process or self.mine, plan, {"prod-workers": "f" * 64})

    def steps(self, release: Release) -> executor.Executor:
        return executor.Executor(self.releases, release.id)

    def finish(self, release: Release, number: int = 1) -> Release:
        """Take a release through all its phases, with an image digest made of *number*."""
        for name in PHASES:
            found = self.releases.get(release.id)
            images = [replace(i, digest=digest_of(number)) for i in found.images] if name == "push" else []
            if not found.phase(name).is_over:
                self.steps(release).begin(name)
                self.steps(release).complete(name, {}, images)
        return self.releases.get(release.id)

    def completed(self, plan: Plan, number: int = 1) -> Release:
        return self.finish(self.create(plan), number)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / ".pifleet/ledger.db")


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """Returns the plan of a version of ``prod``. *yaml*: another configuration; *known*: images of earlier releases."""

    def make(version: str = "1.0.0", commit: str = "c" * 40, yaml: str = YAML, known: dict[str, Image] | None = None, **trees: Any) -> Plan:
        wanted = config.parse(yaml).environment("prod")
        found = {"apps/web": "1" * 40, "apps/job": "2" * 40, **trees}
        return planner.deploy("prod", wanted, version, commit, found, GROUPS, SERVICES, known or {})

    return make
