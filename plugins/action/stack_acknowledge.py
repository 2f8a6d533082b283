# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: says who acknowledges, which only the controller knows, and runs the module on the node."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin


class ActionModule(ActionBase):  # type: ignore[misc]
    """See the documented module of the same name."""

    def run(self, tmp: object = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        if "acknowledged_by" in self._task.args:
            result.update(failed=True, msg="acknowledged_by: who acknowledges is the login at the controller, and cannot be given.")
            return result
        try:
            who = self._requester(task_vars or {})
        except PifleetError as error:
            result.update(failed=True, msg=str(error))
            return result
        args = {**self._task.args, "acknowledged_by": who}
        result.update(self._execute_module(module_args=args, task_vars=task_vars))
        return result

    def _requester(self, task_vars: dict[str, Any]) -> str:
        """Who acknowledges: the login at the controller; where the hub was asked, whom the token proved, which the ledger tells."""
        if "acknowledgement_request" not in task_vars:
            return origin.login()
        # the libraries of the ledger are needed for nothing else here
        from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity
        from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.ledgers import ledger_of
        from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.permissions import Permissions

        store = ledger_of(identity.load(_fleet_root.of_task(self._templar, task_vars)))
        event, node = (str(self._templar.template(task_vars[name])) for name in ("acknowledgement_request", "inventory_hostname"))
        return Permissions(store).requester_of(event, node, str(self._task.args.get("stack")), str(self._task.args.get("plan_digest")))
