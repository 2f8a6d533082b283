# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Node objects that carry the inventory's labels and taints."""

from __future__ import annotations

DOCUMENTATION = r"""
name: k3s_node_objects
short_description: Make the Node objects with the labels and taints that the inventory gives
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - Returns one partial Node for each host, for M(pifleet.ops.k3s_manifests), which owns only the fields given here.
  - A worker gets the role label C(node-role.kubernetes.io/worker). k3s itself labels the servers.
positional: hosts, servers
options:
  _input:
    description: The variable C(hostvars). Used are C(k3s_node_labels) and C(k3s_node_taints).
    type: dict
    required: true
  hosts:
    description: The hosts to make objects for.
    type: list
    elements: str
    required: true
  servers:
    description: The hosts of C(control_plane).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Keep labels and taints
  pifleet.ops.k3s_manifests:
    objects: "{{ hostvars | pifleet.ops.k3s_node_objects(ansible_play_hosts, groups.control_plane) }}"
"""

RETURN = r"""
_value:
  description: The Node objects, in the order of their names.
  type: list
  elements: dict
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

WORKER_LABEL = "node-role.kubernetes.io/worker"


def parse_taint(text: str) -> dict[str, str]:
    """Return the taint that ``key=value:effect`` or ``key:effect`` stands for (https://docs.k3s.io/cli/agent, --node-taint)."""
    rest, colon, effect = text.rpartition(":")
    key, _equals, value = rest.partition("=")
    if not colon or not key or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise AnsibleFilterError(
            f"k3s_node_taints: {text!r} is no taint. Write key=value:effect, with effect NoSchedule, PreferNoSchedule or NoExecute."
        )
    return {"key": key, "effect": effect} | ({"value": value} if value else {})


def k3s_node_objects(hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str], servers: Sequence[str]) -> list[dict[str, Any]]:
    """Return the partial Node object of each host."""

    def node(host: str) -> dict[str, Any]:
        labels = {str(k): str(v) for k, v in (hostvars[host].get("k3s_node_labels") or {}).items()}
        if host not in servers:
            labels = {WORKER_LABEL: "true"} | labels
        taints = [parse_taint(str(t)) for t in hostvars[host].get("k3s_node_taints") or []]
        metadata = {"name": host.lower(), "labels": labels}
        # without taints the field is left out: an empty list would take away those that Kubernetes itself sets
        return {"apiVersion": "v1", "kind": "Node", "metadata": metadata} | ({"spec": {"taints": taints}} if taints else {})

    return [node(host) for host in sorted(hosts)]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"k3s_node_objects": k3s_node_objects}
