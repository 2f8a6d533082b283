# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: compares the files of the fleet's folder with its policy for secrets."""

from __future__ import annotations

import json
from typing import Any

from ansible.utils.display import Display
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.modules.secrets_check import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction

try:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets import check, policy, text
except ImportError as error:
    MISSING: str | None = str(error)
else:
    MISSING = None

display = Display()


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        if MISSING:
            return {
                "failed": True,
                "msg": f"The check needs detect-secrets and pydantic on the controller: {MISSING}. `make env` brings them.",
            }
        root = _fleet_root.of_task(self._templar, self.task_vars)
        found = check.check(check.files_of(root), atomic_file.read_text(root / policy.FILE), params["places"] or check.PLACES)
        if params["output"] == "json":
            display.display(json.dumps(found.to_dict()))
        elif params["output"] == "text":
            display.display(text.checked(found))
        result = {"changed": False, **found.to_dict()}
        if not found.ok:
            count = len(found.findings)
            result.update(failed=True, msg=f"{count} finding{'s' if count > 1 else ''} in the secrets of {root}, as said above.")
        return result
