#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a head of the controller's evidence down on a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence_anchor
short_description: Write a head of the controller's evidence down on a node
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - A head is number and hash of the last event in the controller's ledger. Written down on a node, it lets
    M(pifleet.ops.evidence_verify) find a ledger whose end was rewritten or cut off.
  - The closing M(pifleet.ops.run_record) does this by itself with its option O(pifleet.ops.run_record#module:anchor).
  - One file for each chain, only added to. When it has 1000 lines, every second one of its older half goes.
  - A record is no change of the node, so it never reports one.
options:
  chain:
    description: Id of the chain.
    type: str
    required: true
  seq:
    description: Number of its last event.
    type: int
    required: true
  sha256:
    description: Hash of that event.
    type: str
    required: true
  at:
    description: When it was, UTC.
    type: str
    default: ""
  path:
    description: Folder of the files.
    type: path
    default: /var/lib/pifleet/evidence
attributes:
  check_mode:
    description: Writes nothing.
    support: full
  diff_mode:
    description: Shows no diff.
    support: none
seealso:
  - module: pifleet.ops.evidence_anchor_info
  - module: pifleet.ops.evidence_verify
"""

EXAMPLES = r"""
- name: Write the head down on a node
  pifleet.ops.evidence_anchor:
    chain: "{{ closed.head.chain }}"
    seq: "{{ closed.head.seq }}"
    sha256: "{{ closed.head.sha256 }}"
  become: true
"""

RETURN = r"""
last:
  description: What the node had as the last head of this chain before. Null where it had none.
  type: dict
  returned: success, but in check mode
"""

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._evidence import anchors

ARGUMENT_SPEC = {
    "chain": {"type": "str", "required": True},
    "seq": {"type": "int", "required": True},
    "sha256": {"type": "str", "required": True},
    "at": {"type": "str", "default": ""},
    "path": {"type": "path", "default": anchors.FOLDER},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    if module.check_mode:
        module.exit_json(changed=False)
    given = module.params
    try:
        last = anchors.add(Path(given["path"]), anchors.Anchor(given["chain"], given["seq"], given["sha256"], given["at"]))
    except PifleetError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, last=asdict(last) if last else None)


if __name__ == "__main__":
    main()
