# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter façade of the core that plans resets."""

from __future__ import annotations

DOCUMENTATION = r"""
name: k3s_reset_plan
short_description: Plan the reset of nodes, or refuse it
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - Decides whether the whole cluster goes, or which nodes leave a cluster that lives on, and which server of it is asked.
positional: servers, play_hosts, apis, forced, silent
options:
  _input:
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
  apis:
    description: The results of M(pifleet.ops.k3s_cluster_info) in a loop over the servers outside this run, with C(api_expected=false).
    type: list
    elements: dict
    required: true
  forced:
    description: Reset the nodes whatever it leaves behind.
    type: bool
    default: false
  silent:
    description: The hosts of this run that do not answer.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Plan the reset
  ansible.builtin.set_fact:
    plan: "{{ groups.k3s_cluster | pifleet.ops.k3s_reset_plan(groups.control_plane, ansible_play_hosts, apis.results) }}"
"""

RETURN = r"""
_value:
  description:
    - C(whole), whether the cluster goes with the run; else C(api), the server that stays and is asked, and C(leaving), who leaves it.
    - C(draining) are those of them whose kubelet is up.
    - "C(refused): why nothing may be reset; then there are no other keys. Empty otherwise."
  type: dict
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.reset import Host, plan_reset


def k3s_reset_plan(
    hosts: Sequence[str],
    servers: Sequence[str],
    play_hosts: Sequence[str],
    apis: Sequence[Mapping[str, Any]],
    forced: bool = False,
    silent: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the plan of this run's reset as a dictionary."""
    answered = [result for result in apis if result.get("reachable")]
    asked = {result["item"] for result in answered}
    nodes = [found["name"] for found in answered[0]["nodes"]] if answered else []

    def host(name: str) -> Host:
        return Host(name, name.lower(), name in servers, name in play_hosts, name in asked, name in silent)

    try:
        plan = plan_reset([host(name) for name in hosts], nodes, forced=bool(forced))
    except PifleetError as error:
        return {"refused": str(error)}
    # a drain waits for the kubelet of the node: of one that is down nobody would say that a pod has ended
    ready = {found["name"] for found in answered[0]["nodes"] if found["ready"]} if answered else set()
    draining = [name for name in plan.leaving if name.lower() in ready]
    return {"refused": "", "whole": plan.whole, "api": plan.api, "leaving": list(plan.leaving), "draining": draining}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"k3s_reset_plan": k3s_reset_plan}
