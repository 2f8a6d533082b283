# SPDX-License-Identifier: GPL-3.0-or-later
"""The actions with a real repository and ledger. What a node does is shown on nodes; here it says that all went well."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.action import fix_run, fix_run_host
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.artifacts import Artifacts
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FixRun

from tests.support.fix_runs import REQUIREMENTS, Fleet, World

WANTED = "bump requests to 2.32.4"
NEW = REQUIREMENTS.replace("2.31.0", "2.32.4")


class OnNode(fix_run_host.ActionModule):
    """*killed*: right before the end of a step is recorded; *fails*: a step is to fail by itself."""

    def __init__(self, fleet: Fleet, world: World) -> None:
        self.fleet, self.killed, self.fails, self.brought = fleet, False, False, list[str]()
        self._root, self._desk, self._fix_runs, self._process = fleet.repository.root, fleet.desk, world.fix_runs, world.mine
        self._params, self.task_vars = {"reconcile": {"path": "/srv/stacks"}}, {}

    def _module(self, do: str, place: Mapping[str, Any], **args: Any) -> dict[str, Any]:
        del place
        if do in ("patch", "restore"):
            self.brought.append(args["target"]["revision"])
        plan, run = self.run.plan, self.run
        assert plan
        files = {change.path.removeprefix("stacks/shop/"): change for change in plan.files}
        sums = {path: {"kind": "file", "sha256": change.after if do == "patch" else change.before} for path, change in files.items()}
        before = {"reference": "shop-web", "image_id": "sha256:0", "containers": []}
        seen = {"files": sums, "before": before, "named": "sha256:0", "containers": [], "image": ""}
        return {"seen": seen, "log": "", "error": "", "run": run.id}

    def _reconcile(self, *_of: Any) -> dict[str, Any]:
        return {"msg": "", "stacks": [{"name": "shop", "status": "synced"}]}

    def step(self, name: str, error: str = "") -> FixRun:
        """Do a step, and let it fail with *error* where that is given."""
        self._params["step"] = name
        self.run = self._fix_runs.begin(self._process, self.run.id, name)
        done = self._attempt(name, self.run)
        if self.killed:
            return self.run
        assert bool(done.error) == self.fails
        done.error = done.error or error
        self.run = self._record(name, self.run, done)
        return self.run

    def text(self) -> str:
        return (self.fleet.repository.root / "stacks/shop/web/requirements.txt").read_text()

    def steps(self, *names: str) -> FixRun:
        return [self.step(name) for name in names][-1]


@pytest.fixture
def node(fleet: Fleet, world: World) -> OnNode:
    """A fix run whose plan is made."""
    made = OnNode(fleet, world)
    run = world.create()
    planned = fleet.plan(WANTED)
    world.fix_runs.begin(world.mine, run.id, "analyze")
    done = fix_run_host.Done(plan=planned.plan, candidate=fleet.desk.candidate(run, planned), detail={"well": True})
    made._params["step"] = "analyze"
    made.run = made._record("analyze", run, done)
    return made


def again(node: OnNode) -> None:
    node.run = node._fix_runs.change(node.run.id, "fix_run.resumed", lambda run, now: runner.reopen(run, "", now))


def test_a_rollback_that_was_cut_off_takes_the_patch_back_once(node: OnNode) -> None:
    """The patch was committed, and its end could not be recorded as one."""
    git = node.fleet.repository.git
    node.steps("patch", "build", "restart")
    node.step("verify", error="the ledger was full")
    node.killed = True
    node.step("rollback")
    head = git("rev-parse", "HEAD")
    node.killed = False
    assert node.step("rollback").status == "rolled_back"
    assert (git("rev-parse", "HEAD"), node.text(), git("rev-list", "--count", "HEAD")) == (head, REQUIREMENTS, "3")
    assert node.brought[-2:] == [head, head]


def test_what_was_rolled_back_is_committed_by_a_retry(node: OnNode) -> None:
    git = node.fleet.repository.git
    node.steps("patch", "build", "restart")
    node.step("verify", error="the ledger was full")
    first = node.step("rollback")
    node._clear(first)
    assert git("for-each-ref", "--format=%(objectname)", "refs/pifleet") == first.candidate, "git gc would take it"
    again(node)
    run = node.steps("patch", "build", "restart", "verify")
    node._clear(run)
    assert (run.status, node.text(), git("rev-parse", "HEAD")) == ("succeeded", NEW, run.candidate)
    assert run.candidate not in ("", first.candidate)
    assert run.step("verify").message == f"well, and committed as {run.candidate[:12]}"
    assert (run.plan_digest, node.brought[-1]) == (first.plan_digest, run.candidate)
    assert git("for-each-ref", "refs/pifleet") == ""


def test_the_service_does_not_wait_for_a_conflict_to_be_settled(node: OnNode) -> None:
    repository = node.fleet.repository
    node.steps("patch", "build", "restart")
    base = node.fleet.head
    node.step("verify", error="the ledger was full")
    repository.write("stacks/shop/web/requirements.txt", NEW.replace("2.32.4", "2.33.0"))
    head = repository.commit()
    node.fails = True
    run = node.step("rollback")
    assert (run.status, node.brought[-1], repository.git("rev-parse", "HEAD")) == ("rollback_failed", base, head)
    told = run.step("rollback").message
    assert "the service is well again, but its patch stays committed" in told
    assert f"git revert {run.candidate[:12]}" in told
    node._clear(run)
    # settled by hand, as it says
    repository.write("stacks/shop/web/requirements.txt", REQUIREMENTS)
    repository.git("commit", "--quiet", "--all", "-m", f"Back\n\nThis reverts commit {run.candidate}.")
    again(node)
    node.fails = False
    run = node.step("rollback")
    assert (run.status, node.brought[-1]) == ("rolled_back", repository.git("rev-parse", "HEAD"))


class CutOff(Artifacts):
    def write(self, *_of: Any) -> Any:
        raise RuntimeError("cut off")


def test_a_fix_run_is_never_without_its_diff(fleet: Fleet, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    action = fix_run.ActionModule.__new__(fix_run.ActionModule)
    action._root, action._desk, action._fix_runs, action._process = fleet.repository.root, fleet.desk, world.fix_runs, world.mine
    action._task = SimpleNamespace(check_mode=False)
    action.task_vars = {"groups": {"all": ["pi-1"]}, "ansible_play_hosts_all": ["pi-1"]}
    rendered = fleet.plan(WANTED).diff
    (fleet.repository.root / "fix.diff").write_text(rendered)
    params = dict.fromkeys(("retry", "from_step", "patch_file"), "") | {
        "service": "web",
        "instruction": "apply diff fix.diff",
        "fresh": False,
    }
    with monkeypatch.context() as patch:
        patch.setattr(fleet.desk, "artifacts", lambda: CutOff(fleet.repository.root, "var/artifacts"))
        with pytest.raises(RuntimeError, match="cut off"):
            action._create(params)
    assert world.fix_runs.listed() == ([], 0)
    run = world.fix_runs.get(action._create(params)["fix_run_id"])
    assert action._patch_of(run) == rendered
    assert run.artifacts[0].name == "patch.diff"
