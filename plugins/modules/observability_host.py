#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings packages, files and units of a node that is observed to what is wanted, and nothing else of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: observability_host
short_description: Let a node be observed
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Installs the timer C(pifleet-metrics.timer), which writes what the node tells of its power, heat, storage and clock for node-exporter.
  - Installs the given packages, writes the given files, and starts the given units, or restarts them where one of their files was changed.
  - A file that a unit's own O(units[].check) refuses is never given to a running service. Killed at any moment, the next run goes on.
options:
  packages:
    description: Debian packages that are to be there.
    type: list
    elements: str
    default: []
  files:
    description: Content by path, of mode 0644 and root's.
    type: dict
    default: {}
  secrets:
    description: Content by path, of mode 0600 and O(secrets_owner)'s. It is in no diff and no result.
    type: dict
    default: {}
  secrets_owner:
    description: A user of the node, who may come with O(packages).
    type: str
    default: root
  units:
    description: Services that are to run.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the unit.
        type: str
        required: true
      restarted_by:
        description: Paths of O(files) and O(secrets) that it has to be restarted for.
        type: list
        elements: str
        default: []
      check:
        description: A command that has to succeed before it is started or restarted.
        type: list
        elements: str
        default: []
      ready:
        description: An address that answers with success when it serves. It is waited for.
        type: str
        default: ""
  state:
    description: V(absent) removes the timer and its files, and leaves everything else.
    type: str
    choices: [present, absent]
    default: present
  program:
    description: The program of the timer. Set by the action, never by a playbook.
    type: str
  apt_lock_timeout:
    description: Seconds to wait for another process that installs packages.
    type: int
    default: 300
attributes:
  check_mode:
    description: Predicts what would be changed, on a node where nothing is installed too.
    support: full
  diff_mode:
    description: Shows files, but for O(secrets).
    support: full
"""

EXAMPLES = r"""
- name: Let the node write its figures
  pifleet.ops.observability_host:

- name: Let it serve them too
  pifleet.ops.observability_host:
    packages: [prometheus-node-exporter]
    units:
      - name: prometheus-node-exporter.service
        ready: http://127.0.0.1:9100/metrics
"""

RETURN = r"""
plan:
  description: What was, or in check mode would be, changed, in order, each with C(kind), C(target) and C(reason).
  type: list
  elements: dict
  returned: success
"""

import base64
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import as_diff, as_result
from ansible_collections.pifleet.ops.plugins.module_utils._observability import host, units

UNIT = {
    "name": {"type": "str", "required": True},
    "restarted_by": {"type": "list", "elements": "str", "default": []},
    "check": {"type": "list", "elements": "str", "default": []},
    "ready": {"type": "str", "default": ""},
}
ARGUMENTS = {
    "packages": {"type": "list", "elements": "str", "default": []},
    "files": {"type": "dict", "default": {}},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "secrets_owner": {"type": "str", "default": "root", "no_log": False},
    "units": {"type": "list", "elements": "dict", "default": [], "options": UNIT},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "program": {"type": "str"},
    "apt_lock_timeout": {"type": "int", "default": 300},
}


def wanted_of(params):
    """Return what the node shall have."""
    if params["state"] == "absent":
        return units.absent()
    files = [host.File(path, str(text).encode()) for path, text in sorted(params["files"].items())]
    secrets = [
        host.File(path, str(text).encode(), 0o600, params["secrets_owner"], secret=True) for path, text in sorted(params["secrets"].items())
    ]
    services = [
        host.Unit(one["name"], restarted_by=tuple(one["restarted_by"]), check=tuple(one["check"]), ready=one["ready"])
        for one in params["units"]
    ]
    timer = units.present(base64.b64decode(params["program"] or ""))
    return host.Wanted(tuple(params["packages"]), (*files, *secrets, *timer.files), (*services, *timer.units))


def answers(address):
    """Whether there is success at *address*."""
    import urllib.error  # here, because it takes a while and is seldom needed
    import urllib.request

    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 - http, of the role
            return answer.status == 200
    except (OSError, ValueError):
        return False


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        wanted = wanted_of(module.params)
        plan = host.make_plan("/", wanted)
        if plan and not module.check_mode:
            host.Applier("/", argv.run, time, module.params["apt_lock_timeout"], answers).carry_out(plan)
            left = [step.change for step in host.make_plan("/", wanted)]
            if left:
                items = "; ".join(f"{c.kind} {c.target} ({c.reason})" for c in left)
                raise PifleetError(f"Done, and yet not in effect: {items}.", "Another tool may undo it.")
    except PifleetError as error:
        module.fail_json(msg=str(error))
    changes = [step.change for step in plan]
    module.exit_json(changed=bool(changes), diff=as_diff(changes), plan=as_result(changes))


if __name__ == "__main__":
    main()
