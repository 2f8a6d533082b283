# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: evidence goes to the hub."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.utils.display import Display
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.evidence_sync import ARGUMENT_SPEC, REQUIRED_IF
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction

# imported once by ansible-playbook itself, before it forks a process for each task
try:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import gate, identity, sync, sync_report
except ImportError as error:
    MISSING: str | None = str(error)
else:
    MISSING = None

#: of a refusal and of a boundary that is not clean, whatever the cause; ansible-playbook exits with it where a task failed
REFUSED = 2

display = Display()


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC
    required_if = REQUIRED_IF

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        if MISSING:
            raise PifleetError(
                f"Sync needs SQLAlchemy, httpx and Rich on the controller: {MISSING}.", "Install what pyproject.toml lists (`make env`)."
            )
        given = self.task_vars.get("fleet_root")
        root = _fleet_root.resolve(self._templar.template(given) if given else None, self.task_vars.get("playbook_dir"), os.getcwd())
        self._settings = identity.load(root)
        does = {
            "now": self._now,
            "status": self._status,
            "compare": self._compare,
            "token": self._token,
            "retry": self._retry,
            "adopt": self._adopt,
            "stop": self._stop,
        }
        return {"changed": False, **does[params["mode"]](params)}

    def _now(self, params: dict[str, Any]) -> dict[str, Any]:
        if self._task.check_mode:
            return self._status({**params, "check": True})
        try:
            done = sync.sync_now(self._settings, migrate=params["migrate"])
        except gate.RefusedError as error:
            return self._refused(str(error), params)
        self._tell(sync_report.synced_text(done), params)
        sent, queued = asdict(done.delivered), asdict(done.queued)
        sent["error"] = str(done.delivered.error) if done.delivered.error else None
        result = {"queued": queued, "delivered": sent, "migrated": asdict(done.migrated) if done.migrated else None}
        if done.delivered.error:
            return {**result, "failed": True, "msg": f"{done.delivered.error} What was not sent waits in the outbox."}
        return result

    def _refused(self, why: str, params: dict[str, Any]) -> dict[str, Any]:
        self._tell(why, params)
        return {"failed": True, "exit_code": REFUSED, "msg": "Refused, as said above: nothing was queued, sent or changed."}

    def _status(self, params: dict[str, Any]) -> dict[str, Any]:
        found = sync.status(self._settings)
        self._tell(sync_report.text(lambda console: sync_report.render_status(found, console)), params)
        result = {"status": found.to_dict(), "exit_code": found.exit_code, "service": sync.service_command(self._settings)}
        if params["check"] and found.exit_code:
            return {"failed": True, "exit_code": found.exit_code, "msg": "The sync boundary is not clean, as said above."}
        return result

    def _compare(self, params: dict[str, Any]) -> dict[str, Any]:
        found = sync.compare_with_hub(self._settings)
        if params["output"] == "json":
            display.display(json.dumps(found.to_dict()))
        elif params["output"] == "text":
            display.display(sync_report.comparison_text(found))
        failed = {} if found.ok else {"failed": True, "msg": "The hub does not have what this ledger has."}
        return {"comparison": found.to_dict(), **failed}

    def _token(self, params: dict[str, Any]) -> dict[str, Any]:
        if self._task.check_mode:
            return {}
        source = Path(os.path.expanduser(params["token_from"]))
        return {"changed": True, "token_file": str(sync.keep_token(self._settings, source))}

    def _retry(self, _params: dict[str, Any]) -> dict[str, Any]:
        return {"revived": 0 if self._task.check_mode else sync.retry_dead_letters(self._settings)}

    def _adopt(self, params: dict[str, Any]) -> dict[str, Any]:
        if self._task.check_mode:
            return {}
        try:
            done = sync.adopt(self._settings)
        except gate.RefusedError as error:
            return self._refused(str(error), params)
        self._tell(f"Rows of this owner and fleet for another hub: {sync_report.migrated_text(done)}", params)
        taken, held = done.taken.total_rows, done.quarantined.total_rows
        return {"changed": bool(taken + held), "migrated": asdict(done)}

    def _stop(self, params: dict[str, Any]) -> dict[str, Any]:
        done = [] if self._task.check_mode else sync.stop_services(self._settings)
        self._tell("\n".join(done) or "There was no service and no record of one.", params)
        return {"changed": bool(done), "stopped": done}

    def _tell(self, text: str, params: dict[str, Any]) -> None:
        """Show a person the text, or a program one line of JSON: the status as it is after what was done."""
        if params["output"] == "json":
            display.display(json.dumps(sync.status(self._settings).to_dict()))
        elif params["output"] == "text":
            display.display(text)
