#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence_report
short_description: Write a report of what the controller's ledger has
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Verifies the ledger and writes two files of the same name, Markdown and one HTML page that needs nothing but itself, with a timeline of
    the runs, and tables of runs, hosts, what runs left, and failed tasks.
  - The same ledger gives the same report, so that a second time nothing changes.
options:
  name:
    description: Name of the files, without an ending.
    type: str
    default: evidence
  template:
    description:
      - Fill this template of the collection's C(docs/governance) instead, such as V(bootstrap), with what the ledger has of this
        inventory's runs. Only the Markdown is written.
    type: str
  path:
    description: Folder of the files, below the fleet's folder unless absolute.
    type: path
    default: docs/governance/reviews
  run_id:
    description: Only this run. V(last) is the newest of the inventory that the playbook runs with.
    type: str
  host:
    description: Only runs that this host of the inventory took part in.
    type: str
  kind:
    description: Only runs that have an event of this kind.
    type: str
  status:
    description: Only runs that ended like this.
    type: str
    choices: [running, succeeded, failed, interrupted, checked]
  since:
    description: Runs from this time on, UTC, as V(2025-01-02T03:04:05Z) or the beginning of it.
    type: str
  until:
    description: Runs up to this time, UTC. V(2025-01-02) includes that day.
    type: str
  limit:
    description: How many runs at most, the newest ones, up to 1000.
    type: int
    default: 200
attributes:
  check_mode:
    description: Says whether the files would change, and writes nothing.
    support: full
  diff_mode:
    description: Shows no diff.
    support: none
seealso:
  - module: pifleet.ops.evidence_info
  - module: pifleet.ops.evidence_verify
"""

EXAMPLES = r"""
- name: Report of the newest run, a bootstrap
  pifleet.ops.evidence_report:
    name: bootstrap
    template: bootstrap
    run_id: last
  run_once: true

- name: Report of a month
  pifleet.ops.evidence_report:
    name: evidence-2025-01
    since: 2025-01
    until: 2025-01
  run_once: true
"""

RETURN = r"""
markdown:
  description: Path of the Markdown file.
  type: str
  returned: success
html:
  description: Path of the HTML page; null with O(template).
  type: str
  returned: success
findings:
  description: What the verification found, which the report says first.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "name": {"type": "str", "default": "evidence"},
    "template": {"type": "str"},
    "path": {"type": "path", "default": "docs/governance/reviews"},
    "run_id": {"type": "str"},
    "host": {"type": "str"},
    "kind": {"type": "str"},
    "status": {"type": "str", "choices": ["running", "succeeded", "failed", "interrupted", "checked"]},
    "since": {"type": "str"},
    "until": {"type": "str"},
    "limit": {"type": "int", "default": 200},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.evidence_report runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
