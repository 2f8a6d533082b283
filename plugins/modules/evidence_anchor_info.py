#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Returns the heads of the controller's evidence that a node has seen."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence_anchor_info
short_description: Return the heads of the controller's evidence that a node has seen
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Returns what M(pifleet.ops.evidence_anchor) wrote down on the node.
options:
  path:
    description: Folder of the files.
    type: path
    default: /var/lib/pifleet/evidence
  place:
    description: Name of the node, which each head is returned with, as M(pifleet.ops.evidence_verify) takes it.
    type: str
    default: ""
attributes:
  check_mode:
    description: Changes nothing, so it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
seealso:
  - module: pifleet.ops.evidence_anchor
  - module: pifleet.ops.evidence_verify
"""

EXAMPLES = r"""
- name: Read what the node has seen
  pifleet.ops.evidence_anchor_info:
  become: true
  register: seen
"""

RETURN = r"""
anchors:
  description: The heads, by chain and in the order in which they were written down.
  type: list
  elements: dict
  returned: success
  contains:
    chain:
      description: Id of the chain.
      type: str
    seq:
      description: Number of its last event.
      type: int
    sha256:
      description: Hash of that event.
      type: str
    at:
      description: When it was, UTC.
      type: str
    place:
      description: As given.
      type: str
"""

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._evidence import anchors


def main():
    spec = {"path": {"type": "path", "default": anchors.FOLDER}, "place": {"type": "str", "default": ""}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        found = anchors.read(Path(module.params["path"]))
    except OSError as error:
        module.fail_json(msg=f"{error.filename} cannot be read: {error.strerror}. Reading it needs root: use become.")
    module.exit_json(changed=False, anchors=[{**asdict(anchor), "place": module.params["place"]} for anchor in found])


if __name__ == "__main__":
    main()
