#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes a node out of a k3s cluster: its etcd member, its Node object and its password. Puts labels and taints back on one."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_node
short_description: Take a node out of a k3s cluster, or put back what others had set on it
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Cordons the node, removes its member from embedded etcd, then its Node object, then the Secret that would reject a node of the same
    name later.
  - Refuses where etcd would lose its quorum or its last member. Run it on a server that stays.
  - Does nothing on the node itself. M(pifleet.ops.k3s_uninstall) does that.
options:
  node:
    description: The node's name in the API.
    type: str
    required: true
  state:
    description:
      - With V(absent) the node leaves the cluster.
      - With V(readmitted) only the Secret with its password is removed, so that the node may register with another one.
      - With V(marked) the node gets those of O(labels) and O(taints) that it does not have, and with O(cordoned) a cordon. Nothing is
        taken from it.
    type: str
    choices: [absent, readmitted, marked]
    default: absent
  labels:
    description: Labels of a node that is V(marked).
    type: dict
    default: {}
  taints:
    description: Taints of a node that is V(marked), each with C(key), C(effect) and mostly C(value).
    type: list
    elements: dict
    default: []
  cordoned:
    description: Whether a node that is V(marked) is taken out of service too, as a person had it.
    type: bool
    default: false
  rejoins:
    description:
      - That the node is removed and joins anew before this task when it is no check.
      - In check mode all is then predicted as missing.
    type: bool
    default: false
  heartbeat:
    description:
      - The node's last sign of life, as M(pifleet.ops.k3s_node_info) returned it. Where there is a later one by now, the node came back
        and is not removed.
      - Not looked at when not set.
    type: str
  timeout:
    description: Seconds to wait for the etcd member, and for the Node object, to be gone.
    type: int
    default: 120
extends_documentation_fragment: [pifleet.ops.kubectl]
attributes:
  check_mode:
    description: Says what would be removed, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows what is removed.
    support: full
seealso:
  - module: pifleet.ops.k3s_drain
  - module: pifleet.ops.k3s_uninstall
"""

EXAMPLES = r"""
- name: Take a node out of the cluster
  pifleet.ops.k3s_node:
    node: pi-cluster-4.local
    state: absent
  delegate_to: pi-cluster-1.local
"""

RETURN = r"""
removed:
  description: What was, or in check mode would be, removed.
  returned: with O(state=absent) and O(state=readmitted)
  type: list
  elements: str
  sample: [etcd member pi-cluster-3.local, node/pi-cluster-3.local, secret/pi-cluster-3.local.node-password.k3s]
added:
  description: Labels, taints and the cordon that were, or in check mode would be, added.
  returned: with O(state=marked)
  type: list
  elements: str
  sample: [label shelf=attic, "taint gpu=only:NoSchedule"]
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import cluster, members
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import OPTIONS, ApiUnreachableError, Kubectl, error_of
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.versions import is_etcd

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 20.0
NODES = "/api/v1/nodes"
SECRETS = "/api/v1/namespaces/kube-system/secrets"


def ask(kubectl, *arguments, timeout=20.0):
    """Return the output of one kubectl call. Taking a member out of etcd makes the API go away for a moment."""
    return kubectl.ask(*arguments, timeout=timeout, patience=PATIENCE_SECONDS)


def patch_node(kubectl, name, patch):
    if kubectl.directly("PATCH", f"{NODES}/{name}", patch) is None:
        ask(kubectl, "patch", "node", name, "--type=merge", f"--patch={patch}")


def node_of(kubectl, name):
    """Return one node, None where there is none of the name."""
    return next(iter(cluster.parse_nodes(ask(kubectl, "get", "--raw", f"{NODES}?fieldSelector=metadata.name={name}"))), None)


def concerned(kubectl, name):
    """Return by name the nodes that a removal has to look at: the node itself, and all where etcd has a member less by it."""
    node = node_of(kubectl, name)
    if node is None or not is_etcd(node):
        return {name: node} if node else {}
    return {found.name: found for found in cluster.parse_nodes(ask(kubectl, "get", "--raw", members.ETCD_NODES))}


def wait_until(what, holds, timeout):
    """Poll *holds* until it is true, at most *timeout* seconds."""
    end = time.monotonic() + timeout
    while True:
        try:
            if holds():
                return
            last = ""
        except ApiUnreachableError as error:
            last = f" ({error})"
        if time.monotonic() + POLL_SECONDS > end:
            raise PifleetError(f"{what} within {timeout} seconds{last}.", "Run again: what is done already is not done twice.")
        time.sleep(POLL_SECONDS)


def has_secret(kubectl, name):
    return kubectl.find(SECRETS, members.password_secret(name)) is not None


def remove_member(kubectl, name, timeout):
    patch_node(kubectl, name, members.removal_patch())

    def gone():
        node = node_of(kubectl, name)
        return node is None or members.is_removed(node)

    wait_until(f"k3s did not take the member of {name} out of etcd", gone, timeout)


def refuse_living(kubectl, name, heartbeat):
    lease = kubectl.find("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", name) or {}
    now = (lease.get("spec") or {}).get("renewTime")
    if now and now != heartbeat:
        raise PifleetError(
            f"{name} came back: its kubelet reported at {now}, after {heartbeat or 'never before'}. It was not removed.",
            "Look at which machine that is (`kubectl get node -o wide`). Switch it off if it is to be replaced, and run again.",
        )


def cordon(kubectl, name):
    """Keep new pods off a node that goes. The Node object is deleted in the next moment, and this with it."""
    patch_node(kubectl, name, '{"spec": {"unschedulable": true}}')


def remove_node(kubectl, name, timeout):
    if kubectl.directly("DELETE", f"{NODES}/{name}") is None:
        ask(kubectl, "delete", "node", name, "--ignore-not-found", f"--timeout={timeout}s", timeout=timeout + 10)
    wait_until(f"{name} did not leave the cluster", lambda: node_of(kubectl, name) is None, timeout)


def remove_secret(kubectl, name):
    secret = members.password_secret(name)
    # mostly k3s was faster: then there is none any more
    if kubectl.directly("DELETE", f"{SECRETS}/{secret}") is None and has_secret(kubectl, name):
        ask(kubectl, "-n", "kube-system", "delete", "secret", secret, "--ignore-not-found")


def mark(kubectl, params, check_mode):
    """Add what the node lacks. Its resourceVersion goes along, so that nobody else's change in between is undone."""
    name = params["node"]
    while True:
        node = kubectl.find(NODES, name)
        if node is None and not check_mode:
            raise PifleetError(f"There is no node {name} in the cluster.", "`k3s kubectl get nodes` shows those that there are.")
        has = {} if check_mode and params["rejoins"] else node or {}
        missing = members.plan_marks(has, params["labels"], params["taints"], cordoned=params["cordoned"])
        if check_mode or not missing.added:
            return list(missing.added)
        done = kubectl("patch", "node", name, "--type=merge", f"--patch={missing.patch}", timeout=20.0)
        if done.ok:
            return list(missing.added)
        if "the object has been modified" not in done.stderr:
            raise error_of(done, kubectl.kubeconfig)


def run(module):
    params = module.params
    name, timeout = params["node"], params["timeout"]
    if params["state"] == "marked":
        with Kubectl(argv.run, params["kubeconfig"], params["kubectl"]) as kubectl:
            added = mark(kubectl, params, module.check_mode)
        module.exit_json(changed=bool(added), added=added, diff={"before": "", "after": "".join(f"{a}\n" for a in added)})
    removed = []
    with Kubectl(argv.run, params["kubeconfig"], params["kubectl"]) as kubectl:
        if params["state"] == "absent":
            plan = members.plan_removal(concerned(kubectl, name), name)
            if plan.node and params["heartbeat"] is not None:
                refuse_living(kubectl, name, params["heartbeat"])
            if plan.node and not module.check_mode:
                cordon(kubectl, name)
            if plan.member:
                removed.append(f"etcd member {name}")
                if not module.check_mode:
                    remove_member(kubectl, name, timeout)
            if plan.node:
                removed.append(f"node/{name}")
                if not module.check_mode:
                    remove_node(kubectl, name, timeout)
        # k3s removes it with the Node, a moment later: reported as removed by whoever is first, so that the prediction holds
        if f"node/{name}" in removed or has_secret(kubectl, name):
            removed.append(f"secret/{members.password_secret(name)}")
            if not module.check_mode:
                remove_secret(kubectl, name)
    before = "".join(f"{r}\n" for r in removed)
    module.exit_json(changed=bool(removed), removed=removed, diff={"before": before, "after": ""})


def main():
    module = AnsibleModule(
        argument_spec={
            "node": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["absent", "readmitted", "marked"], "default": "absent"},
            "labels": {"type": "dict", "default": {}},
            "taints": {"type": "list", "elements": "dict", "default": []},
            "cordoned": {"type": "bool", "default": False},
            "rejoins": {"type": "bool", "default": False},
            "heartbeat": {"type": "str"},
            "timeout": {"type": "int", "default": 120},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    try:
        run(module)
    except PifleetError as error:
        module.fail_json(msg=scrub(str(error)))


if __name__ == "__main__":
    main()
