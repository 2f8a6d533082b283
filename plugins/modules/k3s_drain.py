#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes a node of a k3s cluster out of service, and puts it back once it is what it should be."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_drain
short_description: Take a node of a k3s cluster out of service, or put it back
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Cordons a node and evicts its pods within a time limit, or verifies a node and lifts the cordon.
  - Whose cordon it is stands in the annotation C(pifleet.ops/cordoned-by-upgrade) of the Node, set in the same step as the cordon.
    A node that somebody else cordoned stays cordoned.
  - Pod disruption budgets are respected. What blocks a drain is named in the error; the node is left cordoned then.
options:
  node:
    description: The node's name in the API.
    type: str
    required: true
  state:
    description:
      - With V(drained) no new pod comes to the node, and its pods but those of a DaemonSet and static ones are evicted.
      - With V(uncordoned) the module waits until the node is Ready, runs O(version), and is a voter where it has etcd, and puts it back.
    type: str
    choices: [drained, uncordoned]
    default: drained
  version:
    description: Version that the node's kubelet has to run before it is put back into service. Any when not set.
    type: str
  reason:
    description: Value of the annotation, for people who wonder about the cordon.
    type: str
    default: "true"
  timeout:
    description: Seconds that the evictions, or the wait before the cordon is lifted, may take.
    type: int
    default: 300
  force:
    description: Whether pods without a controller are evicted too. Nothing starts them again elsewhere.
    type: bool
    default: false
  delete_emptydir_data:
    description: Whether pods with emptyDir volumes are evicted. What is in these volumes is lost.
    type: bool
    default: true
  evict:
    description:
      - Whether pods are evicted at all. With V(false) the node is only cordoned.
      - For a node whose pods have nowhere else to go.
    type: bool
    default: true
extends_documentation_fragment: [pifleet.ops.kubectl]
attributes:
  check_mode:
    description: Predicts the cordon and the pods that would be evicted. Never waits.
    support: full
  diff_mode:
    description: Shows whether the node is in service, and the pods that leave it.
    support: full
seealso:
  - module: pifleet.ops.k3s_cluster_info
"""

EXAMPLES = r"""
- name: Take the node out of service
  pifleet.ops.k3s_drain:
    node: pi-cluster-4.local
    timeout: 300
  delegate_to: pi-cluster-1.local

- name: Put it back when it runs the new version
  pifleet.ops.k3s_drain:
    node: pi-cluster-4.local
    state: uncordoned
    version: v1.34.5+k3s1
  delegate_to: pi-cluster-1.local
"""

RETURN = r"""
cordoned:
  description: Whether the node is, or in check mode would be, cordoned by this module.
  returned: success
  type: bool
cordoned_by_user:
  description: Whether somebody else took the node out of service.
  returned: success
  type: bool
evicted:
  description: The pods that were, or in check mode would be, evicted, as C(namespace/name).
  returned: success
  type: list
  elements: str
blocking:
  description: Pods that a drain does not get rid of now, each with C(pod) and C(reason).
  returned: when there are any
  type: list
  elements: dict
version:
  description: Version of the node's running kubelet.
  returned: success
  type: str
waited:
  description: Seconds that the module waited for the node to be what was wanted.
  returned: success
  type: float
"""

import time
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import cluster, drain
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import OPTIONS, ApiUnreachableError, Kubectl, error_of
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.versions import CORDONED_BY_UPGRADE

POLL_SECONDS = 1.0


class DrainBlockedError(PifleetError):
    """Pods that do not leave. *blocking*: which, for the module's result."""

    def __init__(self, what, hint, blocking):
        super().__init__(what, hint)
        self.blocking = blocking


def node_of(kubectl, name):
    """Return the node, None where the cluster has none of that name."""
    nodes = cluster.parse_nodes(kubectl.get("nodes", "-o", "json"))
    return next((node for node in nodes if node.name == name), None)


def pods_on(kubectl, name):
    return drain.pods_of(kubectl.get("pods", "-A", f"--field-selector=spec.nodeName={name}", "-o", "json"))


def budgets(kubectl):
    return drain.budgets_of(kubectl.get("poddisruptionbudgets", "-A", "-o", "json"))


def as_dicts(blocking):
    return [asdict(b) for b in blocking]


def drained(kubectl, params, check_mode):
    """Bring the node out of service; return the module's result."""
    name = params["node"]
    node = node_of(kubectl, name)
    if node is None:
        raise PifleetError(
            f"There is no node {name} in the cluster.", "Names in the API are lower case: `k3s kubectl get nodes` shows them."
        )
    users = drain.cordoned_by_user(node)
    pods = pods_on(kubectl, name) if params["evict"] else ()
    refused = drain.refused(pods, force=params["force"], delete_emptydir_data=params["delete_emptydir_data"])
    if refused:
        raise DrainBlockedError(
            f"{name} cannot be drained without a loss: {drain.sentence(refused)}.",
            "Move these pods away, or accept it with k3s_drain_force / k3s_drain_delete_emptydir_data. Nothing was changed.",
            refused,
        )
    leaving = drain.leaving(pods)
    result = {
        "changed": bool(node.schedulable or leaving),
        "cordoned": not users,
        "cordoned_by_user": users,
        "evicted": [pod.ref for pod in leaving],
        "version": node.version,
        "waited": 0.0,
        "diff": {
            "before": {"schedulable": node.schedulable, "pods": [pod.ref for pod in leaving]},
            "after": {"schedulable": False, "pods": []},
        },
    }
    if check_mode:
        blocking = [b for b in drain.blocked(pods, budgets(kubectl)) if "PodDisruptionBudget" in b.reason] if leaving else []
        return result | ({"blocking": as_dicts(blocking)} if blocking else {})
    if node.schedulable:
        kubectl.ask("patch", "node", name, "--type=merge", f"--patch={drain.cordon_patch(params['reason'])}")
    if leaving:
        result["waited"] = evict(kubectl, params)
    return result


def evict(kubectl, params):
    """Evict the pods of the node; return the seconds it took. Raises DrainBlockedError naming what is still there when the time is over."""
    started = time.monotonic()
    options = [
        "--ignore-daemonsets",
        f"--timeout={max(1, params['timeout'])}s",
        f"--force={str(params['force']).lower()}",
        f"--delete-emptydir-data={str(params['delete_emptydir_data']).lower()}",
    ]
    done = kubectl("drain", params["node"], *options, timeout=params["timeout"] + 30)
    if done.ok:
        return round(time.monotonic() - started, 1)
    blocking = drain.blocked(pods_on(kubectl, params["node"]), budgets(kubectl))
    if not blocking:
        raise error_of(done, kubectl.kubeconfig)
    raise DrainBlockedError(
        f"{params['node']} was not drained within {params['timeout']} seconds: {drain.sentence(blocking)}.",
        f"The node is left cordoned. Give these pods room elsewhere, or more time with k3s_drain_timeout, and run again; "
        f"or give it up with `k3s kubectl uncordon {params['node']}`.",
        blocking,
    )


def uncordoned(kubectl, params, check_mode):
    """Wait until the node is what it should be and put it back into service; return the module's result."""
    started = time.monotonic()
    node, ours, lacks = None, False, "no API answers"
    while True:
        try:
            node = node_of(kubectl, params["node"])
            ours = node is not None and CORDONED_BY_UPGRADE in node.annotations
            lacks = drain.waits_for(node, params["version"] or "")
            if ours and not lacks and not check_mode:
                kubectl.ask("patch", "node", params["node"], "--type=merge", f"--patch={drain.uncordon_patch()}")
        except ApiUnreachableError as error:
            lacks = str(error)
        waited = time.monotonic() - started
        if not lacks or check_mode:
            break
        if waited + POLL_SECONDS > params["timeout"]:
            raise PifleetError(
                f"{params['node']} is not put back into service: after {params['timeout']} seconds {lacks}.",
                f"Look at `journalctl -u 'k3s*' -n 50` on it and `k3s kubectl describe node {params['node']}`.",
            )
        time.sleep(POLL_SECONDS)
    return {
        "changed": ours,
        "cordoned": False,
        "cordoned_by_user": node is not None and drain.cordoned_by_user(node),
        "evicted": [],
        "version": node.version if node else "",
        "waited": round(waited, 1),
        "diff": {
            "before": {"schedulable": bool(node and node.schedulable)},
            "after": {"schedulable": ours or bool(node and node.schedulable)},
        },
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "node": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "uncordoned"], "default": "drained"},
            "version": {"type": "str"},
            "reason": {"type": "str", "default": "true"},
            "timeout": {"type": "int", "default": 300},
            "force": {"type": "bool", "default": False},
            "delete_emptydir_data": {"type": "bool", "default": True},
            "evict": {"type": "bool", "default": True},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    act = {"drained": drained, "uncordoned": uncordoned}[module.params["state"]]
    try:
        with Kubectl(argv.run, module.params["kubeconfig"], module.params["kubectl"]) as kubectl:
            module.exit_json(**act(kubectl, module.params, module.check_mode))
    except DrainBlockedError as error:
        module.fail_json(msg=scrub(str(error)), blocking=as_dicts(error.blocking))
    except PifleetError as error:
        module.fail_json(msg=scrub(str(error)))


if __name__ == "__main__":
    main()
