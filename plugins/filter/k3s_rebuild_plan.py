# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter façade of the rebuild's core."""

from __future__ import annotations

DOCUMENTATION = r"""
name: k3s_rebuild_plan
short_description: Decide which hosts have to be rebuilt
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - Compares what hosts say of themselves with what their cluster knows of them.
  - A host that still holds what it joined with is never rebuilt.
positional: hosts, servers, known, begun
options:
  _input:
    description:
      - The variable C(hostvars). Of each host it uses C(pi_facts_result), what M(pifleet.ops.pi_facts) returned, and
        C(__rebuild_password), what M(pifleet.ops.k3s_node_password_info) returned where it was asked.
    type: dict
    required: true
  hosts:
    description: The hosts to judge.
    type: list
    elements: str
    required: true
  servers:
    description: The hosts of C(control_plane).
    type: list
    elements: str
    required: true
  known:
    description: What M(pifleet.ops.k3s_node_info) returned as C(nodes); null where no API answered.
    type: dict
    required: true
  begun:
    description: Rebuilds that did not end, by host, as M(pifleet.ops.run_record) returned them.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Decide which hosts have to be rebuilt
  ansible.builtin.set_fact:
    k3s_rebuild: "{{ hostvars | pifleet.ops.k3s_rebuild_plan(k3s_topology.doubtful, groups.control_plane, known.nodes) }}"
"""

RETURN = r"""
_value:
  description:
    - By host name, C(state) (V(healthy), V(new), V(joining), V(down), V(rebuild), V(misplaced) or V(unknown)), C(reasons) (of V(no_data),
      V(node_password), V(machine_id) and V(resumed)), C(retire) (whether the cluster has to forget the node first), C(removes) (what it
      has to forget then), C(alive) (whether something else still reports as this node) and C(superseded) (whether a rebuild that was
      begun is over, because the node came back without it), with C(node) and C(role) beside.
  type: dict
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._k3s import members, rebuild


def _host(name: str, server: bool, variables: Mapping[str, Any]) -> rebuild.Host:
    pi = variables["pi_facts_result"]["pi"]
    k3s = pi.get("k3s") or {}
    unit = (k3s.get("unit_state") or {}).get("active")
    return rebuild.Host(
        name=name,
        server=server,
        data=bool(k3s.get("datastore") if server else k3s.get("agent_data")),
        active=unit == "active",
        starting=unit == "activating",
        machine_id=str(pi.get("machine_id") or ""),
        addresses=tuple(str(address) for address in pi.get("addresses") or ()),
        password=bool(k3s.get("node_password")),
        password_fits=(variables.get("__rebuild_password") or {}).get("fits"),
    )


def _has_other_role(variables: Mapping[str, Any], server: bool) -> bool:
    """Whether k3s is installed in the other role than the inventory's."""
    role = (variables["pi_facts_result"]["pi"].get("k3s") or {}).get("role")
    return bool(role) and role != ("server" if server else "agent")


def _known(found: Mapping[str, Any]) -> rebuild.Known:
    node = found.get("node") or {}
    return rebuild.Known(
        node=bool(node),
        password=bool(found.get("password")),
        machine_id=str(node.get("machine_id") or ""),
        internal_ip=str(node.get("internal_ip") or ""),
        heartbeat=str(found.get("heartbeat") or ""),
        silent=found.get("silent"),
        created=str(found.get("created") or ""),
    )


def _begun(found: Mapping[str, Any] | None) -> rebuild.Begun | None:
    return None if found is None else rebuild.Begun(str(found.get("last_step") or ""), str(found.get("began_at") or ""))


def _removes(node: str, known: rebuild.Known) -> list[str]:
    """What the cluster has of the node."""
    found = [f"node/{node}"] if known.node else []
    return found + ([f"secret/{members.password_secret(node)}"] if known.password else [])


def k3s_rebuild_plan(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Sequence[str],
    servers: Sequence[str],
    known: Mapping[str, Mapping[str, Any]] | None,
    begun: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the verdict on each host."""
    plan = {}
    for name in hosts:
        server, node = name in servers, name.lower()
        found = None if known is None else _known(known.get(node) or {})
        if _has_other_role(hostvars[name], server):
            verdict = rebuild.Verdict(rebuild.HEALTHY)  # the install refuses it, and says why
        else:
            verdict = rebuild.judge(_host(name, server, hostvars[name]), found, begun=_begun((begun or {}).get(name)))
        plan[name] = {
            "state": verdict.state,
            "reasons": list(verdict.reasons),
            "retire": verdict.retire,
            "removes": _removes(node, found) if verdict.retire and found else [],
            "alive": verdict.alive,
            "superseded": verdict.superseded,
            "node": node,
            "role": "server" if server else "agent",
        }
    return plan


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"k3s_rebuild_plan": k3s_rebuild_plan}
