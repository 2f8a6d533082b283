# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: looks for snapshots on the controller, and through the module of the same name on the server."""

from __future__ import annotations

from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._k3s import bundle
from ansible_collections.pifleet.ops.plugins.modules.k3s_snapshot_info import ARGUMENT_SPEC, listed, verified
from ansible_collections.pifleet.ops.plugins.plugin_utils import _snapshot_folder
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        folder = _snapshot_folder.of(params["controller_directory"], params["fleet"], self.task_vars)
        mine, odd = bundle.bundles_in(folder)
        if params["snapshot"] and not params["restored"]:
            chosen = _snapshot_folder.find(folder, params["snapshot"], params["fleet"])
            if chosen is not None:
                manifest = verified(chosen.path, params)
                found = {"snapshot": manifest.summary(), "path": chosen.path, "origin": "controller"}
                return {"changed": False, "snapshots": listed(mine, "controller"), "unreadable": odd, **found}
        given = {key: value for key, value in params.items() if value is not None}
        name = "pifleet.ops.k3s_snapshot_info"
        result: dict[str, Any] = self._execute_module(module_name=name, module_args=given, task_vars=self.task_vars)
        if not result.get("failed"):
            result["snapshots"] = listed(mine, "controller") + result["snapshots"]
            result["unreadable"] = odd + result["unreadable"]
        return result
