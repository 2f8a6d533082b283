#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fix_run
short_description: Record a fix run, and decide on it
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Records a fix run of a service that has a profile in C(fix_profiles), approves or rejects its plan, and tells how it ended. Its steps
    C(analyze), C(patch), C(build), C(restart), C(verify) and C(rollback) are M(pifleet.ops.fix_run_host)'s.
  - Who asks and who approves is the login at the controller, and cannot be given.
  - Needs an open run (M(pifleet.ops.run_record)). Runs on the controller, without a connection to the task's host.
options:
  do:
    description:
      - V(create) records the fix run, or goes on with one. What can be refused is, before anything is recorded.
      - V(take) goes on with a fix run that waits in the queue, or whose runner is gone.
      - V(decide) approves or rejects, V(cancel) gives a fix run up that changed nothing yet.
      - V(show) says what it is and which node it is about.
      - V(finish) tells how it ended, and fails where that is not well.
    type: str
    required: true
    choices: [create, take, decide, cancel, show, finish]
  service:
    description: Name of the service, as C(fix_profiles/<service>.yml) has it.
    type: str
  instruction:
    description: What is to be done, in one of the forms that C(docs/fix-runs.md) lists.
    type: str
  patch_file:
    description: File of the controller with a unified diff. Default is the one that the instruction C(apply diff FILE) names.
    type: path
  retry:
    description: Id of a fix run to go on with.
    type: str
  from_step:
    description: With O(retry), the step to go on from. What is not done before it is refused.
    type: str
  fresh:
    description: With O(retry), begin a new fix run with the same instruction and diff.
    type: bool
    default: false
  fix_run_id:
    description: The fix run, with any other O(do) than V(create).
    type: str
  plan_digest:
    description: The plan that is decided on, as the approver saw it.
    type: str
  reject:
    description: Whether it is rejected.
    type: bool
    default: false
  go_on:
    description: Whether an approved fix run goes on in this run.
    type: bool
    default: true
  task_id:
    description: With O(do=take), id of the queue's message. What it began on another controller it goes on with.
    type: str
attributes:
  check_mode:
    description: Refuses what a run would, and says which node it is about. Nothing is recorded.
    support: full
  diff_mode:
    description: The patch is shown by M(pifleet.ops.fix_run_host).
    support: none
seealso:
  - module: pifleet.ops.fix_run_host
  - module: pifleet.ops.fix_run_info
"""

EXAMPLES = r"""
- name: Record a fix run
  pifleet.ops.fix_run:
    do: create
    service: web
    instruction: bump requests to 2.32.4
  run_once: true
  register: fix_run_now

- name: Approve its plan
  pifleet.ops.fix_run:
    do: decide
    fix_run_id: fix-000007-web
    plan_digest: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  run_once: true
"""

RETURN = r"""
fix_run_id:
  description: Id of the fix run. Empty before it is recorded.
  type: str
  returned: always
node:
  description: The node of the service.
  type: str
  returned: always
status:
  description:
    - One of V(pending), V(awaiting_approval), V(running), V(succeeded), V(failed), V(rolled_back), V(rollback_failed), V(rejected),
      V(expired), V(cancelled).
  type: str
  returned: always
lines:
  description: The fix run, for a person.
  type: list
  elements: str
  returned: always
ledger:
  description: Where the ledger is.
  type: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "do": {"type": "str", "required": True, "choices": ["create", "take", "decide", "cancel", "show", "finish"]},
    "service": {"type": "str"},
    "instruction": {"type": "str"},
    "patch_file": {"type": "path"},
    "retry": {"type": "str"},
    "from_step": {"type": "str"},
    "fresh": {"type": "bool", "default": False},
    "fix_run_id": {"type": "str"},
    "plan_digest": {"type": "str"},
    "reject": {"type": "bool", "default": False},
    "go_on": {"type": "bool", "default": True},
    "task_id": {"type": "str"},
}
REQUIRED_IF = [("do", name, ("fix_run_id",)) for name in ("take", "decide", "cancel", "show", "finish")]


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    module.fail_json(msg="This is done on the controller, by the action plugin of the same name; it was not found.")


if __name__ == "__main__":
    main()
