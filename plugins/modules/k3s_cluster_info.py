#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares the API's nodes with the inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_cluster_info
short_description: Compare the nodes of a k3s cluster with the inventory
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Asks the Kubernetes API for its nodes and says how they differ from the expected ones.
  - With O(timeout) it waits until every expected node is there, Ready, and has its role. It never changes anything.
  - Needs C(k3s kubectl) or C(kubectl), and nothing else, on the host it runs on.
options:
  expected:
    description: The nodes that the inventory names. Without it only readiness and version skew are judged.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The node's name in the API. Compared in lower case.
        type: str
        required: true
      role:
        description: The role that the inventory gives it.
        type: str
        required: true
        choices: [server, agent]
  timeout:
    description:
      - Seconds to wait until every expected node is there, Ready, and has its role. V(0) looks once.
      - In check mode the module looks once, because nothing that it could wait for is going to happen.
      - When the time is over the module returns what it saw; it fails only where no API answered at all.
    type: int
    default: 0
  api_expected:
    description:
      - Whether an API has to answer. With V(false) (check mode before the first bootstrap) an API that does not answer is
        reported as RV(reachable=false) with empty lists, instead of a failure.
    type: bool
    default: true
extends_documentation_fragment: [pifleet.ops.kubectl]
attributes:
  check_mode:
    description: Works in check mode, without waiting.
    support: full
  diff_mode:
    description: Shows no diff because it changes nothing.
    support: none
seealso:
  - module: pifleet.ops.k3s_join_info
"""

EXAMPLES = r"""
- name: Wait until the cluster is what the inventory says
  pifleet.ops.k3s_cluster_info:
    expected:
      - { name: pi-cluster-1.local, role: server }
      - { name: pi-cluster-4.local, role: agent }
    timeout: 300
  register: cluster

- name: Nodes are missing
  ansible.builtin.assert:
    that: (cluster.missing + cluster.not_ready + cluster.role_mismatch) | length == 0
"""

RETURN = r"""
reachable:
  description: Whether an API answered.
  type: bool
  returned: success
nodes:
  description: The API's nodes, sorted by name.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Name of the node.
      type: str
    roles:
      description: Names behind the labels C(node-role.kubernetes.io/); V(worker) alone where there are none.
      type: list
      elements: str
    role:
      description: The role in the inventory's words, V(server) or V(agent).
      type: str
    ready:
      description: Whether the node is Ready.
      type: bool
    not_ready_reason:
      description: What the kubelet says about a node that is not Ready; empty when it is.
      type: str
    version:
      description: Version of the running kubelet.
      type: str
    internal_ip:
      description: The node's internal address.
      type: str
    schedulable:
      description: Whether the node is not cordoned.
      type: bool
    conditions:
      description: Status of each condition by its type.
      type: dict
    labels:
      description: Labels.
      type: dict
    annotations:
      description: Annotations.
      type: dict
    taints:
      description: Taints.
      type: list
      elements: dict
missing:
  description: Expected nodes that the API does not have.
  type: list
  elements: str
  returned: success
unexpected:
  description: Nodes of the API that are not expected.
  type: list
  elements: str
  returned: success
not_ready:
  description: Nodes (expected ones, when some are expected) that are not Ready.
  type: list
  elements: str
  returned: success
not_voting:
  description: Expected members of embedded etcd that have no vote.
  type: list
  elements: str
  returned: success
role_mismatch:
  description: Nodes whose role differs, each with C(name), C(expected) and C(actual).
  type: list
  elements: dict
  returned: success
unsettled:
  description: Names of all nodes that are missing, not Ready, without their vote, or of another role. Empty where no API answered.
  type: list
  elements: str
  returned: success
version_skew:
  description:
    - Nodes whose kubelet has another version than the API server.
    - Each has C(name), C(version), C(api_version), C(supported) and C(reason).
    - C(supported) is whether Kubernetes' version skew policy allows the difference.
  type: list
  elements: dict
  returned: success
waited:
  description: Seconds that the module waited.
  type: float
  returned: success
credentials_sha256:
  description:
    - SHA-256 of the credentials in O(kubeconfig), by which M(pifleet.ops.k3s_kubeconfig) knows whether the controller has them.
    - Empty where there is none as k3s writes it.
  type: str
  returned: success
"""

import time
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import read_text
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import cluster, credentials
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import OPTIONS, ApiUnreachableError, Kubectl

POLL_SECONDS = 0.2
REQUEST_SECONDS = 10.0


def look(kubectl, expected, limit, seen=()):
    """Return (nodes, comparison) of one question to the API, or raise what went wrong.

    *seen*: the nodes of an earlier look. Where only one is waited for, only that one is asked for again.
    """
    open_ones = cluster.compare(seen, expected).unsettled if seen else ()
    selector = f"?fieldSelector=metadata.name={open_ones[0]}" if len(open_ones) == 1 else ""
    # the raw path: kubectl then asks this and nothing else
    nodes = cluster.parse_nodes(kubectl.get("--raw", f"/api/v1/nodes{selector}", timeout=limit))
    if selector:
        nodes = tuple(sorted([*(n for n in seen if n.name != open_ones[0]), *nodes], key=lambda node: node.name))
    return nodes, cluster.compare(nodes, expected)


def watch(kubectl, expected, timeout):
    """Return (nodes, comparison, seconds waited) as of the first look at a settled cluster, or of the last one before the time is over."""
    started = time.monotonic()
    nodes = ()
    while True:
        waited = time.monotonic() - started
        over = waited >= timeout
        try:
            nodes, comparison = look(kubectl, expected, REQUEST_SECONDS, nodes)
            if comparison.settled or over:
                return nodes, comparison, waited
        except ApiUnreachableError:
            if over:
                raise
        time.sleep(max(0.0, min(POLL_SECONDS, timeout - waited)))


def run(params, check_mode):
    expected = cluster.expected_nodes(params["expected"])
    reachable = True
    try:
        with Kubectl(argv.run, params["kubeconfig"], params["kubectl"]) as kubectl:
            nodes, comparison, waited = watch(kubectl, expected, 0 if check_mode else params["timeout"])
    except ApiUnreachableError:
        if params["api_expected"]:
            raise
        reachable, nodes, waited = False, (), 0.0
        comparison = cluster.NOTHING_KNOWN
    return {
        "changed": False,
        "reachable": reachable,
        "nodes": [{**asdict(node), "roles": list(node.roles), "role": node.role, "taints": list(node.taints)} for node in nodes],
        "missing": list(comparison.missing),
        "unexpected": list(comparison.unexpected),
        "not_ready": list(comparison.not_ready),
        "not_voting": list(comparison.not_voting),
        "role_mismatch": list(comparison.role_mismatch),
        "unsettled": list(comparison.unsettled),
        "version_skew": list(comparison.version_skew),
        "waited": round(waited, 1),
        "credentials_sha256": credentials.digest_of_file(read_text(params["kubeconfig"]) or ""),
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "expected": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "role": {"type": "str", "required": True, "choices": ["server", "agent"]},
                },
            },
            "timeout": {"type": "int", "default": 0},
            **OPTIONS,
            "api_expected": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except PifleetError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
