# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter façade of the core that plans upgrades."""

from __future__ import annotations

DOCUMENTATION = r"""
name: k3s_upgrade_plan
short_description: Plan the upgrade of a k3s cluster, or refuse it
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - Decides from the state of all hosts and of the API's nodes which hosts are upgraded, in which order.
  - Refuses a downgrade, a skipped minor version, a host that does not answer, a cluster that is not healthy, and an agent that would
    be newer than a server.
positional: version, hosts, servers, play_hosts, outside, apis
options:
  _input:
    description: The variable C(hostvars). Of each host of the run it uses C(pi_facts_result), what M(pifleet.ops.pi_facts) returned.
    type: dict
    required: true
  version:
    description: The version to upgrade to.
    type: str
    required: true
  hosts:
    description: The hosts of C(k3s_cluster), in inventory order.
    type: list
    elements: str
    required: true
  servers:
    description: The hosts of C(control_plane).
    type: list
    elements: str
    required: true
  play_hosts:
    description: The hosts of this run.
    type: list
    elements: str
    required: true
  outside:
    description: The results of M(pifleet.ops.pi_facts) in a loop over the servers outside this run.
    type: list
    elements: dict
    required: true
  apis:
    description: The results of M(pifleet.ops.k3s_cluster_info) in a loop over the servers, with C(api_expected=false).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Plan the upgrade
  ansible.builtin.set_fact:
    plan: >-
      {{ hostvars | pifleet.ops.k3s_upgrade_plan('v1.34.5+k3s1', groups.k3s_cluster, groups.control_plane, ansible_play_hosts,
         outside.results, apis.results) }}
"""

RETURN = r"""
_value:
  description:
    - "Keys C(version), C(servers), C(agents), C(hosts) (both), C(cordoned), C(revived), C(done), C(etcd) as the upgrade goes through them."
    - C(api) is the server whose API is asked.
    - C(evict) lists the hosts whose pods have somewhere else to go.
    - "C(refused): why nothing may be upgraded; then there are no other keys. Empty otherwise."
  type: dict
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.cluster import Node
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.versions import Host, plan_upgrade

_FIELDS = ("name", "ready", "not_ready_reason", "version", "internal_ip", "schedulable", "conditions", "labels", "annotations")


def _node(found: Mapping[str, Any]) -> Node:
    """The node as the core knows it, of what k3s_cluster_info returned."""
    return Node(roles=tuple(found["roles"]), taints=tuple(found["taints"]), **{field: found[field] for field in _FIELDS})


def k3s_upgrade_plan(
    hostvars: Mapping[str, Mapping[str, Any]],
    version: str,
    hosts: Sequence[str],
    servers: Sequence[str],
    play_hosts: Sequence[str],
    outside: Sequence[Mapping[str, Any]],
    apis: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the plan of this run's upgrade as a dictionary."""
    facts = {name: pi for name in play_hosts if (pi := (hostvars[name].get("pi_facts_result") or {}).get("pi"))}
    facts.update({result["item"]: result["pi"] for result in outside if "pi" in result})
    answered = next((result for result in apis if result.get("reachable")), None)
    nodes = {found["name"]: _node(found) for found in answered["nodes"]} if answered else None

    def host(name: str) -> Host:
        k3s = facts.get(name, {}).get("k3s") or {}
        return Host(
            name=name,
            node=name.lower(),
            server=name in servers,
            in_run=name in play_hosts,
            reachable=name in facts,
            installed=str(k3s.get("version") or ""),
            active=(k3s.get("unit_state") or {}).get("active") == "active",
        )

    try:
        plan = plan_upgrade([host(name) for name in hosts], nodes, str(version), str(answered["item"]) if answered else "")
    except PifleetError as error:
        return {"refused": str(error)}
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(plan).items()}
    return {"refused": "", **lists, "hosts": list(plan.hosts), "evict": [name for name in plan.hosts if _has_refuge(name, nodes or {})]}


def _has_refuge(host: str, nodes: Mapping[str, Node]) -> bool:
    """Whether the pods of a host may go to another node: in a cluster of one, draining only takes them down twice."""
    return any(node.schedulable and node.ready for name, node in nodes.items() if name != host.lower())


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"k3s_upgrade_plan": k3s_upgrade_plan}
