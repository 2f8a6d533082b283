# SPDX-License-Identifier: GPL-3.0-or-later
"""The action with a real ledger and repository, and recorded answers of the node: a log that cannot be written changes no outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.pifleet.ops.plugins.action import fix_run_host
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import (
    ANALYZE,
    BUILD,
    FORWARD,
    PATCH,
    RESTART,
    ROLLBACK,
    SUCCEEDED,
    VERIFY,
    ActionPlan,
    FixRun,
)

from tests.support.fix_runs import Fleet, World

BEFORE = {"reference": "shop-web", "image_id": "sha256:old", "containers": ["c1"]}
RUNS = [{"name": "shop-web-1", "image_id": "sha256:old", "state": "running"}]


class Node(fix_run_host.ActionModule):
    """The action, whose node gives recorded answers. *answers*: by what the module is asked for."""

    def __init__(self, world: World, fleet: Fleet) -> None:
        self._world, self._fleet = world, fleet
        self._task = SimpleNamespace(check_mode=False)
        self.answers: dict[str, Any] = {
            "build": {"log": "built\n", "seen": {}},
            "verify": {"log": "3/3\n", "error": "", "seen": {}},
            "restore": {"seen": {"before": BEFORE}},
            "release": {},
        }

    def use_fix_runs(self) -> str:
        self._fix_runs, self._process = self._world.fix_runs, self._world.mine
        self._desk, self._root = self._fleet.desk, self._fleet.repository.root
        return ""

    def _variable(self, name: str) -> Any:
        return None

    def _module(self, do: str, place: Mapping[str, Any], **args: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.answers[do]
        return answer

    def _reconcile(self, plan: ActionPlan, revision: str, message: str) -> dict[str, Any]:
        return {"msg": "", "stacks": [{"name": plan.stack, "status": "synced"}]}

    def does(self, step: str, run: FixRun) -> FixRun:
        """Do a step as its task does, and return the fix run as the ledger has it."""
        self.act({"step": step, "fix_run_id": run.id, "reconcile": {"path": "/stacks"}})
        return self._world.fix_runs.get(run.id)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(fix_run_host.display, "warning", found.append)
    return found


@pytest.fixture
def node(world: World, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(fix_run_host.process, "end_with_parent", lambda: None)
    return Node(world, fleet)


def until(step: str, world: World, fleet: Fleet) -> FixRun:
    """A fix run whose turn *step* is; its patch is the candidate."""
    run, planned = world.create(), fleet.plan()
    planned_run = replace(run, plan=planned.plan)
    candidate = fleet.desk.candidate(planned_run, planned)
    world.fix_runs.begin(world.mine, run.id, ANALYZE)

    def analysed(found: FixRun, now: str) -> FixRun:
        found = replace(runner.plan(found, planned.plan), candidate=candidate)
        return runner.finish(found, ANALYZE, "", {"well": True}, now)

    world.fix_runs.change(run.id, "fix_run.step", analysed)
    for name in FORWARD[1 : FORWARD.index(step)]:
        world.step(run, name)
    return world.fix_runs.get(run.id)


def fill(fleet: Fleet) -> None:
    """Let no artifact be written any more."""
    (fleet.repository.root / "var").write_text("")


def answer_compare(node: Node, run: FixRun) -> None:
    assert run.plan
    files = {c.path.removeprefix("stacks/shop/"): {"kind": "file", "sha256": c.before} for c in run.plan.files}
    node.answers["compare"] = {"seen": {"before": BEFORE, "files": files, "named": "sha256:old", "containers": RUNS}}


def test_logs_are_kept(node: Node, world: World, fleet: Fleet) -> None:
    run = until(BUILD, world, fleet)
    for step in (BUILD, RESTART, VERIFY):
        run = node.does(step, run)
        assert run.step(step).state == "succeeded"
    assert run.status == SUCCEEDED
    kept = {artifact.name: artifact.step for artifact in run.artifacts}
    assert kept.items() >= {("build.log", BUILD), ("restart.log", RESTART), ("verify.log", VERIFY)}


def test_a_good_repair_stays_whatever_cannot_be_kept(node: Node, world: World, fleet: Fleet, warned: list[str]) -> None:
    run = until(BUILD, world, fleet)
    fill(fleet)
    for step, log in ((BUILD, "build.log"), (RESTART, "restart.log"), (VERIFY, "verify.log")):
        run = node.does(step, run)
        assert run.step(step).state == "succeeded"
        assert f"{log} is not kept" in run.step(step).message
        assert any(f"{log} is not kept" in warning for warning in warned)
    assert (run.status, run.artifacts, fleet.repository.git("rev-parse", "HEAD")) == (SUCCEEDED, (), run.candidate)


def test_a_failure_stays_one(node: Node, world: World, fleet: Fleet, warned: list[str]) -> None:
    run = until(VERIFY, world, fleet)
    fill(fleet)
    node.answers["verify"] = {"log": "0/3\n", "error": "not well", "seen": {}}
    run = node.does(VERIFY, run)
    assert run.step(VERIFY).state == "failed"
    assert run.reason.startswith("verify: not well. verify.log is not kept")
    assert "verify.log is not kept" in warned[0]


def test_a_log_is_kept_of_what_fails_after_it(node: Node, world: World, fleet: Fleet) -> None:
    run = until(VERIFY, world, fleet)
    # the branch went on meanwhile
    fleet.repository.write("README", "x")
    fleet.repository.commit()
    run = node.does(VERIFY, run)
    assert (run.step(VERIFY).state, [artifact.name for artifact in run.artifacts]) == ("failed", ["verify.log"])


def test_a_good_rollback_stays_one(node: Node, world: World, fleet: Fleet, warned: list[str]) -> None:
    run = until(VERIFY, world, fleet)
    world.fail(run, VERIFY)
    fill(fleet)
    answer_compare(node, run)
    run = node.does(ROLLBACK, run)
    assert (run.status, run.step(ROLLBACK).state) == ("rolled_back", "succeeded")
    assert run.step(ROLLBACK).message.startswith("well again. rollback.log is not kept")
    assert "rollback.log is not kept" in warned[0]


def test_a_rollback_that_is_none_is_told_so(node: Node, world: World, fleet: Fleet) -> None:
    run = until(VERIFY, world, fleet)
    world.fail(run, VERIFY)
    answer_compare(node, run)
    # a digest that is named still, but whose image is gone
    node.answers["compare"]["seen"]["named"] = ""
    run = node.does(ROLLBACK, run)
    assert run.status == "rollback_failed"
    assert "not as it was: the image shop-web" in run.step(ROLLBACK).message


def test_a_rollback_that_is_cut_off_says_how_far_it_came(node: Node, world: World, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    run = until(VERIFY, world, fleet)
    world.fail(run, VERIFY)

    def lost(*_given: object) -> dict[str, Any]:
        raise AnsibleConnectionFailure("no route to the node")

    monkeypatch.setattr(node, "_reconcile", lost)
    run = node.does(ROLLBACK, run)
    assert (run.status, run.step(ROLLBACK).message) == ("rollback_failed", "unreachable: no route to the node")
    log = (fleet.repository.root / "var/artifacts" / run.id / "rollback.log").read_text()
    assert "image sha256:old as shop-web" in log
    assert log.endswith("no route to the node\n")


def test_what_cannot_be_kept_of_an_analysis_ends_it(node: Node, world: World, fleet: Fleet) -> None:
    # nothing was changed yet, and without its plan nothing is
    run = world.create()
    fill(fleet)
    node.answers["look"] = {"seen": {**fleet.seen(), "health": {"ok": True, "said": "", "checks": {}}}, "log": ""}
    run = node.does(ANALYZE, run)
    assert (run.status, run.step(PATCH).state) == ("failed", "skipped")
    assert "Make room on the controller" in run.reason
