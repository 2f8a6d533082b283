# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: compares the files of the fleet's folder with its policy for secrets."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from ansible.utils.display import Display
from ansible_collections.pifleet.ops.plugins.action.run_record import MISSING, LedgerAction
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.modules.secrets_check import ARGUMENT_SPEC

if not MISSING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rotations import Due, due
    from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets import check, policy, text

display = Display()


class ActionModule(LedgerAction):
    """See the documented module of the same name."""

    reads = True
    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        self.use_ledger()
        root = self._root
        found = check.check(check.files_of(root), atomic_file.read_text(root / policy.FILE), params["places"] or check.PLACES)
        rotations = self._due(bool(found.encrypted))
        found = replace(found, notes=(*found.notes, *text.overdue(rotations)))
        if params["output"] == "json":
            display.display(json.dumps(found.to_dict()))
        elif params["output"] == "text":
            display.display(text.checked(found))
        result = {"changed": False, **found.to_dict(), "due": [asdict(one) for one in rotations]}
        if not found.ok:
            count = len(found.findings)
            result.update(failed=True, msg=f"{count} finding{'s' if count > 1 else ''} in the secrets of {root}, as said above.")
        return result

    def _due(self, has_files: bool) -> tuple[Due, ...]:
        """When each kind of secret that this fleet has was rotated last."""
        kinds: tuple[str, ...] = ("data_keys",) if has_files else ()
        kinds += ("k3s_token", "k3s_agent_token")
        kinds += ("hub_token",) if identity.load(self._root).token else ()
        return due(self._store, kinds)
