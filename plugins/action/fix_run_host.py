# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: does one step of a fix run on its node, and records it before and after."""

from __future__ import annotations

import base64
import json
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.pifleet.ops.plugins.action.fix_run import LACKING, FixRunAction
from ansible_collections.pifleet.ops.plugins.action.run_record import display
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.fix_run_host import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import (
    ANALYZE,
    BUILD,
    FAILED,
    IN_PROGRESS,
    PATCH,
    PINNED,
    RESTART,
    ROLLBACK,
    ROLLBACK_FAILED,
    ROLLED_BACK,
    UNPINNED,
    VERIFY,
    ActionPlan,
    Artifact,
    FixRun,
)

if not LACKING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import metrics, planner, runner, text
    from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.desk import Asked
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import process
    from ansible_collections.pifleet.ops.plugins.plugin_utils._stacks_source import Checkout as Source

#: bytes of an archive of the stacks, and of it packed, that go with a module's arguments: five calls of the node fewer than for a file
_LARGE, _WITH_ARGUMENTS = 8 << 20, 64 << 10


@dataclass(slots=True)
class Done:
    """What a step comes to. *error*: why it failed; *change*: what it does to the fix run besides."""

    message: str = ""
    error: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    plan: ActionPlan | None = None
    candidate: str = ""
    lines: list[str] = field(default_factory=list)


class ActionModule(FixRunAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENT_SPEC
    #: logs of the step that is done, and what is to be told of those that could not be written
    _kept: tuple[Artifact, ...] = ()
    _lost: tuple[str, ...] = ()

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        self._params = params
        self.use_fix_runs()
        process.end_with_parent()
        if params["step"] == "unpin":
            return self._unpin()
        if self._task.check_mode:
            return self._preview() if params["step"] == ANALYZE else self._told(None)
        step, run = params["step"], self._fix_runs.get(params["fix_run_id"])
        if runner.due(run) != step:
            return self._told(run)
        run = self._fix_runs.begin(self._process, run.id, step)
        if run.step(step).state != IN_PROGRESS:
            self.publish()
            return self._told(run)  # it waits for an approval, or that has expired
        done = self._attempt(step, run)
        run = self._record(step, run, done)
        if not run.is_open:
            self._clear(run)
        self.publish()
        return {**self._told(run), "changed": step not in (ANALYZE, VERIFY), "lines": done.lines}

    # -- one step ---------------------------------------------------------------------------------------------------------------------
    def _attempt(self, step: str, run: FixRun) -> Done:
        self._kept, self._lost = (), ()
        does = {
            ANALYZE: self._analyze,
            PATCH: self._patch,
            BUILD: self._build,
            RESTART: self._restart,
            VERIFY: self._verify,
            ROLLBACK: self._roll_back,
        }
        try:
            return does[step](run)
        except PifleetError as error:
            return Done(error=str(error))
        except AnsibleConnectionFailure as error:
            return Done(error=f"unreachable: {' '.join(str(error).split())}")
        except AnsibleError as error:
            return Done(error=" ".join(str(error).split()))
        except Exception as error:  # of this code's own making: still no reason to leave the service half-changed
            return Done(error=f"unexpected: {type(error).__name__}: {error}")

    def _record(self, step: str, run: FixRun, done: Done) -> FixRun:
        for lost in self._lost:
            display.warning(lost)
        error, message = (self._desk.told(self._with_lost(text)) for text in (done.error, done.message))
        detail = self._desk.cleaned(done.detail)

        def change(found: FixRun, now: str) -> FixRun:
            if done.plan:
                found = runner.plan(found, done.plan)
            if done.candidate:
                found = replace(found, candidate=done.candidate)
            return runner.fail(found, step, error, detail, now) if error else runner.finish(found, step, message, detail, now)

        def report(found: FixRun) -> list[Artifact]:
            try:
                return [] if found.is_open else [self._desk.keep(found, metrics.REPORT, step, metrics.report(found))]
            except PifleetError as error:  # no reason not to record how it ended
                display.warning(str(error))
                return []

        kind, artifacts = "fix_run.failed" if error else "fix_run.step", [*done.artifacts, *self._kept]
        return self._fix_runs.change(run.id, kind, change, artifacts, self._process, report)

    def _with_lost(self, text: str) -> str:
        return ". ".join([text.rstrip("."), *self._lost]) if text and self._lost else text

    def _keep(self, run: FixRun, name: str, text: str) -> None:
        """Write a log of this step. Where that cannot be, the step says so, and ends as it would: what was done to the service is done."""
        try:
            self._kept += (self._desk.keep(run, name, self._params["step"], text),)
        except (PifleetError, OSError) as error:
            self._lost += (f"{name} is not kept: {error}",)

    def _told(self, run: FixRun | None) -> dict[str, Any]:
        if run is None:
            return {"changed": False, "outcome": "", "message": "", "status": "", "lines": []}
        step = run.step(self._params["step"])
        return {"changed": False, "outcome": step.state, "message": step.message, "status": run.status, "lines": []}

    # -- analyze ----------------------------------------------------------------------------------------------------------------------
    def _preview(self) -> dict[str, Any]:
        """A check: what is recorded already is shown, with where it would go on; else the node is looked at, and the plan is shown."""
        run = self._fix_runs.get(self._params["fix_run_id"]) if self._params["fix_run_id"] else None
        if run and run.plan and not self._params["fresh"]:
            return {**self._told(None), "changed": True, "lines": self._would_go_on(run, run.plan)}
        asked = self._desk.ask(run.service, run.instruction, self._patch_of(run)) if run else self._asked(self._params)
        found = self._look(asked, checks=[])  # a check runs nothing in a container
        planned = self._desk.plan(asked, {**found["seen"], "log": found["log"]})
        shown = text.plan(planned.plan, self._desk.shown_diff(planned))
        return {**self._told(None), "changed": True, "lines": shown.splitlines()}

    def _would_go_on(self, run: FixRun, plan: ActionPlan) -> list[str]:
        """The plan of a fix run that is recorded, and the steps that are to be done yet."""
        would = run if run.is_open else runner.reopen(run, self._params["from_step"] or "", run.ended_at)
        left = [step.name for step in would.steps if not step.is_over and step.name != ROLLBACK]
        shown = text.plan(plan, self._kept_diff(run))
        return [*shown.splitlines(), f"{run.id} is {run.status}, and would go on with: {', '.join(left) or ROLLBACK}"]

    def _analyze(self, run: FixRun) -> Done:
        asked = self._desk.ask(run.service, run.instruction, self._patch_of(run))
        found = self._look(asked, planner.checks_of(asked.profile))
        seen = found["seen"]
        try:
            planned = self._desk.plan(asked, {**seen, "log": found["log"]})
        except PifleetError as error:
            return Done(error=str(error), artifacts=self._desk.keep_analysis(run, seen, found["log"], None))
        planned_run = replace(run, plan=planned.plan)
        return Done(
            message=planned.plan.summary,
            detail={"well": seen["health"]["ok"], "said": seen["health"]["said"], "checks": seen["health"]["checks"]},
            artifacts=self._desk.keep_analysis(run, seen, found["log"], planned),
            plan=planned.plan,
            candidate=self._desk.candidate(planned_run, planned),
            lines=text.plan(planned.plan, self._desk.shown_diff(planned)).splitlines(),
        )

    def _look(self, asked: Asked, checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        profile = asked.profile
        return self._module(
            "look",
            self._place(profile.stack, profile.service),
            files=self._desk.files(asked),
            health={"url": profile.health.url, "checks": list(checks)},
            reconcile=self._params["reconcile"],
        )

    # -- patch, build, restart, verify ------------------------------------------------------------------------------------------------
    def _patch(self, run: FixRun) -> Done:
        plan, run = _plan(run), self._desk.renewed(run)
        self._desk.refuse_other_patch(run)
        found = self._module("patch", self._place_of(run), fix_run_id=run.id, files=self._inside(plan), **self._target(run.candidate, run))
        wrong = [c.path for c in plan.files if found["seen"]["files"][self._below(c.path, plan)]["sha256"] != c.after]
        if wrong:
            raise PifleetError(f"{', '.join(wrong)} is not as patched on {run.node}.", "Something else writes there.")
        return Done(message=f"{len(plan.files)} file(s) of {plan.stack}", detail=found["seen"], candidate=run.candidate)

    def _build(self, run: FixRun) -> Done:
        found = self._module("build", self._place_of(run), timeout=float(_plan(run).steps[BUILD]["timeout"]))
        self._keep(run, "build.log", found["log"])
        if found.get("error"):
            return Done(error=found["error"])
        return Done(message="built", detail=found["seen"])

    def _restart(self, run: FixRun) -> Done:
        plan = _plan(run)
        found = self._reconcile(plan, run.candidate, self._desk.message(run))
        self._keep(run, "restart.log", _json(found))
        return Done(message="restarted", error=_not_synced(found, plan.stack))

    def _verify(self, run: FixRun) -> Done:
        plan = _plan(run)
        found = self._module("verify", self._place_of(run), health=dict(plan.steps[VERIFY]))
        self._keep(run, "verify.log", found["log"])
        if found["error"]:
            return Done(error=found["error"])
        if plan.keep == PINNED:
            self._module("pin", self._place_of(run), target={"revision": run.candidate})
            kept = f"pinned at {run.candidate[:12]}"
        else:
            self._desk.checkout.keep(run.candidate)
            kept = f"committed as {run.candidate[:12]}"
        return Done(message=f"well, and {kept}", detail=found["seen"])

    def _unpin(self) -> dict[str, Any]:
        run = self._fix_runs.get(self._params["fix_run_id"])
        if not run.holds:
            raise PifleetError(f"The fix run {run.id} holds nothing pinned.", "`playbooks/stacks_status.yml` shows what is.")
        if not self._task.check_mode:
            self._module("pin", self._place_of(run))
            run = self._fix_runs.change(run.id, "fix_run.unpinned", lambda found, now: runner.note(found, VERIFY, {UNPINNED: now}))
            self._desk.checkout.forget(run.id)
        return {"changed": True, "outcome": "", "message": f"{_plan(run).stack} is pinned no more", "status": run.status, "lines": []}

    # -- rollback ---------------------------------------------------------------------------------------------------------------------
    def _roll_back(self, run: FixRun) -> Done:
        log = [f"rollback of {run.id}: {run.reason}"]
        try:
            return self._put_back(run, log)
        except (PifleetError, AnsibleError) as error:
            log.append(str(error))
            raise
        finally:
            self._keep(run, "rollback.log", "\n".join(log) + "\n")

    def _put_back(self, run: FixRun, log: list[str]) -> Done:
        """Bring back what was there before, and add to *log* what was done."""
        plan, checkout = _plan(run), self._desk.checkout
        was_well = bool(run.step(ANALYZE).detail.get("well"))
        base, stuck = plan.base, ""
        try:
            if reverted := checkout.revert(run.candidate):
                base = reverted
                log.append(f"reverted {run.candidate} by {base}")
        except PifleetError as error:  # the service need not wait for a person to settle that
            stuck = str(error)
            log.append(stuck)
        before = self._module("restore", self._place_of(run), fix_run_id=run.id, **self._target(base, run))["seen"]["before"]
        if before:
            log.append(f"files of {base}, image {before['image_id'] or '(none)'} as {before['reference']}")
            log.append(_json(self._reconcile(plan, base, f"Take back: {self._desk.message(run)}")))
        else:
            log.append("nothing was changed on the node yet")
        found = self._module("compare", self._place_of(run), fix_run_id=run.id, files=self._inside(plan))["seen"]
        wrong = _differences(plan, before, found, self._inside(plan))
        log += [f"{path}: sha256 {state['sha256'] or state['kind']}" for path, state in found["files"].items()]
        log += [f"{c['name']}: image {c['image_id']}, {c['state']}" for c in found["containers"]]
        if not wrong and was_well:
            # a check that failed before is not asked of what was there before
            held = run.step(ANALYZE).detail.get("checks") or {}
            health = {**plan.steps[VERIFY], "checks": [check for check in plan.steps[ROLLBACK]["checks"] if held.get(check["name"])]}
            seen = self._module("verify", self._place_of(run), health=health)
            log.append(seen["log"])
            wrong = seen["error"]
        said = "well again" if was_well else "as it was before: it was not well then either"
        log.append(wrong or said)
        if stuck:
            wrong = f"{wrong or f'the service is {said}'}, but its patch stays committed: the next reconciliation brings it again. {stuck}"
        return Done(message=said, error=wrong, detail={"base": base})

    def _clear(self, run: FixRun) -> None:
        """Forget on the node and in git what was kept for a rollback. What cannot be forgotten now harms nobody."""
        # what is pinned has its patch nowhere else, and what was taken back may be retried
        if not run.holds and run.status not in (FAILED, ROLLED_BACK, ROLLBACK_FAILED):
            self._desk.checkout.forget(run.id)
        if run.step(PATCH).started_at and run.step(ROLLBACK).state != "failed":
            try:
                self._module("release", self._place_of(run), fix_run_id=run.id)
            except (PifleetError, AnsibleError):
                return

    # -- the node ---------------------------------------------------------------------------------------------------------------------
    def _module(self, do: str, place: Mapping[str, Any], **args: Any) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="pifleet.ops.fix_run_host",
            module_args={"step": self._params["step"], "do": do, "place": dict(place), **args},
            task_vars=self.task_vars,
        )
        return _answered(result)

    def _reconcile(self, plan: ActionPlan, revision: str, message: str) -> dict[str, Any]:
        """Let the node's own reconciliation replace the service, and nothing else of the node."""
        given = self._params["reconcile"]
        others = [f"{name}/*" for name in plan.steps[RESTART]["others"]]
        args = {
            **given,
            "revision": revision,
            "commit_message": message,
            "policy": "apply",
            "scope": [plan.stack],
            "remove": False,
            "ignore": [*given.get("ignore", []), *others],
            "timeout": float(plan.steps[RESTART]["timeout"]),
        }
        result: dict[str, Any] = self._execute_module(module_name="pifleet.ops.stack_reconcile", module_args=args, task_vars=self.task_vars)
        if "stacks" not in result:
            _answered(result)
        return {"msg": result.get("msg", ""), "stacks": [s for s in result.get("stacks", ()) if s["name"] == plan.stack]}

    def _target(self, commit: str, run: FixRun) -> dict[str, Any]:
        """The desired state at *commit* for the module: the archive with its arguments, or where it is large, where it was sent to."""
        folder = self._folder()
        target = {"revision": commit, "commit_message": self._desk.message(run), "folder": folder}
        with tempfile.TemporaryDirectory(prefix="pifleet-") as temporary:
            local = Path(temporary, "archive.tar")
            Source(self._root, folder).archive(commit, local)
            packed = base64.b64encode(zlib.compress(local.read_bytes())) if local.stat().st_size <= _LARGE else b""
            if packed and len(packed) <= _WITH_ARGUMENTS:
                return {"target": target, "archive": packed.decode()}
            where = self._connection._shell.tmpdir or self._make_tmp_path()
            remote = self._transfer_file(str(local), self._connection._shell.join_path(where, f"{commit}.tar"))
            self._fixup_perms2((where, remote))
        return {"target": {**target, "archive": remote}}

    def _folder(self) -> str:
        return str(self._variable("stacks_folder") or "stacks").strip("/")

    def _place_of(self, run: FixRun) -> dict[str, Any]:
        plan = _plan(run)
        return self._place(plan.stack, plan.compose_service)

    def _place(self, stack: str, service: str) -> dict[str, Any]:
        given = self._params["reconcile"]
        return {"stacks": given["path"], "stack": stack, "service": service, "roles": list(given.get("node_role", []))}

    def _below(self, path: str, plan: ActionPlan) -> str:
        return path.removeprefix(f"{self._folder()}/{plan.stack}/")

    def _inside(self, plan: ActionPlan) -> list[str]:
        return [self._below(change.path, plan) for change in plan.files]


def _plan(run: FixRun) -> ActionPlan:
    if run.plan is None:
        raise PifleetError(f"The fix run {run.id} has no plan.")
    return run.plan


def _answered(result: dict[str, Any]) -> dict[str, Any]:
    if result.get("unreachable"):
        raise PifleetError(f"unreachable: {result.get('msg')}")
    if result.get("failed"):
        raise PifleetError(" ".join(str(result.get("msg")).split()))
    return result


def _not_synced(found: Mapping[str, Any], stack: str) -> str:
    """Why a stack is not as desired, empty where it is."""
    status = next(iter(found["stacks"]), None)
    if status is None:
        return str(found["msg"]) or f"the node has no stack {stack}"
    if status["status"] == "synced":
        return ""
    if status["awaiting_acknowledgement"]:
        return f"the policy of the stack {stack} is acknowledge, which asks for another permission"
    return str(status["last_error"] or found["msg"] or f"the stack {stack} is {status['status']}")


def _differences(plan: ActionPlan, before: Mapping[str, Any], found: Mapping[str, Any], paths: Sequence[str]) -> str:
    """What is not as it was before the fix run, empty where all of it is."""
    wrong = [
        change.path
        for change, path in zip(plan.files, paths, strict=True)
        if (found["files"][path]["sha256"] if found["files"][path]["kind"] == "file" else "") != change.before
    ]
    if before.get("image_id") and found["named"] != before["image_id"]:
        wrong.append(f"the image {before['reference']}")
    if before.get("containers") and [c["image_id"] for c in found["containers"]] != [before["image_id"]] * len(before["containers"]):
        wrong.append("what its containers run")
    return f"not as it was: {', '.join(wrong)}" if wrong else ""


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=str) + "\n"
