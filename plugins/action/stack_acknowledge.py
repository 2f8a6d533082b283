# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: says who acknowledges, which only the controller knows, and runs the module on the node."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin


class ActionModule(ActionBase):  # type: ignore[misc]
    """See the documented module of the same name."""

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        if "acknowledged_by" in self._task.args:
            result.update(failed=True, msg="acknowledged_by: who acknowledges is the login at the controller, and cannot be given.")
            return result
        args = {**self._task.args, "acknowledged_by": origin.login()}
        result.update(self._execute_module(module_args=args, task_vars=task_vars))
        return result
