#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence_verify
short_description: Verify that the controller's ledger is what was recorded
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Finds every record and body that was changed, is missing, was added or moved, and names it. It compares each row with the event that
    vouches for it, each event with the next one, and the last one with signed statements and anchors.
  - With anchors (heads of the chain that were written down elsewhere) it also finds an end that was rewritten with all its hashes and
    signatures. Those in git, under C(refs/pifleet/evidence) of the fleet's folder, it reads itself; those of nodes are given in O(anchors).
  - Reads only. Fails where something was found.
options:
  anchors:
    description: What M(pifleet.ops.evidence_anchor_info) returned on nodes, each with its O(anchors[].place).
    type: list
    elements: dict
    default: []
    suboptions:
      place:
        description: Where it was read.
        type: str
        required: true
      chain:
        description: Id of the chain.
        type: str
        required: true
      seq:
        description: Number of its last event then.
        type: int
        required: true
      sha256:
        description: Hash of that event.
        type: str
        required: true
      at:
        description: When it was written down.
        type: str
  trusted_keys:
    description:
      - Ids of the keys that may sign. Without it, those count that the chain itself introduced.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Changes nothing, so it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
seealso:
  - module: pifleet.ops.evidence_anchor_info
  - module: pifleet.ops.evidence_info
"""

EXAMPLES = r"""
- name: Verify the ledger
  pifleet.ops.evidence_verify:
  run_once: true
"""

RETURN = r"""
findings:
  description: What is wrong. Empty where all is as it was recorded.
  type: list
  elements: dict
  returned: always, but where the ledger cannot be read
  contains:
    problem:
      description: One of V(changed), V(missing), V(added), V(moved), V(replaced), V(rewritten), V(unsigned), V(damaged).
      type: str
    subject:
      description: Id of the record or body.
      type: str
    text:
      description: What was found, for people.
      type: str
notes:
  description: What is worth knowing and no finding.
  type: list
  elements: str
  returned: always, but where the ledger cannot be read
heads:
  description: Number and hash of the last event, by chain.
  type: dict
  returned: always, but where the ledger cannot be read
events:
  description: How many events there are.
  type: int
  returned: always, but where the ledger cannot be read
bodies:
  description: How many bodies there are.
  type: int
  returned: always, but where the ledger cannot be read
statements:
  description: How many signed statements there are.
  type: int
  returned: always, but where the ledger cannot be read
anchors:
  description: How many anchors it was compared with, by place.
  type: dict
  returned: always, but where the ledger cannot be read
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "anchors": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "place": {"type": "str", "required": True},
            "chain": {"type": "str", "required": True},
            "seq": {"type": "int", "required": True},
            "sha256": {"type": "str", "required": True},
            "at": {"type": "str"},
        },
    },
    "trusted_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.evidence_verify runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
