# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which hosts of a run a part of it is about, from what the parts before it found."""

from __future__ import annotations

DOCUMENTATION = r"""
name: k3s_hosts
short_description: Choose the hosts that a part of a bootstrap is about
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - For C(hosts) of a play, so that one that is about nobody costs nothing, and for the tasks by which the others leave it.
positional: hosts, what
options:
  _input:
    description:
      - The variable C(hostvars). Of each host it uses what the parts before registered, as C(pi_facts_result) and C(k3s_topology).
      - Nobody is chosen where it is not defined, as with C(--syntax-check).
    type: dict
    required: true
  hosts:
    description: The hosts to choose from.
    type: list
    elements: str
    required: true
  what:
    description:
      - V(silent), those that were looked at and did not answer.
      - V(beginning), the one that starts a cluster.
      - V(unsettled), those in whose way something stands (see P(pifleet.ops.k3s_topology#filter)).
      - V(serving), those that run a k3s that has joined a cluster.
      - V(restart), those that have to be restarted.
      - V(not_restarted), servers that had to be restarted and were not, or did not come back.
      - V(install), those that do not serve, and those whose k3s is not as the inventory wants it.
      - V(broken), servers that did not come up in this run.
      - V(unfinished), those that were rebuilt, or are not in the cluster as they should be.
    type: str
    choices: [silent, beginning, unsettled, serving, restart, not_restarted, install, broken, unfinished]
    required: true
"""

EXAMPLES = r"""
- name: Look closer at nodes that do not answer
  hosts: "{{ hostvars | pifleet.ops.k3s_hosts(groups.k3s_cluster, 'silent') | default('!all', true) }}"
"""

RETURN = r"""
_value:
  description: The chosen hosts, in the order given.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

#: What the parts before found of one host.
Variables = Mapping[str, Any]


def _part(variables: Variables, name: str) -> Mapping[str, Any]:
    """A registered result, empty where there is none."""
    found = variables.get(name)
    return found if isinstance(found, Mapping) else {}


def _silent(_host: str, variables: Variables) -> bool:
    return bool(_part(variables, "pi_facts_result").get("unreachable"))


def _beginning(host: str, variables: Variables) -> bool:
    return _part(variables, "k3s_topology").get("init") == host


def _unsettled(host: str, variables: Variables) -> bool:
    return host in _part(variables, "k3s_topology").get("unsettled", ())


def _serving(host: str, variables: Variables) -> bool:
    topology = _part(variables, "k3s_topology")
    return bool(topology.get("running")) and host not in topology["doubtful"]


def _restart(_host: str, variables: Variables) -> bool:
    return bool(_part(variables, "__base_os_result").get("reboot_required"))


def _not_restarted(_host: str, variables: Variables) -> bool:
    return bool(variables.get("__base_os_gave_up"))


def _install(host: str, variables: Variables) -> bool:
    if not _part(variables, "k3s_topology"):
        return False
    # the comparison of the other role was skipped, and what is registered says that
    compared = [_part(variables, f"__k3s_{role}_installed").get("plan") for role in ("server", "agent")]
    return not _serving(host, variables) or any(compared)


def _broken(_host: str, variables: Variables) -> bool:
    return bool(variables.get("__k3s_server_gave_up"))


def _unfinished(host: str, variables: Variables) -> bool:
    if _part(variables, "k3s_rebuild").get("state") == "rebuild":
        return bool(_part(variables, "__post_bootstrap_cluster"))
    return host.lower() in _part(variables, "__post_bootstrap_cluster").get("unsettled", ())


RULES: Mapping[str, Callable[[str, Variables], bool]] = {
    "silent": _silent,
    "beginning": _beginning,
    "unsettled": _unsettled,
    "serving": _serving,
    "restart": _restart,
    "not_restarted": _not_restarted,
    "install": _install,
    "broken": _broken,
    "unfinished": _unfinished,
}


def k3s_hosts(hostvars: Mapping[str, Variables] | None, hosts: Sequence[str], what: str) -> list[str]:
    """Return those of *hosts* that *what* is about."""
    if what not in RULES:
        raise AnsibleFilterError(f"k3s_hosts: {what!r} is none of {', '.join(RULES)}.")
    return [host for host in hosts if RULES[what](host, hostvars[host])] if hostvars else []


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"k3s_hosts": k3s_hosts}
