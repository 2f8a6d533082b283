#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rebuild_record
short_description: Record the rebuild of a node, step by step
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Keeps one record for each rebuild of a node in the controller's ledger (see M(pifleet.ops.run_record), which has to open the run
    before), and writes the report of a finished one.
  - The steps are C(detect), C(retire), C(prepare), C(install), C(join), C(ready), C(workloads), in this order. Each begins at the
    moment in which the one before it ends, and C(detect) with the run itself, so that the steps add up to the whole.
  - One rebuild has one or more attempts, each in a run of its own. A rebuild that failed or was interrupted stays open, and the next
    run that starts one for the same host resumes it. Where a run ends or is killed, the ledger ends the step that it left open.
  - Runs on the controller for the task's host, without a connection to it.
options:
  state:
    description:
      - V(started) begins a rebuild of the host with the step C(detect), or resumes the one that did not succeed.
      - V(step) ends the current step and begins O(step).
      - V(noted) merges O(detail) into the current step, or into O(step).
      - V(finished) ends the last step and the rebuild. It fails, and the rebuild stays open, where the record is not whole. The whole
        record and the report are kept with the run.
      - V(abandoned) gives up the host's open rebuild, because the node is healthy without it. Does nothing where there is none.
    type: str
    required: true
    choices: [started, step, noted, finished, abandoned]
  node:
    description: The node's name in the cluster's API. Required with O(state=started).
    type: str
  role:
    description: What the node is to be. Required with O(state=started).
    type: str
    choices: [server, agent]
  reasons:
    description: Why the node has to be rebuilt, at least one. Required with O(state=started).
    type: list
    elements: str
  hardware:
    description: What kind of machine it is, for people. With O(state=started).
    type: str
  step:
    description:
      - The step that begins. Required with O(state=step).
      - The current one is not begun again. One before it is refused.
      - With O(state=noted) the step that O(detail) belongs to, one that this run has begun.
    type: str
    choices: [detect, retire, prepare, install, join, ready, workloads]
  hosts:
    description: With O(state=step) the hosts whose rebuilds begin it, so that one task does for all. Default is the task's host.
    type: list
    elements: str
  detail:
    description:
      - What is known of the step that is current when the task is done. Keys replace those that were given before.
      - What looks like a secret is masked before.
      - 'V(finished) needs of all attempts together: of C(detect) C(node_before), C(pods_before), C(volumes) and C(host_key); of C(retire)
        C(removed) and C(snapshot); of C(prepare) C(host_key_replaced) and C(restarted); of C(install) C(version); of C(join) C(state); of
        C(ready) C(node_after) and C(diff); of C(workloads) C(pods_after), C(waiting) and C(lost).'
    type: dict
  details:
    description:
      - With O(state=step) and O(state=finished) what is known of steps that this run has begun before, by step, each like O(detail).
      - Noted before anything else is done, so that one task is enough.
    type: dict
  budget_minutes:
    description: How long the rebuild may take, from the beginning of its first attempt. With O(state=finished).
    type: float
  report_dir:
    description: Folder of the report, relative to the fleet's folder. With O(state=finished).
    type: path
    default: docs/governance/reviews
attributes:
  check_mode:
    description: Writes nothing, and returns nulls and empty lists.
    support: full
  diff_mode:
    description: Shows no diff. A record is no change of the fleet, so it never reports one.
    support: none
seealso:
  - module: pifleet.ops.run_record
"""

EXAMPLES = r"""
- name: Begin or resume the rebuild
  pifleet.ops.rebuild_record:
    state: started
    node: pi-cluster-4.local
    role: agent
    hardware: Raspberry Pi 4 Model B, 8 GB
    reasons: [the host has no k3s data]
  register: rebuild

- name: Go on to the next step
  pifleet.ops.rebuild_record:
    state: step
    step: retire
    detail:
      removed: []
      snapshot: null

- name: Finish it
  pifleet.ops.rebuild_record:
    state: finished
    budget_minutes: 60
"""

RETURN = r"""
ledger:
  description: Path of the ledger.
  type: str
  returned: success
rebuild_id:
  description: Id of the rebuild; ids sort by time. Null where nothing is recorded.
  type: str
  returned: success
  sample: 20250102T030405.678Z-9f86d081
attempt:
  description: Which attempt this run is, counted from 1.
  type: int
  returned: O(state=started)
resumed:
  description: Whether the rebuild was begun by an earlier run.
  type: bool
  returned: O(state=started)
details:
  description:
    - What earlier attempts knew of each step, by step.
    - Of C(detect) what was seen first counts, lists of C(retire) add up, and of the steps after C(prepare) the last attempt counts.
  type: dict
  returned: O(state=started)
step:
  description: The current step.
  type: str
  returned: O(state=step) and O(state=noted)
seconds:
  description: How long this attempt took, from the beginning of the run.
  type: float
  returned: O(state=finished)
started_at:
  description: When the first attempt began, in UTC.
  type: str
  returned: O(state=finished)
total_seconds:
  description: How long it took from the beginning of the first attempt.
  type: float
  returned: O(state=finished)
steps:
  description: The steps of this attempt, in order. Their sum is RV(seconds).
  type: list
  elements: dict
  returned: O(state=finished)
  contains:
    step:
      description: Its name.
      type: str
    seconds:
      description: How long it took.
      type: float
report:
  description: Path of the report.
  type: str
  returned: O(state=finished)
within_budget:
  description: Whether RV(total_seconds) are within O(budget_minutes). Null without a budget.
  type: bool
  returned: O(state=finished)
over_budget:
  description: What to say where they are not; empty otherwise.
  type: str
  returned: O(state=finished)
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "state": {"type": "str", "required": True, "choices": ["started", "step", "noted", "finished", "abandoned"]},
    "node": {"type": "str"},
    "role": {"type": "str", "choices": ["server", "agent"]},
    "reasons": {"type": "list", "elements": "str"},
    "hardware": {"type": "str"},
    "step": {"type": "str", "choices": ["detect", "retire", "prepare", "install", "join", "ready", "workloads"]},
    "hosts": {"type": "list", "elements": "str"},
    "detail": {"type": "dict"},
    "details": {"type": "dict"},
    "budget_minutes": {"type": "float"},
    "report_dir": {"type": "path", "default": "docs/governance/reviews"},
}
REQUIRED_IF = [("state", "started", ("node", "role", "reasons")), ("state", "step", ("step",))]


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.rebuild_record runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
