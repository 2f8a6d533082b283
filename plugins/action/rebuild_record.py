# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: records the rebuild of a node in the controller's ledger, and writes its report."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ansible.utils.display import Display
from ansible_collections.pifleet.ops.plugins.action.run_record import MISSING, LedgerAction
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.rebuild_record import ARGUMENT_SPEC, REQUIRED_IF
from ansible_collections.pifleet.ops.plugins.plugin_utils import _rebuild_report
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import cleaned

if not MISSING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity, textfile
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds, Subject

display = Display()

#: what is returned where nothing is written
NOTHING: Mapping[str, Mapping[str, Any]] = {
    "started": {"rebuild_id": None, "attempt": None, "resumed": None, "details": {}},
    "step": {"rebuild_id": None, "step": None},
    "noted": {"rebuild_id": None, "step": None},
    "finished": {
        "rebuild_id": None,
        "started_at": None,
        "seconds": None,
        "total_seconds": None,
        "steps": [],
        "report": None,
        "within_budget": None,
        "over_budget": "",
    },
    "abandoned": {"rebuild_id": None},
}


class ActionModule(LedgerAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC
    required_if = REQUIRED_IF

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        path = self.use_ledger()
        self._check(params)
        state = params["state"]
        self._rebuilds = Rebuilds(self._store)
        self._host = str(self.task_vars["inventory_hostname"])
        if self._task.check_mode:
            known = {"details": self._rebuilds.known(self._host, self._inventory())} if state == "started" else {}
            return {"changed": False, "ledger": str(path), **NOTHING[state], **known}
        secrets = tuple(self._secrets())
        self._clean = partial(cleaned, secrets=secrets)
        self._detail = self._clean(params["detail"] or {})
        does = {"started": self._start, "step": self._step, "noted": self._note, "finished": self._finish, "abandoned": self._abandon}
        result = does[state](params)
        # what takes too long is told while it does
        if why := textfile.publish(identity.load(self._root), self._store):
            display.warning(why)
        return {"changed": False, "ledger": str(path), **result}

    def _check(self, params: dict[str, Any]) -> None:
        budget = params["budget_minutes"]
        if budget is not None and not 0 < budget < float("inf"):
            raise PifleetError(f"budget_minutes is {budget}, which is no time.", "Give minutes above 0, or none.")
        unknown = set(params["details"] or {}) - set(_rebuild_report.STEPS)
        if unknown:
            raise PifleetError(
                f"details names {', '.join(sorted(unknown))}, which is no step.", f"The steps are {', '.join(_rebuild_report.STEPS)}."
            )
        if params["state"] == "abandoned" and params["detail"]:
            raise PifleetError("An abandoned rebuild takes no detail: its steps are over.", "Leave out `detail`.")

    def _start(self, params: dict[str, Any]) -> dict[str, Any]:
        reasons = tuple(self._clean(params["reasons"]))
        subject = Subject(self._host, params["node"], params["role"], reasons, self._clean(params["hardware"] or ""))
        return asdict(self._rebuilds.start(self._process, subject, self._detail))

    def _step(self, params: dict[str, Any]) -> dict[str, Any]:
        self._note_all(params["details"])
        hosts = [self._host] if params["hosts"] is None else params["hosts"]
        ids = [self._rebuilds.step(self._process, host, params["step"], self._detail) for host in hosts]
        return {"rebuild_id": ids[0] if ids else None, "step": params["step"]}

    def _note(self, params: dict[str, Any]) -> dict[str, Any]:
        rebuild_id, step = self._rebuilds.note(self._process, self._host, self._detail, params["step"])
        return {"rebuild_id": rebuild_id, "step": step}

    def _note_all(self, details: Mapping[str, Any] | None) -> None:
        for name, detail in (details or {}).items():
            self._rebuilds.note(self._process, self._host, self._clean(detail), name)

    def _abandon(self, _params: dict[str, Any]) -> dict[str, Any]:
        return {"rebuild_id": self._rebuilds.abandon(self._process, self._host)}

    def _finish(self, params: dict[str, Any]) -> dict[str, Any]:
        self._note_all(params["details"])
        publication = _Publication(self._root / Path(params["report_dir"]).expanduser())
        try:
            record = self._rebuilds.finish(self._process, self._host, self._detail, params["budget_minutes"], publication.publish)
        except BaseException:
            publication.take_back()
            raise
        publication.tidy(record)
        steps = [
            {"step": step.step, "seconds": _rebuild_report.seconds_between(step.started_at, step.ended_at)}
            for step in record.attempts[-1].steps
        ]
        result = {
            "rebuild_id": record.rebuild_id,
            "started_at": record.started_at,
            "seconds": record.seconds,
            "total_seconds": record.total_seconds,
            "steps": steps,
            "report": str(publication.path_of(record, record.attempts[-1].run_id)),
            "within_budget": record.within_budget,
        }
        result["over_budget"] = self._over_budget(record, result) if record.within_budget is False else ""
        return result

    def _over_budget(self, record: _rebuild_report.Rebuild, result: Mapping[str, Any]) -> str:
        longest = max(result["steps"], key=lambda step: step["seconds"])
        attempts = len(record.attempts)
        since = f" since the first of {attempts} attempts, {result['seconds'] / 60:.1f} of them in the last one" if attempts > 1 else ""
        return (
            f"The rebuild of {record.node} succeeded, but took {result['total_seconds'] / 60:.1f} minutes of {record.budget_minutes:g} "
            f"allowed{since}, {longest['seconds'] / 60:.1f} of them in the step {longest['step']}. "
            f"The node is back; see {result['report']}."
        )


class _Publication:
    """The report's file of one rebuild: written before the ledger says that the rebuild succeeded, and taken back where it cannot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: Path | None = None

    def path_of(self, record: _rebuild_report.Rebuild, run_id: str) -> Path:
        return self._folder / f"rebuild-{record.node}-{run_id}.md"

    def publish(self, record: _rebuild_report.Rebuild) -> list[tuple[str, str, bytes]]:
        """Write the report, and return what is kept in the ledger."""
        report = _rebuild_report.to_markdown(record, _template()).encode()
        path = self.path_of(record, record.attempts[-1].run_id)
        try:
            atomic_file.write_atomic(path, report)
        except OSError as error:
            raise PifleetError(
                f"The report {path} cannot be written: {error.strerror or error}.",
                "The rebuild stays open until there is one. Make room or give write access, and run again.",
            ) from error
        self._written = path
        whole = _rebuild_report.to_json(record).encode()
        return [(f"rebuild-{record.node}.json", "application/json", whole), (path.name, "text/markdown", report)]

    def take_back(self) -> None:
        if self._written is not None:
            with suppress(OSError):
                self._written.unlink()

    def tidy(self, record: _rebuild_report.Rebuild) -> None:
        """Remove the report of an earlier attempt that was killed between its report and its commit: it is told in this one."""
        for attempt in record.attempts[:-1]:
            with suppress(OSError):
                self.path_of(record, attempt.run_id).unlink()


def _template() -> str:
    text = atomic_file.read_text(_rebuild_report.TEMPLATE)
    if text is None:
        raise PifleetError(f"The report's template {_rebuild_report.TEMPLATE} is missing.", "Install the collection again, whole.")
    return text
