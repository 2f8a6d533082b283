#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, from the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_stage
short_description: Copy the files of a k3s release to a node, all in one go
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Copies files of the controller to their places on the node, owned by the user whom the task becomes. M(pifleet.ops.k3s_install)
    verifies them there once more and installs them.
  - A file that is there already, complete, is not sent again. Each appears in its place whole or not at all.
  - M(ansible.builtin.copy) starts Python on the node three times for each file; this one never does.
options:
  files:
    description: What is copied.
    type: list
    elements: dict
    required: true
    suboptions:
      src:
        description: Path on the controller.
        type: path
        required: true
      dest:
        description: Path on the node. Its folder exists, and only root writes to it.
        type: path
        required: true
      sha256:
        description: Checksum of the file. Without it (check mode, before the download) it counts as one that has to be copied.
        type: str
      mode:
        description: Permissions, as in V(0755).
        type: str
        default: "0644"
  ahead:
    description:
      - Begin to copy, and go on meanwhile. A later task without it, for the same host and in the same run, waits until that has ended,
        copies what is missing then, and reports what was copied; so does this option neither change nor fail anything by itself.
      - Should the run end first, the copy ends with it. Connections other than SSH and local ones do nothing with it.
    type: bool
    default: false
attributes:
  check_mode:
    description: Compares checksums, and copies nothing.
    support: full
  diff_mode:
    description: Shows no diff, because what is copied is not for reading.
    support: none
seealso:
  - module: pifleet.ops.k3s_release_artifacts
  - module: pifleet.ops.k3s_install
"""

EXAMPLES = r"""
- name: Copy the release to the node
  pifleet.ops.k3s_stage:
    files:
      - src: "{{ release.artifacts.arm64.binary }}"
        dest: /usr/local/bin/.k3s.staged
        sha256: "{{ release.artifacts.arm64.binary_sha256 }}"
        mode: "0755"
  become: true
"""

RETURN = r"""
copied:
  description: The files that were copied, or in check mode would be, by their path on the node.
  type: list
  elements: str
  returned: success
  sample: [/usr/local/bin/.k3s.staged]
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "files": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "src": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "sha256": {"type": "str"},
            "mode": {"type": "str", "default": "0644"},
        },
    },
    "ahead": {"type": "bool", "default": False},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.k3s_stage runs from the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
