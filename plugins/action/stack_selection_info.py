# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: finds the nodes that stacks concern."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import git
from ansible_collections.pifleet.ops.plugins.modules.stack_selection_info import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root, _stacks_selection
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction
from ansible_collections.pifleet.ops.plugins.plugin_utils._stacks_selection import NodeVars
from ansible_collections.pifleet.ops.plugins.plugin_utils._stacks_source import Checkout

_DEFAULTS = Path(__file__).resolve().parents[2] / "roles" / "stacks" / "defaults" / "main.yml"
_VARIABLES = ("stacks_enabled", "stacks_repository", "stacks_folder", "stacks_node_role")
_SHOWN = 5  # files that a warning names

display = Display()


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        del params
        self._defaults = self._loader.load_from_file(str(_DEFAULTS), trusted_as_template=True)
        nodes = [self._node(host) for host in self.task_vars["ansible_play_hosts"]]
        folders = sorted({node.folder for node in nodes if node.enabled and not node.remote})
        texts: dict[str, str] = {}
        revision, uncommitted = "", list[str]()
        for folder in folders:
            checkout = Checkout(_fleet_root.of_task(self._templar, self.task_vars), folder)
            target = checkout.target()
            if target:
                revision = target.revision
                uncommitted += checkout.uncommitted()
                texts |= checkout.texts(target.revision, _stacks_selection.is_compose)
        self._warn(uncommitted)
        found = _stacks_selection.concerned(nodes, texts)
        return {"changed": False, "concerned": list(found), "stacks": found, "revision": revision, "uncommitted": uncommitted}

    def _node(self, host: str) -> NodeVars:
        hostvars: Mapping[str, Any] = self.task_vars["hostvars"]
        variables = {**self._defaults, **hostvars.raw_get(host), "hostvars": hostvars, "groups": self.task_vars["groups"]}  # type: ignore[attr-defined]
        templar = self._templar.copy_with_new_env(available_variables=variables)
        value = {name: templar.template(variables[name]) for name in _VARIABLES}
        git.refuse_folder(str(value["stacks_folder"]))
        facts = (variables.get("pi_facts_result") or {}).get("pi") or {}
        return NodeVars(
            name=host,
            enabled=boolean(value["stacks_enabled"]),
            remote=bool(value["stacks_repository"]),
            folder=str(value["stacks_folder"]),
            role=str(value["stacks_node_role"]),
            never_had_any=facts.get("stacks") is False,
        )

    def _warn(self, uncommitted: list[str]) -> None:
        if uncommitted:
            more = f" and {len(uncommitted) - _SHOWN} more" if len(uncommitted) > _SHOWN else ""
            display.warning(f"Not deployed, because not committed as they are: {', '.join(uncommitted[:_SHOWN])}{more}.")
