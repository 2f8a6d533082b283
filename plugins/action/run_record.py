# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: records a run in the controller's ledger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.module_utils.parsing.convert_bool import BOOLEANS
from ansible.utils.display import Display
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.modules.run_record import ARGUMENT_SPEC, REQUIRED_IF
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction

# SQLAlchemy takes most of the time of a record. ansible-playbook itself imports this file, before it forks a process for each task:
# imported here it is paid for once a run, and not once a task.
try:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin, process
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Interrupted, Runs
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
except ImportError as error:
    MISSING: str | None = str(error)
else:
    MISSING = None

CALLBACK = "pifleet.ops.evidence"
_SECRET_NAMES = ("pass", "password", "token", "secret", "_key")

display = Display()


class LedgerAction(ControllerAction):
    """The base of the actions that write to the ledger of the fleet that the playbook works on."""

    def use_ledger(self) -> Path:
        """Find the ledger and the run's process, and return the ledger's path. Nothing is created yet."""
        if MISSING:
            raise PifleetError(
                f"The ledger needs SQLAlchemy and Alembic on the controller: {MISSING}.",
                "Install them for the Python of ansible-playbook (`make env` in a checkout, else `pip install sqlalchemy alembic`).",
            )
        given = self._variable("fleet_root")
        self._root = _fleet_root.resolve(str(given) if given else None, self.task_vars.get("playbook_dir"), os.getcwd())
        path = _fleet_root.state_dir(self._root) / "ledger.db"
        self._store = Store(path)
        # the task's process is a child of ansible-playbook, whose run this is
        self._process = process.identify(os.getppid())
        return path

    def _variable(self, name: str) -> Any:
        return self._templar.template(self.task_vars[name]) if name in self.task_vars else None

    def _secrets(self) -> Iterator[str]:
        """The values of this host's variables that are secrets by their name. One that says yes or no is none."""
        for name, value in self.task_vars.items():
            if isinstance(value, str) and name.lower().endswith(_SECRET_NAMES):
                shown = str(self._templar.template(value))
                if shown.lower() not in BOOLEANS:
                    yield shown


class ActionModule(LedgerAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC
    required_if = REQUIRED_IF

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        path = self.use_ledger()
        self._runs = Runs(self._store)
        does = {"opened": self._open, "noted": self._note, "closed": self._close}[params["state"]]
        return {"changed": False, "ledger": str(path), **does(params)}

    def _open(self, _params: dict[str, Any]) -> dict[str, Any]:
        if CALLBACK not in constants.CALLBACKS_ENABLED:
            display.warning(
                f"The callback {CALLBACK} is not enabled: a run that fails on all hosts stays open, and results are not counted. "
                f"Put `callbacks_enabled = {CALLBACK}` under [defaults] of ansible.cfg, or set ANSIBLE_CALLBACKS_ENABLED={CALLBACK}."
            )
        opened = self._runs.open(self._header(), self._process, self.task_vars["ansible_play_hosts_all"])
        for run in opened.interrupted:
            display.warning(
                f"The run {run.run_id} of {run.playbook} by {run.requester} never ended: it was interrupted. Run it again to its end."
            )
        return {
            "run_id": opened.run_id,
            "previous_interrupted": [asdict(run) for run in opened.interrupted],
            "rebuilds": self._unfinished(opened.interrupted),
        }

    def _unfinished(self, interrupted: tuple[Interrupted, ...]) -> dict[str, dict[str, Any]]:
        """The rebuilds that may be resumed, by host. A check marks nothing, so it says itself what was interrupted."""
        gone = {run.run_id for run in interrupted}
        shown = {}
        for found in Rebuilds(self._store).unfinished():
            status = "interrupted" if found.status == "running" and found.run_id in gone else found.status
            table = {**asdict(found), "status": status, "reasons": list(found.reasons)}
            shown[table.pop("host")] = table
        return shown

    def _note(self, params: dict[str, Any]) -> dict[str, Any]:
        if self._task.check_mode:
            return {"run_id": None, "sha256": None}
        artifact = params["artifact"]
        content = scrub(artifact["content"], self._secrets()).encode()
        kept = self._runs.attach(self._process, artifact["name"], artifact["media_type"], content)
        if kept is None:
            display.warning(
                f"{artifact['name']} is not kept as evidence, because no run was opened in the ledger (run_record state=opened)."
            )
        return {"sha256": kept.sha256 if kept else None}

    def _close(self, _params: dict[str, Any]) -> dict[str, Any]:
        if self._task.check_mode:
            return {"run_id": None}
        running = set(self.task_vars["ansible_play_hosts"])
        hosts = {host: self._outcome(host, running) for host in sorted(self.task_vars["ansible_play_hosts_all"])}
        run_id, status = self._runs.close(self._process, hosts)
        return {"run_id": run_id, "status": status, "hosts": hosts}

    def _outcome(self, host: str, running: set[str]) -> str:
        """Hosts that failed in any play before are missing from a later one; only the callback knows which of them were unreachable."""
        if host in running:
            return "ok"
        return "unreachable" if host in process.UNREACHABLE else "failed"

    def _header(self) -> Header:
        revision = origin.revision_of(self._root)
        seen = self.task_vars
        return Header(
            playbook=" ".join(self._shown(p) for p in context.CLIARGS.get("args") or ("unknown",)),
            revision=revision.commit,
            dirty=revision.dirty,
            host_limit=seen.get("ansible_limit"),
            tags=tuple(seen.get("ansible_run_tags") or ()),
            skip_tags=tuple(seen.get("ansible_skip_tags") or ()),
            inventory=tuple(self._shown(s) for s in seen.get("ansible_inventory_sources") or ()),
            check_mode=bool(self._task.check_mode),
            requester=origin.login(),
            ansible_version=seen["ansible_version"]["full"],
            collection_version=origin.collection_version(),
        )

    def _shown(self, path: str) -> str:
        """*path* below the fleet's folder as seen from there: a record reads the same on every machine."""
        whole = Path(os.path.abspath(path))
        return str(whole.relative_to(self._root)) if whole.is_relative_to(self._root) else path
