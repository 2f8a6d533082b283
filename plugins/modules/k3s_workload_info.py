#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says, or waits, whether the pods that a node had run again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_workload_info
short_description: Say whether the pods that a node had run again
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Compares the pods that a node had with those of today. A pod counts as running again when it is ready, on whatever node, or when its
    controller has as many ready pods as it wants. A DaemonSet has to have a ready pod on the node itself.
  - Waits for it with O(timeout). Changes nothing.
options:
  node:
    description: The node's name in the API.
    type: str
    required: true
  before:
    description: Its pods from before, as M(pifleet.ops.k3s_node_info) returned them.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The pod as namespace/name.
        type: str
        required: true
      controller:
        description: Its controller as kind/name, empty for none.
        type: str
        default: ""
      phase:
        description: Its phase then.
        type: str
      ready:
        description: Whether it was ready.
        type: bool
      elsewhere:
        description:
          - How many pods of its controller were ready on other nodes then.
          - Those that were not are not waited for. Without it the controller has to have as many ready pods as it wants.
        type: int
  timeout:
    description: Seconds to wait. In check mode the module looks once.
    type: int
    default: 0
extends_documentation_fragment: [pifleet.ops.kubectl]
attributes:
  check_mode:
    description: Works in check mode, without waiting.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
seealso:
  - module: pifleet.ops.k3s_node_info
"""

EXAMPLES = r"""
- name: Wait until the workloads of a node run again
  pifleet.ops.k3s_workload_info:
    node: pi-cluster-4.local
    before: "{{ known.nodes['pi-cluster-4.local'].pods }}"
    timeout: 300
  delegate_to: pi-cluster-1.local
"""

RETURN = r"""
node:
  description: The Node object in short, with the keys that M(pifleet.ops.k3s_node_info) gives it; null where there is none.
  type: dict
  returned: success
pods:
  description: The pods of the node now, each with C(name), C(controller), C(phase) and C(ready).
  type: list
  elements: dict
  returned: success
waiting:
  description: What does not run again yet, one line a pod.
  type: list
  elements: str
  returned: success
lost:
  description: Pods that nothing starts again, one line each.
  type: list
  elements: str
  returned: success
waited:
  description: Seconds that the module waited.
  type: float
  returned: success
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import cluster, workloads
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import OPTIONS, ApiUnreachableError, Kubectl

POLL_SECONDS = 0.2
REQUEST_SECONDS = 10.0


def look(kubectl, node, before):
    """Return what the API has of the node and of what was on it. Asks for single objects, never for all of a kind."""
    here = workloads.pods_of(kubectl.get("--raw", f"/api/v1/pods?fieldSelector=spec.nodeName={node}", timeout=REQUEST_SECONDS))
    gone = [pod for pod in before if pod.name not in {p.name for p in here}]
    # side by side: on a node a kubectl takes longer to start than to ask
    with ThreadPoolExecutor() as asking:
        # the pods of a DaemonSet are never elsewhere
        moved = [pod for pod in gone if not pod.controller.startswith("DaemonSet/")]
        found = zip(moved, asking.map(partial(pod_like, kubectl), moved), strict=True)
        elsewhere = {pod.name: workloads.pod_of(there) for pod, there in found if there}
        keys = {workloads.controller_key(pod): pod for pod in gone if pod.controller and pod.name not in elsewhere}
        controllers = dict(zip(keys, asking.map(partial(controller_of, kubectl), keys.values()), strict=True))
    return workloads.Seen(here, elsewhere, controllers)


def pod_like(kubectl, pod):
    """Return the Pod object of that name, None where there is none."""
    namespace, _slash, name = pod.name.partition("/")
    return kubectl.find(f"/api/v1/namespaces/{namespace}/pods", name)


def controller_of(kubectl, pod):
    """Return the pod's controller, None where it is gone; of a kind that is not asked for, nothing."""
    place = workloads.controller_place(pod)
    return kubectl.find(*place) if place else {}


def watch(kubectl, node, before, timeout):
    """Return (what is there, fates, seconds waited), as of when nothing waits any more or the time is over."""
    started = time.monotonic()
    while True:
        waited = time.monotonic() - started
        try:
            seen = look(kubectl, node, before)
            fates = workloads.fates(before, seen)
            if waited >= timeout or not any(fate.state == "waiting" for fate in fates):
                return seen, fates, waited
        except ApiUnreachableError:
            if waited >= timeout:
                raise
        time.sleep(POLL_SECONDS)


def run(params, check_mode):
    before = [workloads.Pod(p["name"], p["controller"] or "", p["phase"] or "", bool(p["ready"]), p["elsewhere"]) for p in params["before"]]
    with Kubectl(argv.run, params["kubeconfig"], params["kubectl"]) as kubectl:
        nodes = cluster.parse_nodes(kubectl.get("--raw", f"/api/v1/nodes?fieldSelector=metadata.name={params['node'].lower()}"))
        seen, fates, waited = watch(kubectl, params["node"].lower(), before, 0 if check_mode else params["timeout"])
    return {
        "changed": False,
        "node": cluster.summary(nodes[0]) if nodes else None,
        "pods": [asdict(pod) for pod in seen.here],
        "waiting": [f"{fate.pod}: {fate.why}" for fate in fates if fate.state == "waiting"],
        "lost": [f"{fate.pod}: {fate.why}" for fate in fates if fate.state == "lost"],
        "waited": round(waited, 1),
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "node": {"type": "str", "required": True},
            "before": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "controller": {"type": "str", "default": ""},
                    "phase": {"type": "str"},
                    "ready": {"type": "bool"},
                    "elsewhere": {"type": "int"},
                },
            },
            "timeout": {"type": "int", "default": 0},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except PifleetError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
