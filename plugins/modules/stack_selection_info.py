#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action stack_selection_info, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_selection_info
short_description: Find the nodes that stacks concern
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Runs on the controller, once for all hosts of the play, and connects to none of them.
  - A node is concerned when a stack of the commit that is checked out may run there, when it fetches its stacks itself, or when it is
    not known that it never had any. The last is known from RV(pifleet.ops.pi_facts#module:pi), where that was asked for in the same run.
  - Uses the variables of the role P(pifleet.ops.stacks#role) of each host. Warns of files of stacks that are not committed.
options: {}
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: Nothing is changed.
    support: none
seealso:
  - module: pifleet.ops.stack_host
"""

EXAMPLES = r"""
- name: Find the nodes that stacks concern
  pifleet.ops.stack_selection_info:
  run_once: true
  register: selection
"""

RETURN = r"""
concerned:
  description: The hosts, in the order of the play.
  type: list
  elements: str
  returned: success
stacks:
  description: Names of the stacks that may run on each of them, as far as the checkout tells.
  type: dict
  returned: success
revision:
  description: The commit that is checked out, empty where there is none.
  type: str
  returned: success
uncommitted:
  description: Files of stacks that are not deployed, because they are not committed as they are.
  type: list
  elements: str
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC: dict[str, Any] = {}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="stack_selection_info runs on the controller as an action plugin; it cannot run as a module.")


if __name__ == "__main__":
    main()
