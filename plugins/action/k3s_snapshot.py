# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: runs the module of the same name on the server, and keeps a copy of the snapshot on the controller."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import write_atomic
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import bundle
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.snapshot import retired
from ansible_collections.pifleet.ops.plugins.modules.k3s_snapshot import ARGUMENT_SPEC, REQUIRED_IF
from ansible_collections.pifleet.ops.plugins.plugin_utils import _snapshot_folder
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENT_SPEC
    required_if = REQUIRED_IF

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in params.items() if value is not None}
        name = "pifleet.ops.k3s_snapshot"
        result: dict[str, Any] = self._execute_module(module_name=name, module_args=given, task_vars=self.task_vars)
        if result.get("failed") or params["state"] != "present" or not params["fetch"]:
            return result
        folder = _snapshot_folder.of(params["controller_directory"], params["fleet"], self.task_vars)
        target = folder / Path(result["path"]).name
        result["controller_path"] = str(target)
        if not self._task.check_mode:
            result["changed"] |= self._fetch(result, folder, target)
            result["removed"] += self._retire(folder, params)
        elif not target.exists():
            result["changed"] = True
        return result

    def _fetch(self, result: dict[str, Any], folder: Path, target: Path) -> bool:
        """Copy the bundle to the controller, unless it is there; return whether it was not."""
        if target.exists() and bundle.member_of(target).sha256 == result["sha256"]:
            return False
        read = self.slurp(result["path"])
        if read.get("failed"):
            raise PifleetError(f"{result['path']} cannot be read: {read.get('msg')}", "The snapshot is on the node; fetch it by hand.")
        bundle.private_folder(folder)
        write_atomic(target, base64.b64decode(read["content"]), 0o600)
        bundle.read_verified(target)
        return True

    def _retire(self, folder: Path, params: dict[str, Any]) -> list[str]:
        """Remove the oldest copies of the fleet; return their names."""
        kept = [b for b in bundle.bundles_in(folder)[0] if b.manifest.fleet == params["fleet"]]
        gone = retired(kept, params["controller_retention"])
        for old in gone:
            bundle.remove(old)
        return [f"{old.manifest.name} (controller)" for old in gone]
