#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: helm_release
short_description: Install or upgrade a Helm release of the fleet's folder, after a diff
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Renders the chart, compares it with the revision that the cluster has, and upgrades where they differ. An upgrade waits until all
    is ready, and is rolled back where that fails.
  - What is wanted stands in C(charts/)I(name) of the fleet's folder. C(release.yaml) there pins the chart with RV(ignore:chart),
    RV(ignore:version), RV(ignore:repository) and RV(ignore:namespace); it may have a RV(ignore:sha256) of the archive, and name the files
    of RV(ignore:values), by default C(values.yaml). Later files win.
  - The chart is taken from that folder (unpacked, or as C(chart-version.tgz)), else from O(chart_dir), else from its repository, once.
  - A revision that a killed helm left unfinished is taken back first.
  - Runs C(helm), 3.14 or newer or 4, on the controller.
options:
  name:
    description: The folder below C(charts), which is the release's name too.
    type: str
    required: true
  kubeconfig:
    description: The kubeconfig on the controller.
    type: path
    default: ~/.kube/config
  context:
    description: Its context. Default is the current one.
    type: str
    default: ""
  chart_dir:
    description: A folder of the controller with the archives of charts, for a controller without a network. No repository is asked then.
    type: path
    default: ""
  kube_version:
    description: The cluster's version, which charts may ask for, such as C(v1.34.4+k3s1). Default is that of C(helm).
    type: str
    default: ""
  timeout:
    description: Seconds until all of the release has to be ready.
    type: int
    default: 900
  api_expected:
    description:
      - Whether an API has to answer. With V(false), where none does the release is predicted as V(created).
      - Default is V(true), and in check mode V(false), because a check may come before the first bootstrap.
    type: bool
attributes:
  check_mode:
    description: Renders and compares as well, and changes nothing.
    support: full
  diff_mode:
    description: Shows each object before and after. Values of Secrets are masked.
    support: full
seealso:
  - module: pifleet.ops.cluster_diff
"""

EXAMPLES = r"""
- name: Upgrade the monitoring
  pifleet.ops.helm_release:
    name: kube-prometheus-stack
    kubeconfig: ~/.kube/config
    context: pi-cluster
  run_once: true
"""

RETURN = r"""
state:
  description: V(created), V(configured) or V(unchanged), as the release was found.
  type: str
  returned: success
chart:
  description: The chart and its version, such as C(kube-prometheus-stack-88.5.3).
  type: str
  returned: success
objects:
  description: Every object with RV(ignore:ref) and RV(ignore:state), one of V(created), V(configured), V(removed), V(unchanged).
  type: list
  elements: dict
  returned: success
manifest:
  description: What the chart renders, for the evidence. Values of Secrets are masked.
  type: str
  returned: success
diff_text:
  description: What differs, as one unified diff. Values of Secrets are masked. Empty where nothing does.
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

ARGUMENT_SPEC = {
    "name": {"type": "str", "required": True},
    "kubeconfig": {"type": "path", "default": "~/.kube/config"},
    "context": {"type": "str", "default": ""},
    "chart_dir": {"type": "path", "default": ""},
    "kube_version": {"type": "str", "default": ""},
    "timeout": {"type": "int", "default": 900},
    "api_expected": {"type": "bool"},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.helm_release is an action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
