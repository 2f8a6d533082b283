#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_kubeconfig
short_description: Merge a k3s server's kubeconfig into one of the controller
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Reads the kubeconfig that k3s wrote on the task's host and merges its cluster and user into a kubeconfig of the controller, under
    the name O(context) and with the address O(server).
  - All else in the file stays as it is, the current context included; that is set only where there is none.
  - The file is written whole (0600), under kubectl's lock, and only when something differs. One that is no kubeconfig is left alone
    and fails the task, as does a context of that name which belongs to another cluster.
options:
  path:
    description: Kubeconfig of the controller.
    type: path
    default: ~/.kube/config
  context:
    description: Name of the context, and of its cluster and user.
    type: str
    required: true
  server:
    description: URL under which the controller reaches the API, such as V(https://192.0.2.10:6443).
    type: str
    required: true
  src:
    description: Kubeconfig of the task's host.
    type: path
    default: /etc/rancher/k3s/k3s.yaml
  credentials_sha256:
    description:
      - What M(pifleet.ops.k3s_cluster_info) returned of that name. Where the controller has these credentials already, the task's host is
        not asked for them.
    type: str
    default: ""
  ca_sha256:
    description:
      - For check mode, where the server is about to get another certificate authority (as by a restore), the SHA-256 of its certificate.
      - Where that is not the one that the server has, the change is predicted.
    type: str
    default: ""
attributes:
  check_mode:
    description: Predicts the change, also where the server has no k3s yet.
    support: full
  diff_mode:
    description: Shows the fleet's own entries, with keys masked and certificates as fingerprints.
    support: full
"""

EXAMPLES = r"""
- name: Fetch the kubeconfig
  pifleet.ops.k3s_kubeconfig:
    context: pi-cluster
    server: https://192.0.2.10:6443
  become: true
  run_once: true
"""

RETURN = r"""
path:
  description: The kubeconfig of the controller.
  type: str
  returned: success
context:
  description: Name of the context in it.
  type: str
  returned: success
server:
  description: The API's URL in it.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "path": {"type": "path", "default": "~/.kube/config"},
    "context": {"type": "str", "required": True},
    "server": {"type": "str", "required": True},
    "src": {"type": "path", "default": "/etc/rancher/k3s/k3s.yaml"},
    "credentials_sha256": {"type": "str", "default": ""},
    "ca_sha256": {"type": "str", "default": ""},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.k3s_kubeconfig runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
