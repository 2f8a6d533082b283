#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a node send its journal to Loki."""

from __future__ import annotations

DOCUMENTATION = r"""
module: log_shipper
short_description: Send a node's journal, and the logs of its pods, to Loki
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Installs Debian's syslog-ng, and runs it as the unit C(pifleet-logs.service) with settings of its own, which are all that it does.
    Debian's own unit C(syslog-ng.service) is masked.
  - The journal is the buffer. It is kept on disk (a drop-in for journald says so), and the place in it moves on only when Loki took a line,
    so nothing is lost that the journal keeps.
  - The first start sends what the journal has already. Loki refuses what is older than a week.
  - syslog-ng of Debian runs on kernels with 16 KiB pages, as those of a Pi 5, because it brings no allocator of its own.
options:
  url:
    description: Address of Loki, such as C(http://10.43.0.31:3100). Empty stops the shipper and removes its settings; its packages stay.
    type: str
    required: true
  labels:
    description: Labels of each line, such as C(node). The module adds C(job), C(unit) and C(level).
    type: dict
    default: {}
  buffer_mb:
    description: Size of the journal on disk at most, in MiB. At least 8.
    type: int
    default: 128
  pods:
    description: Whether the logs of the cluster's containers on this node, below C(/var/log/pods), are sent too.
    type: bool
    default: true
  apt_lock_timeout:
    description: Seconds to wait for another process that installs packages.
    type: int
    default: 300
attributes:
  check_mode:
    description: Predicts what would be changed, also where nothing is installed.
    support: full
  diff_mode:
    description: Shows each file before and after.
    support: full
notes:
  - Needs root rights (C(become)).
"""

EXAMPLES = r"""
- name: Send the journal to the cluster's Loki
  pifleet.ops.log_shipper:
    url: http://10.43.0.31:3100
    labels:
      node: "{{ inventory_hostname }}"
  become: true
"""

RETURN = r"""
plan:
  description: The changes in their order, each with C(kind), C(target) and C(reason).
  type: list
  elements: dict
  returned: success
plan_digest:
  description: SHA-256 of the plan. Equal plans have equal digests.
  type: str
  returned: success
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.apt import Apt
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import as_diff, as_result, digest
from ansible_collections.pifleet.ops.plugins.module_utils._logs import shipper

ARGUMENTS = {
    "url": {"type": "str", "required": True},
    "labels": {"type": "dict", "default": {}},
    "buffer_mb": {"type": "int", "default": 128},
    "pods": {"type": "bool", "default": True},
    "apt_lock_timeout": {"type": "int", "default": 300},
}
NO_PACKAGE = "syslog-ng is not in the node's package sources."


def wanted_of(params):
    """Return the parameters as the core takes them."""
    labels = tuple(sorted((str(name), str(value)) for name, value in params["labels"].items()))
    return shipper.Wanted(params["url"], labels, params["buffer_mb"], params["pods"])


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    node = shipper.Node(argv.run)
    try:
        steps = shipper.make_plan(node, wanted_of(module.params))
        if not module.check_mode:
            apt = Apt(argv.run, time.sleep, time.monotonic, module.params["apt_lock_timeout"], NO_PACKAGE)
            shipper.carry_out(node, apt, steps)
    except PifleetError as error:
        module.fail_json(msg=str(error))
    changes = [step.change for step in steps]
    module.exit_json(changed=bool(changes), diff=as_diff(changes), plan=as_result(changes), plan_digest=digest(changes))


if __name__ == "__main__":
    main()
