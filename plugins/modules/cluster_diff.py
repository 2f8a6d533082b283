#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_diff
short_description: Compare a cluster with the manifests and charts of the fleet's folder
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Asks the API what a server-side apply of all manifests below O(directories) would change, and changes nothing in the cluster.
  - Writes what differs, with a summary, into a folder of C(docs/governance/reviews) of the fleet's folder. Values of Secrets are masked.
  - Compares each Helm release of O(charts) as M(pifleet.ops.helm_release) does, and asks the API whether somebody edited its objects.
  - Encrypted manifests (C(*.sops.*)) are decrypted in memory, by the program C(sops) on the controller. Of their Secrets the masked
    difference is shown, of other objects in them only that they differ.
  - What was not compared is named, as manifests that cannot be decrypted here, and charts that are not among O(charts).
  - Its host is a server of the cluster. The playbook C(pifleet.ops.collect_diff) is the usual way to it.
options:
  directories:
    description: Folders of manifests, seen from the fleet's folder. Those below them count too.
    type: list
    elements: str
    default: [cluster]
  left_out:
    description: Folders below O(directories), seen from the fleet's folder, that are named and not compared.
    type: list
    elements: str
    default: []
  kubeconfig:
    description: The kubeconfig on the host.
    type: path
    default: /etc/rancher/k3s/k3s.yaml
  charts:
    description: Helm releases, each a folder below C(charts) of the fleet's folder.
    type: list
    elements: str
    default: []
  helm_kubeconfig:
    description: The kubeconfig on the controller, for C(helm).
    type: path
    default: ~/.kube/config
  helm_context:
    description: Its context. Default is the current one.
    type: str
    default: ""
  chart_dir:
    description: As in M(pifleet.ops.helm_release).
    type: path
    default: ""
  kube_version:
    description: As in M(pifleet.ops.helm_release).
    type: str
    default: ""
  run_id:
    description: The run that the bundle belongs to.
    type: str
    required: true
attributes:
  check_mode:
    description: Compares as well, and writes no bundle.
    support: full
  diff_mode:
    description: The difference is its result.
    support: none
seealso:
  - module: pifleet.ops.k3s_manifests
  - module: pifleet.ops.helm_release
"""

EXAMPLES = r"""
- name: Compare the cluster with its manifests
  pifleet.ops.cluster_diff:
    run_id: "{{ run_record_opened.run_id }}"
  delegate_to: pi-cluster-1.local
  run_once: true
"""

RETURN = r"""
status:
  description: V(clean) or V(drift).
  type: str
  returned: success
exit_code:
  description: 0 where nothing differs, 1 where something does.
  type: int
  returned: success
objects:
  description:
    - Every object with its state, as M(pifleet.ops.k3s_manifests) and M(pifleet.ops.helm_release) return it. RV(ignore:ref) of a release
      begins with C(Helm/).
  type: list
  elements: dict
  returned: success
diff_text:
  description: What differs. Empty where nothing does.
  type: str
  returned: success
summary:
  description: The summary for people, as Markdown.
  type: str
  returned: success
left_out:
  description: What was not compared, and why.
  type: list
  elements: str
  returned: success
path:
  description: Folder of the bundle. Empty in check mode.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "directories": {"type": "list", "elements": "str", "default": ["cluster"]},
    "left_out": {"type": "list", "elements": "str", "default": []},
    "kubeconfig": {"type": "path", "default": "/etc/rancher/k3s/k3s.yaml"},
    "charts": {"type": "list", "elements": "str", "default": []},
    "helm_kubeconfig": {"type": "path", "default": "~/.kube/config"},
    "helm_context": {"type": "str", "default": ""},
    "chart_dir": {"type": "path", "default": ""},
    "kube_version": {"type": "str", "default": ""},
    "run_id": {"type": "str", "required": True},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.cluster_diff is an action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
