# SPDX-License-Identifier: GPL-3.0-or-later
"""A profile, a stack's folder, and fix runs in a ledger of the test's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import instruction, planner, profile, runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.checkout import Checkout
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.desk import Desk, Planned
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import ANALYZE, FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.policy import Tree
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import Case, Proposal, shipped
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import FixRuns
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import fix_run_steps, fix_runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from sqlalchemy import select

from tests.support.release_fleet import Repository

HEADER = Header("playbooks/fix.yml", "a" * 40, False, None, ("all",), (), ("inventory",), False, "operator", "2.19.14", "0.1.0")
PROFILE: dict[str, Any] = {
    "stack": "shop",
    "service": "web",
    "node": "pi-1",
    "files": ["compose.yaml", "web/**"],
    "commands": {"migrated": {"argv": ["/app", "check", "{table}"], "parameters": {"table": "word"}}, "ping": {"argv": ["/app", "ping"]}},
    "health": {"url": "http://{address}:8080/health", "checks": ["ping"]},
}
COMPOSE = """\
# the shop
services:
  web:                    # the front
    build: ./web
    image: registry.example:5000/shop/web:1.2.3   # pinned
    environment:
      MODE: production    # or test
      LIMIT: "10"
  other:
    image: other:1
    environment: [A=1, B=2]
"""
_NOW = "2025-01-02T03:04:05.000000Z"
REQUIREMENTS = "flask==3.0.0\nrequests[socks]==2.31.0  # for the shop\n"


def made_profile(**changed: Any) -> profile.Profile:
    return profile.parse(yaml.safe_dump({**PROFILE, **changed}), "fix_profiles/web.yml")


def tree(texts: Mapping[str, str] | None = None, **modes: str) -> Tree:
    found = {"compose.yaml": COMPOSE, "web/requirements.txt": REQUIREMENTS, **(texts or {})}
    return Tree("stacks/shop", {**dict.fromkeys(found, "100644"), **modes}, found)


def case(text: str, texts: Mapping[str, str] | None = None, *, given: profile.Profile | None = None, **more: Any) -> Case:
    return Case(instruction.parse(text), given or made_profile(), tree(texts), **more)


def propose(text: str, texts: Mapping[str, str] | None = None, **more: Any) -> Proposal:
    found = planner.propose(case(text, texts, **more), shipped())
    assert found
    return found


class Fleet:
    """A repository at *root* with the profile and its stack, and what a node would be seen to have."""

    def __init__(self, root: Path) -> None:
        self.repository = Repository(root)
        self.repository.write_yaml("fix_profiles/web.yml", PROFILE)
        self.repository.write("stacks/shop/compose.yaml", COMPOSE)
        self.repository.write("stacks/shop/web/requirements.txt", REQUIREMENTS)
        self.repository.write("stacks/other/compose.yaml", "services: {}\n")
        self.head = self.repository.commit()
        self.desk = Desk(root, "stacks", ["planted-secret"])
        self.checkout = Checkout(root)

    def seen(self, **changed: Any) -> dict[str, Any]:
        return {
            "revision": self.head,
            "containers": [],
            "health": {"ok": False, "said": "it has no container"},
            "image": {"reference": "shop-web", "id": "sha256:0"},
            "built": True,
            "others": ["other"],
            "log": "",
            **changed,
        }

    def plan(self, text: str = "bump requests to 2.32.4", patch: str = "", **seen: Any) -> Planned:
        return self.desk.plan(self.desk.ask("web", text, patch), self.seen(**seen))

    def candidate(self, planned: Planned) -> FixRun:
        run = FixRun("fix-000001-web", "web", "shop", "pi-1", "x", "running", "alice", "run", _NOW, runner.fresh_steps(), planned.plan)
        return replace(run, candidate=self.desk.candidate(run, planned))


class World:
    """A ledger whose clock goes on by a second with each look, and a run that is open in it. *store*: in the place of a file *place*."""

    def __init__(self, place: Path, store: Store | None = None) -> None:
        self.moment = datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
        self.store = store or Store(place)
        self.gone: set[int] = set()
        self.runs = Runs(self.store, self.now, gone=self.is_gone)
        self.fix_runs = FixRuns(self.store, self.now, gone=self.is_gone)
        self.signer = attestation.own_signer(place.parent / "keys/evidence.pem")
        self.mine = self.another_run(1)

    def is_gone(self, process: Process) -> bool:
        return process.pid in self.gone

    def now(self) -> datetime:
        self.moment += timedelta(seconds=1)
        return self.moment

    def another_run(self, pid: int) -> Process:
        process = Process("controller", "boot", pid, f"start-{pid}")
        self.runs.open(HEADER, process, ["pi-1"])
        return process

    def create(self, process: Process | None = None, service: str = "web") -> FixRun:
        return self.fix_runs.create(process or self.mine, service, "shop", "pi-1", "bump requests to 2.32.4", "alice")

    def analysed(self, requirement: str = "none", **approval: Any) -> FixRun:
        """A fix run whose plan is made."""
        return self.plan(self.create(), requirement, **approval)

    def plan(self, run: FixRun, requirement: str = "none", **approval: Any) -> FixRun:
        """Make the plan of a fix run."""
        given = made_profile(approval={"requirement": requirement, **approval})
        asked = case("bump requests to 2.32.4", given=given)
        found = planner.propose(asked, shipped())
        assert found
        plan = planner.plan("web", "a" * 40, "b" * 64, asked, found)
        self.fix_runs.begin(self.mine, run.id, ANALYZE)
        return self.fix_runs.change(
            run.id, "fix_run.step", lambda r, now: runner.finish(replace(runner.plan(r, plan), candidate="c" * 40), ANALYZE, "", {}, now)
        )

    def step(self, run: FixRun, name: str, process: Process | None = None) -> FixRun:
        """Begin and finish a step."""
        self.fix_runs.begin(process or self.mine, run.id, name)
        return self.fix_runs.change(run.id, "fix_run.step", lambda r, now: runner.finish(r, name, "", {}, now))

    def fail(self, run: FixRun, name: str) -> FixRun:
        self.fix_runs.begin(self.mine, run.id, name)
        return self.fix_runs.change(run.id, "fix_run.failed", lambda r, now: runner.fail(r, name, "broken", {}, now))

    def fill(self, many: int) -> None:
        """Let there be *many* fix runs, all like one that is analysed but for their status."""
        first = self.analysed()
        with self.store.write() as db:
            run = dict(db.execute(select(fix_runs).where(fix_runs.c.id == first.id)).mappings().one())
            steps = [dict(row) for row in db.execute(select(fix_run_steps).where(fix_run_steps.c.fix_run_id == first.id)).mappings()]
            more = range(run["seq"] + 1, many + 1)
            db.execute(fix_runs.insert(), [{**run, "id": f"fix-{n:06d}-web", "seq": n, "status": "succeeded"} for n in more])
            db.execute(fix_run_steps.insert(), [{**step, "fix_run_id": f"fix-{n:06d}-web"} for n in more for step in steps])
