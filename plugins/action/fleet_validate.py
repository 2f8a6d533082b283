# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: refuses an inventory that cannot become a cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from ansible._internal._datatag._tags import Origin
from ansible.errors import AnsibleError
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.modules.fleet_validate import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction, native
from ansible_collections.pifleet.ops.plugins.plugin_utils._fleet_validate import report, rules, specs
from ansible_collections.pifleet.ops.plugins.plugin_utils._fleet_validate.fleet import Fleet, Host

GROUPS = ("k3s_cluster", "control_plane", "workers")
#: what rules look at beside the collection's own variables
_CONNECTION = ("ansible_host", "ansible_port", "ansible_connection")
#: a template with one of these can only be resolved once the run knows the nodes
_FACTS = re.compile(
    r"\b(ansible_(facts|local|default_ipv[46]|all_ipv[46]_addresses|play_\w+)|pi_facts\w*|k3s_topology|k3s_artifacts_release)\b"
)


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        del params
        known = specs.load()
        self._defaults = self._role_defaults(known)
        groups: Mapping[str, list[str]] = self.task_vars["groups"]
        members = {group: tuple(groups.get(group, ())) for group in GROUPS}
        names = dict.fromkeys(name for group in GROUPS for name in members[group])
        fleet = Fleet(
            tuple(self._host(name, known) for name in names), members["k3s_cluster"], members["control_plane"], members["workers"]
        )
        problems = report.collect(fleet, (partial(specs.check, known), *rules.RULES))
        if problems:
            raise PifleetError(report.message(problems, len(fleet.hosts)))
        return {"changed": False, "hosts": len(fleet.hosts)}

    def _host(self, name: str, known: specs.Specs) -> Host:
        """Resolve the variables of a host that concern us; the many others are left alone."""
        hostvars = self.task_vars["hostvars"]
        found = hostvars.raw_get(name)
        # as in a role: its defaults below the inventory's variables, and the other hosts' beside them
        templar = self._templar.copy_with_new_env(available_variables={**self._defaults, **found, "hostvars": hostvars})
        resolved: dict[str, Any] = {}
        unresolved: dict[str, str] = {}
        later = set()
        wanted = sorted(v for v in found if v.startswith(specs.PREFIXES) or v in known.known or v in _CONNECTION)
        for variable in wanted:
            try:
                resolved[variable] = native(templar.template(found[variable]))
            except AnsibleError as error:
                if _FACTS.search(f"{found[variable]} {error}"):
                    later.add(variable)
                else:
                    unresolved[variable] = scrub(" ".join(str(error).split()))
        origins = {v: origin for v in wanted if (origin := _origin(found[v]))}
        return Host(name, resolved, origins, unresolved, frozenset(later))

    def _role_defaults(self, known: specs.Specs) -> dict[str, Any]:
        """The defaults of our roles, unresolved: variables of an inventory may refer to them."""
        defaults: dict[str, Any] = {}
        for role in known.options:
            path = specs.ROLES / role / "defaults" / "main.yml"
            if path.exists():
                defaults |= self._loader.load_from_file(str(path), trusted_as_template=True) or {}
        return defaults


def _origin(value: Any) -> str | None:
    """Return file and line of a variable's value, as seen from here. Ansible knows none of true, false and null."""
    tag = Origin.get_tag(value)
    if tag is None or not tag.path:
        return None
    path = os.path.relpath(tag.path)
    return f"{tag.path if path.startswith('..') else path}{f':{tag.line_num}' if tag.line_num else ''}"
