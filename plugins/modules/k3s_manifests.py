#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Applies baseline objects to a cluster, server-side, after a server-side diff."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_manifests
short_description: Apply objects to a k3s cluster by server-side apply, after a server-side diff
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Asks the API what a server-side apply of the objects would change, and applies what differs, in the order of dependencies.
  - An object in a namespace, or of a kind, that does not exist yet is diffed and applied after it does.
  - Tells a new desired state (V(configured)) from an edit that somebody made in the cluster (V(drifted)). The annotation
    C(pifleet.ops/desired) on each object, a digest of its desired state, makes the difference. Both are brought to the desired state.
  - Objects of kind C(Node) are only changed, never created; taints on them that others have set stay. Nothing is ever deleted.
  - All objects are validated by the API before the first is applied.
options:
  objects:
    description: The objects, as loaded from their manifests. Lists are unfolded, empty documents left out.
    type: list
    elements: raw
    required: true
  field_manager:
    description: Name under which the API records who set a field.
    type: str
    default: pifleet
  marked:
    description:
      - Whether each object gets the annotation C(pifleet.ops/desired). With V(false) whatever differs is V(drifted), which is
        for a look at objects that somebody else applies, as Helm does.
    type: bool
    default: true
  api_expected:
    description:
      - Whether an API has to answer. With V(false), where none does every object is predicted as V(created).
      - Default is V(true), and in check mode V(false), because a check may come before the first bootstrap.
    type: bool
  joining:
    description:
      - Names of nodes that join before this task when it is no check. In check mode those that are not there are predicted as
        V(configured) instead of V(absent). Without check mode this has no effect.
      - Default is every node of O(objects).
    type: list
    elements: str
  replaced:
    description:
      - Names of nodes that are removed from the cluster and join anew before this task when it is no check. In check mode they are
        predicted as V(configured), whatever is there now. Without check mode this has no effect.
    type: list
    elements: str
    default: []
extends_documentation_fragment: [pifleet.ops.kubectl]
attributes:
  check_mode:
    description: Predicts what would be changed. Objects of a namespace or kind that does not exist yet are predicted as created.
    support: full
  diff_mode:
    description: Shows each changed object before and after. Values of Secrets are masked.
    support: full
notes:
  - Needs C(k3s kubectl) or C(kubectl), and C(diff), on the host it runs on.
seealso:
  - module: pifleet.ops.k3s_cluster_info
"""

EXAMPLES = r"""
- name: Apply the baseline manifests
  pifleet.ops.k3s_manifests:
    objects: "{{ query('ansible.builtin.file', *manifests) | map('from_yaml_all') | map('list') | flatten }}"
  vars:
    manifests: "{{ query('ansible.builtin.fileglob', 'cluster/base/system/*.yaml') | sort }}"

- name: Label a node
  pifleet.ops.k3s_manifests:
    objects:
      - apiVersion: v1
        kind: Node
        metadata:
          name: pi-cluster-4.local
          labels: { node-role.kubernetes.io/worker: "true" }
"""

RETURN = r"""
objects:
  description: Every object with its state before this run, in the order of applying.
  type: list
  elements: dict
  returned: success
  contains:
    ref:
      description: C(Kind/name) or C(Kind/namespace/name).
      type: str
    state:
      description: One of V(created), V(configured), V(drifted), V(unchanged), V(absent) (a Node that is not there).
      type: str
drift:
  description: The objects that somebody edited in the cluster, each with C(ref) and C(diff).
  type: list
  elements: dict
  returned: success
diff_text:
  description: Everything that differs, as one unified diff, for the evidence. Values of Secrets are masked.
  type: str
  returned: success
plan:
  description: The changes, each with C(kind), C(target) and C(reason).
  type: list
  elements: dict
  returned: success
plan_digest:
  description: SHA-256 of the plan. Equal plans have equal digests.
  type: str
  returned: success
reachable:
  description: Whether an API answered.
  type: bool
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, plan
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import manifests
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import FIELD_MANAGER, OPTIONS, ApiUnreachableError, Kubectl
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.manifests_api import KubectlApi


def joining_nodes(objects, given, check_mode):
    """Return the nodes that are not there only because this is a check."""
    if not check_mode:
        return []
    return [entry["metadata"]["name"] for entry in objects if entry["kind"] == "Node"] if given is None else given


def carry_out(api, objects, params, check_mode):
    """Return (reachable, plan as carried out or predicted)."""
    joining = joining_nodes(objects, params["joining"], check_mode)
    try:
        found = manifests.make_plan(api, objects, joining, params["replaced"] if check_mode else ())
    except ApiUnreachableError:
        if not check_mode or params["api_expected"]:
            raise
        return False, manifests.plan_without_api(objects, joining)
    return True, found if check_mode else manifests.carry_out(api, found)


def run(params, check_mode):
    objects = manifests.prepare(params["objects"], marked=params["marked"])
    with Kubectl(argv.run, params["kubeconfig"], params["kubectl"]) as kubectl:
        reachable, found = carry_out(KubectlApi(kubectl, params["field_manager"]), objects, params, check_mode)
    return {
        "changed": bool(found.changes),
        "diff": plan.as_diff(found.changes),
        "plan": plan.as_result(found.changes),
        "plan_digest": plan.digest(found.changes),
        "objects": [{"ref": item.ref, "state": item.state} for item in found.items],
        "drift": [{"ref": item.ref, "diff": item.diff} for item in found.items if item.state == manifests.DRIFTED],
        "diff_text": "".join(item.diff for item in found.items),
        "reachable": reachable,
    }


class Module(AnsibleModule):
    """Objects may be Secrets. With ``no_log`` each word of them, such as a namespace, would be hidden in the result too."""

    def _log_invocation(self):
        """Leave the node's journal alone."""


def main():
    module = Module(
        argument_spec={
            "objects": {"type": "list", "elements": "raw", "required": True},
            "field_manager": {"type": "str", "default": FIELD_MANAGER},
            **OPTIONS,
            "marked": {"type": "bool", "default": True},
            "api_expected": {"type": "bool"},
            "joining": {"type": "list", "elements": "str"},
            "replaced": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode), invocation={})
    except PifleetError as error:
        module.fail_json(msg=str(error), invocation={})


if __name__ == "__main__":
    main()
