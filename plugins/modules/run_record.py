#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run_record
short_description: Record a run in the controller's ledger
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - The first play of a playbook opens the run's record, the last one closes it. Runs of a process that was killed in between
    are reported, and marked as interrupted, when the next one is opened.
  - The ledger is C(.pifleet/ledger.db) of the fleet's folder, which is the checkout that the playbook is in, else (playbooks of
    an installed collection) the current directory; the variable C(fleet_root) overrides both.
  - Who ran it is the login user of the controller as the kernel knows it. It cannot be given.
  - Runs on the controller, without a connection to the task's host. Use it with C(hosts=all), C(run_once) and without
    fact gathering, so that it also runs under C(--limit).
  - The callback P(pifleet.ops.evidence#callback) completes the record with counts of each host, and closes a run that
    failed on all hosts. The C(ansible.cfg) of the checkout enables it.
options:
  state:
    description:
      - V(opened) begins the record.
      - V(noted) keeps O(artifact) with the open run. Outside of an open run it warns and keeps nothing.
      - V(closed) ends the record with an outcome for every host. Fails where no record was opened.
    type: str
    required: true
    choices: [opened, noted, closed]
  artifact:
    description: What to keep. What looks like a secret is masked before.
    type: dict
    suboptions:
      name:
        description: Name for people.
        type: str
        required: true
      media_type:
        description: Media type.
        type: str
        default: text/plain
      content:
        description: The text. Equal texts are stored once.
        type: str
        required: true
attributes:
  check_mode:
    description: Records that a check ran, and nothing else.
    support: full
  diff_mode:
    description: Shows no diff. A record is no change of the fleet, so it never reports one.
    support: none
seealso:
  - plugin: pifleet.ops.evidence
    plugin_type: callback
"""

EXAMPLES = r"""
- name: Open the record
  hosts: all
  gather_facts: false
  tags: [always]
  tasks:
    - name: Open the run's record in the ledger
      pifleet.ops.run_record:
        state: opened
      run_once: true

- name: Close the record
  hosts: all
  gather_facts: false
  tags: [always]
  tasks:
    - name: Close the run's record in the ledger
      pifleet.ops.run_record:
        state: closed
      run_once: true
"""

RETURN = r"""
run_id:
  description: Id of the run; ids sort by time. Null where nothing is recorded.
  type: str
  returned: success
  sample: 20250102T030405.678Z-9f86d081
ledger:
  description: Path of the ledger.
  type: str
  returned: success
previous_interrupted:
  description: Earlier runs that never ended.
  type: list
  elements: dict
  returned: O(state=opened)
  contains:
    run_id:
      description: Id of the run.
      type: str
    playbook:
      description: Its playbook.
      type: str
    requester:
      description: Who ran it.
      type: str
    started_at:
      description: When it began, UTC.
      type: str
rebuilds:
  description: Rebuilds of nodes that neither succeeded nor were abandoned (see M(pifleet.ops.rebuild_record)), by host.
  type: dict
  returned: O(state=opened)
  contains:
    rebuild_id:
      description: Id of the rebuild.
      type: str
    node:
      description: The node's name in the cluster's API.
      type: str
    status:
      description: V(failed) or V(interrupted); V(running) where another run is at it.
      type: str
    reasons:
      description: Why the node had to be rebuilt.
      type: list
      elements: str
    last_step:
      description: The step that its last attempt came to.
      type: str
    run_id:
      description: The run of its last attempt.
      type: str
status:
  description: How the run ended, V(succeeded) or V(failed).
  type: str
  returned: O(state=closed), but in check mode
hosts:
  description: Outcome by host, V(ok), V(failed) or V(unreachable).
  type: dict
  returned: O(state=closed), but in check mode
sha256:
  description: Checksum of the artifact as it was kept. Null where nothing was kept.
  type: str
  returned: O(state=noted)
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "state": {"type": "str", "required": True, "choices": ["opened", "noted", "closed"]},
    "artifact": {
        "type": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "media_type": {"type": "str", "default": "text/plain"},
            "content": {"type": "str", "required": True},
        },
    },
}
REQUIRED_IF = [("state", "noted", ("artifact",))]


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.run_record runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
