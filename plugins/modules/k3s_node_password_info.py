#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says whether a node's password is the one that its cluster expects. The password never leaves the node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_node_password_info
short_description: Say whether a node's password is the one that its cluster expects
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - On a server, with O(nodes), it returns the hashes that the cluster keeps of the passwords of these nodes.
  - On a node, with O(hash), it says whether the node's own password has this hash. The password itself never leaves the node.
  - k3s refuses a node that joins with another password than the one of its first join.
options:
  nodes:
    description: Names of nodes in the API.
    type: list
    elements: str
  hash:
    description: The hash to compare with.
    type: str
extends_documentation_fragment: [pifleet.ops.kubectl]
attributes:
  check_mode:
    description: Changes nothing, so it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
seealso:
  - module: pifleet.ops.k3s_node_info
"""

EXAMPLES = r"""
- name: Ask what the cluster expects
  pifleet.ops.k3s_node_password_info:
    nodes: [pi-cluster-4.local]
  delegate_to: pi-cluster-1.local
  no_log: true
  register: expected

- name: Compare on the node
  pifleet.ops.k3s_node_password_info:
    hash: "{{ expected.hashes['pi-cluster-4.local'] }}"
  no_log: true
"""

RETURN = r"""
hashes:
  description: Hash by node name, empty where the cluster keeps none.
  type: dict
  returned: with O(nodes)
fits:
  description: Whether the node's password has the hash. V(false) where it has none.
  type: bool
  returned: with O(hash)
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, k3s_places
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import read_text
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import members, node_password
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import OPTIONS, Kubectl


def hashes(kubectl, nodes):
    return {
        node: node_password.hash_of(kubectl.find("/api/v1/namespaces/kube-system/secrets", members.password_secret(node))) for node in nodes
    }


def run(params):
    if params["nodes"] is None:
        own = read_text(k3s_places.NODE_PASSWORD) or ""
        return {"changed": False, "fits": bool(own.strip()) and node_password.fits(own, params["hash"])}
    with Kubectl(argv.run, params["kubeconfig"], params["kubectl"]) as kubectl:
        return {"changed": False, "hashes": hashes(kubectl, params["nodes"])}


def main():
    module = AnsibleModule(
        argument_spec={
            "nodes": {"type": "list", "elements": "str"},
            "hash": {"type": "str", "no_log": True},
            **OPTIONS,
        },
        mutually_exclusive=[("nodes", "hash")],
        required_one_of=[("nodes", "hash")],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params))
    except PifleetError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
