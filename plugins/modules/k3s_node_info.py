#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says what a cluster knows of some of its nodes: everything that is lost, or has to come back, when one is rebuilt."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_node_info
short_description: Say what a cluster knows of some of its nodes
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Asks the Kubernetes API for single nodes, their pods, and the volumes whose data is on them. It never lists all nodes or all pods,
    except the nodes where one of those asked for is a member of etcd, whose quorum is then judged.
  - Changes nothing.
options:
  nodes:
    description: Names of nodes in the API. Compared in lower case.
    type: list
    elements: str
    required: true
  api_expected:
    description:
      - Whether an API has to answer. With V(false) one that does not is no failure, but told by RV(nodes) being null and by
        RV(unreachable_reason).
    type: bool
    default: true
extends_documentation_fragment: [pifleet.ops.kubectl]
attributes:
  check_mode:
    description: Changes nothing, so it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
seealso:
  - module: pifleet.ops.k3s_cluster_info
  - module: pifleet.ops.k3s_node
"""

EXAMPLES = r"""
- name: Ask what the cluster knows of a node
  pifleet.ops.k3s_node_info:
    nodes: [pi-cluster-4.local]
  delegate_to: pi-cluster-1.local
"""

RETURN = r"""
unreachable_reason:
  description: Why no API answered, empty where one did.
  type: str
  returned: success
nodes:
  description: What is known, by node name in lower case; null where no API answered.
  type: dict
  returned: success
  contains:
    node:
      description:
        - The Node object in short; null where there is none.
        - Keys C(role), C(ready), C(version), C(internal_ip), C(machine_id), C(schedulable), C(labels), C(annotations), C(taints).
      type: dict
    password:
      description: Whether the cluster expects a certain node password of it.
      type: bool
    heartbeat:
      description: When its kubelet renewed its lease last; empty for never.
      type: str
    silent:
      description: Seconds since then, by this host's clock; null for never.
      type: float
    pods:
      description:
        - Its pods, each with C(name) (as namespace/name), C(controller) (as kind/name), C(phase), C(ready) and C(elsewhere)
          (how many pods of its controller were ready on other nodes; null where the controller does not count them).
        - Static ones and those that ended are left out.
      type: list
      elements: dict
    volumes:
      description:
        - PersistentVolumes whose data is on this node alone.
        - Each has C(name), C(claim) (as namespace/name), C(capacity), C(storage_class), C(path) and C(bound).
      type: list
      elements: dict
    kept_labels:
      description: Those of its labels that nobody but a person or a program outside k3s would set again, and the inventory never set.
      type: dict
    kept_taints:
      description: Those of its taints that are not Kubernetes' own.
      type: list
      elements: dict
    kept_cordon:
      description: Whether somebody took it out of service, other than M(pifleet.ops.k3s_drain) for an upgrade.
      type: bool
    removal_refused:
      description: Why it must not be taken out of the cluster, empty when it may.
      type: str
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import cluster, drain, members, rebuild, workloads
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import FIELD_MANAGER, OPTIONS, ApiUnreachableError, Kubectl
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.versions import is_etcd


def refusal(kubectl, name):
    """Why etcd needs the member of *name*, empty where it does not."""
    nodes = {node.name: node for node in cluster.parse_nodes(kubectl.get("--raw", members.ETCD_NODES))}
    try:
        members.plan_removal(nodes, name)
    except PifleetError as error:
        return str(error)
    return ""


def look(kubectl, name, volumes):
    # side by side: on a node a kubectl takes longer to start than to ask
    with ThreadPoolExecutor() as pool:
        asked = [
            pool.submit(kubectl.find, "/api/v1/nodes", name),
            pool.submit(kubectl.find, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", name),
            pool.submit(kubectl.get, "--raw", f"/api/v1/pods?fieldSelector=spec.nodeName={name}"),
            pool.submit(kubectl.find, "/api/v1/namespaces/kube-system/secrets", members.password_secret(name)),
        ]
        found, lease, answered, secret = (answer.result() for answer in asked)
        pods = workloads.pods_of(answered)
        counted = {workloads.controller_key(pod): workloads.controller_place(pod) for pod in pods if workloads.is_counted(pod)}
        controllers = dict(zip(counted, pool.map(lambda place: kubectl.find(*place), counted.values()), strict=True))
    node = cluster.parse_nodes(json.dumps({"items": [found]}))[0] if found else None
    heartbeat = ((lease or {}).get("spec") or {}).get("renewTime") or ""
    hostname = node.labels.get("kubernetes.io/hostname", name) if node else name
    return {
        "node": cluster.summary(node) if node else None,
        "created": found["metadata"].get("creationTimestamp") or "" if found else "",
        "password": bool(secret),
        "heartbeat": heartbeat,
        "silent": rebuild.silent_seconds(heartbeat, datetime.now(tz=timezone.utc)),
        "pods": [asdict(pod) for pod in workloads.with_others(pods, controllers)],
        "volumes": [asdict(volume) for volume in rebuild.volumes_on(volumes, hostname)],
        "kept_labels": rebuild.kept_labels(node.labels, rebuild.applied_labels(found, FIELD_MANAGER)) if node else {},
        "kept_taints": rebuild.kept_taints(node.taints) if node else [],
        "kept_cordon": bool(node) and drain.cordoned_by_user(node),
        "removal_refused": refusal(kubectl, name) if node and is_etcd(node) else "",
    }


def run(params):
    with Kubectl(argv.run, params["kubeconfig"], params["kubectl"]) as kubectl:
        try:
            volumes = kubectl.get("--raw", "/api/v1/persistentvolumes")
            nodes = {name.lower(): look(kubectl, name.lower(), volumes) for name in params["nodes"]}
        except ApiUnreachableError as error:
            if params["api_expected"]:
                raise
            return {"changed": False, "nodes": None, "unreachable_reason": str(error)}
    return {"changed": False, "nodes": nodes, "unreachable_reason": ""}


def main():
    module = AnsibleModule(
        argument_spec={
            "nodes": {"type": "list", "elements": "str", "required": True},
            "api_expected": {"type": "bool", "default": True},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params))
    except PifleetError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
