# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: plans and records a fix run, and decides on it, in the controller's ledger."""

from __future__ import annotations

import gc
from typing import Any

from ansible_collections.pifleet.ops.plugins.action.run_record import MISSING, LedgerAction, display
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.fix_run import ARGUMENT_SPEC, REQUIRED_IF
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import (
    ANALYZE,
    AWAITING,
    CANCELLED,
    REJECTED,
    SUCCEEDED,
    Artifact,
    FixRun,
)

LACKING = MISSING
if not LACKING:
    try:
        from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation, scrubbing
        from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import metrics, runner, text
        from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.desk import Asked, Desk
        from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import shipped
        from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin
        from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import FixRuns

        scrubbing.prepare()
        shipped()
        gc.freeze()  # as run_record does
    except ImportError as error:
        LACKING = str(error)


class FixRunAction(LedgerAction):
    """The base of the actions that work on fix runs."""

    def use_fix_runs(self) -> str:
        """Find the ledger and the fleet, and return the ledger's place."""
        place = self.use_ledger()
        self.need("Fix runs", LACKING)
        self._statsd = str(self._variable("fix_runs_statsd_host") or ""), self._statsd_port()
        self._fix_runs = FixRuns(self._store, told=self._measure)
        self._desk = Desk(self._root, str(self._variable("stacks_folder") or "stacks"), tuple(self._secrets()))
        return place

    def publish(self) -> None:
        """Write the figures of all fix runs for Prometheus, where the inventory names a file. One that cannot be costs a warning."""
        if path := self._textfile():
            try:
                metrics.write(self._root / path, self._fix_runs.tally())
            except OSError as error:
                display.warning(f"{path} cannot be written: {error.strerror or error}. The figures of fix runs are not up to date there.")

    def _measure(self, before: FixRun, after: FixRun) -> None:
        metrics.send(metrics.of_change(before, after), *self._statsd)

    def _statsd_port(self) -> int:
        port = str(self._variable("fix_runs_statsd_port") or metrics.PORT)
        if not (port.isdecimal() and 0 < int(port) < 65536):
            raise PifleetError(f"fix_runs_statsd_port is {port!r}, which is no port.", "Give a number of 1 to 65535. Nothing was recorded.")
        return int(port)

    def _textfile(self) -> str:
        path = str(self._variable("fix_runs_textfile") or "")
        if path and not path.endswith(metrics.SUFFIX):
            raise PifleetError(
                f"fix_runs_textfile is {path}.", f"node-exporter reads files that end with {metrics.SUFFIX} alone. Nothing was recorded."
            )
        return path

    def _asked(self, params: dict[str, Any]) -> Asked:
        """What the command line asks for, checked."""
        wanted = params["instruction"] or ""
        path = params["patch_file"] or (wanted[len("apply diff ") :].strip() if wanted.lower().startswith("apply diff ") else "")
        return self._desk.ask(params["service"] or "", wanted, self._desk.read_patch(path) if path else "")

    def _patch_of(self, run: FixRun) -> str:
        """The diff that a fix run was started with."""
        return self._kept_diff(run) if run.instruction.lower().startswith("apply diff ") else ""

    def _kept_diff(self, run: FixRun) -> str:
        """The diff that is kept of a fix run, empty where none is yet."""
        found = next((artifact for artifact in run.artifacts if artifact.name == "patch.diff"), None)
        return self._desk.artifacts().read(found) if found else ""

    def _refuse_host(self, node: str) -> None:
        if node not in self.task_vars["groups"].get("all", ()):
            raise PifleetError(f"{node} is no host of this inventory.", "Correct `node` in the profile. Nothing was recorded.")
        if node not in self.task_vars["ansible_play_hosts_all"]:
            raise PifleetError(
                f"{node} is not in --limit.", "Leave --limit out: a fix run keeps to its node by itself. Nothing was recorded."
            )

    def _refuse_repository(self) -> None:
        if self._variable("stacks_repository"):
            raise PifleetError("The nodes fetch their stacks from stacks_repository, which a fix run cannot write to.", "Fix it there.")

    def _changed(self, run: FixRun) -> dict[str, Any]:
        return {"changed": True, **self._result(run)}

    def _result(self, run: FixRun) -> dict[str, Any]:
        return {"fix_run_id": run.id, "status": run.status, "node": run.node, "lines": text.show(run).splitlines()}


class ActionModule(FixRunAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC
    required_if = REQUIRED_IF

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        place = self.use_fix_runs()
        does = {
            "create": self._create,
            "take": self._take,
            "decide": self._decide,
            "cancel": self._cancel,
            "show": self._show,
            "finish": self._finish,
        }
        self._textfile()  # a bad name is refused before anything is recorded
        do = params["do"]
        if do != "finish":
            self._refuse_repository()
        if self._task.check_mode and do not in ("create", "finish"):
            do = "show"
        result = does[do](params)
        if result.get("changed"):
            self.publish()
        return {"changed": False, "ledger": place, **result}

    def _create(self, params: dict[str, Any]) -> dict[str, Any]:
        """Refuse what can be refused before anything is recorded. A check goes no further."""
        parent = self._known(params["retry"]) if params["retry"] else None
        if parent and not params["fresh"]:
            if self._task.check_mode:
                runner.reopen(parent, params["from_step"] or "", parent.ended_at)  # refuses what the run itself would
                return self._result(parent)
            return self._changed(self._fix_runs.resume(self._process, parent.id, params["from_step"] or ""))
        asked = self._desk.ask(parent.service, parent.instruction, self._patch_of(parent)) if parent else self._asked(params)
        profile = asked.profile
        self._refuse_host(profile.node)
        if self._task.check_mode:
            return {"fix_run_id": parent.id if parent else "", "status": "", "node": profile.node, "lines": []}

        def keep(run: FixRun) -> list[Artifact]:
            return [self._desk.keep(run, "patch.diff", ANALYZE, asked.case.patch)] if asked.case.patch else []

        run = self._fix_runs.create(
            self._process,
            asked.service,
            profile.stack,
            profile.node,
            asked.case.wanted.text,
            origin.login(),
            parent.id if parent else "",
            keep=keep,
        )
        return self._changed(run)

    def _known(self, wanted: str) -> FixRun:
        """The fix run, whose node is one of this run."""
        run = self._fix_runs.get(wanted)
        self._refuse_host(run.node)
        return run

    def _show(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._result(self._known(params["fix_run_id"]))

    def _decide(self, params: dict[str, Any]) -> dict[str, Any]:
        run = self._known(params["fix_run_id"])
        signer = attestation.own_signer(self._state / attestation.KEY_FILE)
        decision = "rejected" if params["reject"] else "approved"
        fleet = self._desk.fleet()
        run = self._fix_runs.decide(self._process, run.id, decision, params["plan_digest"] or "", origin.login(), fleet, signer)
        if run.status == AWAITING and params["go_on"]:
            run = self._fix_runs.resume(self._process, run.id)
        return self._changed(run)

    def _take(self, params: dict[str, Any]) -> dict[str, Any]:
        run = self._known(params["fix_run_id"])
        return self._changed(self._fix_runs.take(self._process, run.id, params["task_id"] or ""))

    def _cancel(self, params: dict[str, Any]) -> dict[str, Any]:
        run = self._known(params["fix_run_id"])
        who = origin.login()
        return self._changed(self._fix_runs.change(run.id, "fix_run.cancelled", lambda found, now: runner.cancel(found, who, now)))

    def _finish(self, params: dict[str, Any]) -> dict[str, Any]:
        run = self._fix_runs.get(params["fix_run_id"])
        result = self._result(run)
        if run.status not in (SUCCEEDED, AWAITING, REJECTED, CANCELLED) and not run.reason.startswith("rejected by"):
            result.update(failed=True, msg=text.outcome(run))
        return result
