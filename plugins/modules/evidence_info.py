#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence_info
short_description: Return what the controller's ledger has
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Lists runs or events, newest first and by page, or shows one run whole.
  - Reads only. It does not verify; M(pifleet.ops.evidence_verify) does.
options:
  what:
    description:
      - V(runs) with hosts, counts and what they left, or V(events) of the chain.
      - V(show) is one run whole, with its events and the texts that it left.
    type: str
    choices: [runs, events, show]
    default: runs
  run_id:
    description: Only this run. Needed to show one; V(last) is the newest of the inventory that the playbook runs with.
    type: str
  host:
    description: Only what this host of the inventory took part in.
    type: str
  kind:
    description: Only events of this kind, such as V(run.closed), or of all that begin with it, such as V(rebuild); runs that have one.
    type: str
  status:
    description: Only runs that ended like this.
    type: str
    choices: [running, succeeded, failed, interrupted, checked]
  since:
    description: From this time on, UTC, as V(2025-01-02T03:04:05Z) or the beginning of it.
    type: str
  until:
    description: Up to this time, UTC. V(2025-01-02) includes that day.
    type: str
  limit:
    description: How many at most, up to 1000.
    type: int
    default: 50
  offset:
    description: How many of the newest to leave out. O(ignore:next_offset) of the page before.
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
  - module: pifleet.ops.evidence_report
  - module: pifleet.ops.evidence_verify
"""

EXAMPLES = r"""
- name: The last ten runs of a node
  pifleet.ops.evidence_info:
    host: pi-cluster-4.local
    limit: 10
  run_once: true

- name: The newest run, whole
  pifleet.ops.evidence_info:
    what: show
    run_id: last
  run_once: true
"""

RETURN = r"""
items:
  description: Runs or events, newest first.
  type: list
  elements: dict
  returned: O(what=runs) and O(what=events)
total:
  description: How many there are without O(limit) and O(offset).
  type: int
  returned: O(what=runs) and O(what=events)
next_offset:
  description: O(offset) of the next page. Null where this is the last one.
  type: int
  returned: O(what=runs) and O(what=events)
run:
  description: The run.
  type: dict
  returned: O(what=show)
ledger:
  description: Where the ledger is.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "what": {"type": "str", "choices": ["runs", "events", "show"], "default": "runs"},
    "run_id": {"type": "str"},
    "host": {"type": "str"},
    "kind": {"type": "str"},
    "status": {"type": "str", "choices": ["running", "succeeded", "failed", "interrupted", "checked"]},
    "since": {"type": "str"},
    "until": {"type": "str"},
    "limit": {"type": "int", "default": 50},
    "offset": {"type": "int", "default": 0},
}
REQUIRED_IF = [("what", "show", ("run_id",))]


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.evidence_info runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
