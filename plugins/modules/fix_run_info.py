#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fix_run_info
short_description: Return the fix runs of the ledger
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Lists fix runs, newest first, page by page; or shows one whole, with the content of its artifacts where that is asked for.
  - Reads only. A fix run whose process is gone is shown as what it is, V(failed) and interrupted.
options:
  id:
    description: Only this fix run, whole.
    type: str
  artifacts:
    description: With O(id), whether the content of its artifacts is returned, each checked against its hash in the ledger.
    type: bool
    default: false
  service:
    description: Only fix runs of this service.
    type: str
  status:
    description: Only fix runs of this status.
    type: str
    choices: [pending, awaiting_approval, running, succeeded, failed, rolled_back, rollback_failed, rejected, expired, cancelled]
  since:
    description:
      - Only fix runs that were created at this time or later, as ISO 8601, V(2026-11-30) or V(2026-11-30T08:00:00+01:00). It is UTC
        where no offset is given.
    type: str
  limit:
    description: How many on a page, 1 to 100.
    type: int
    default: 20
  offset:
    description: How many are left out before it.
    type: int
    default: 0
attributes:
  check_mode:
    description: Changes nothing, so it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
seealso:
  - module: pifleet.ops.fix_run
"""

EXAMPLES = r"""
- name: The fix runs that wait for an approval
  pifleet.ops.fix_run_info:
    status: awaiting_approval
  run_once: true
  register: waiting

- name: One fix run, with its diff and its logs
  pifleet.ops.fix_run_info:
    id: fix-000007-web
    artifacts: true
  run_once: true
"""

RETURN = r"""
fix_runs:
  description:
    - The fix runs, each with C(id), C(service), C(stack), C(node), C(instruction), C(summary), C(status), C(requester), C(created_at),
      C(ended_at), C(parent_id), C(reason), C(interrupted), C(plan_digest), C(candidate), C(approval_required), C(approval_status),
      C(steps), C(approvals) and C(artifacts).
    - Each of C(steps) has C(name), C(state), C(message), C(started_at), C(ended_at), C(seconds), and C(task_id) of the queue's message that
      it was done for.
  type: list
  elements: dict
  returned: always
total:
  description: How many there are on all pages.
  type: int
  returned: always
contents:
  description: Text of each artifact, by name.
  type: dict
  returned: always
lines:
  description: The same for a person.
  type: list
  elements: str
  returned: always
ledger:
  description: Where the ledger is.
  type: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule

STATUSES = [
    "pending",
    "awaiting_approval",
    "running",
    "succeeded",
    "failed",
    "rolled_back",
    "rollback_failed",
    "rejected",
    "expired",
    "cancelled",
]
ARGUMENT_SPEC = {
    "id": {"type": "str"},
    "artifacts": {"type": "bool", "default": False},
    "service": {"type": "str"},
    "status": {"type": "str", "choices": STATUSES},
    "since": {"type": "str"},
    "limit": {"type": "int", "default": 20},
    "offset": {"type": "int", "default": 0},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="This is done on the controller, by the action plugin of the same name; it was not found.")


if __name__ == "__main__":
    main()
