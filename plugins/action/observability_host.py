# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: runs the module of the same name with the timer's program."""

from __future__ import annotations

import base64
from typing import Any

from ansible_collections.pifleet.ops.plugins.modules.observability_host import ARGUMENTS
from ansible_collections.pifleet.ops.plugins.plugin_utils import _node_program
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENTS
    own = ("program",)

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        arguments = {**params, "program": base64.b64encode(_node_program.metrics()).decode()}
        found: dict[str, Any] = self._execute_module(
            module_name="pifleet.ops.observability_host", module_args=arguments, task_vars=self.task_vars
        )
        return found
