#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: Return the releases of the ledger
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Lists releases, newest first, by environment in alphabetical order; or shows one whole.
  - Reads only.
options:
  environment:
    description: Only releases of this environment.
    type: str
  id:
    description: Only this release, whole.
    type: str
  limit:
    description: How many of each environment at most.
    type: int
    default: 20
attributes:
  check_mode:
    description: Changes nothing, so it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
seealso:
  - module: pifleet.ops.release
"""

EXAMPLES = r"""
- name: The last releases of an environment
  pifleet.ops.release_info:
    environment: prod
    limit: 5
  run_once: true
"""

RETURN = r"""
releases:
  description:
    - By environment, newest first. Each has C(id), C(environment), C(version), C(commit_sha), C(timestamp), C(previous_id), C(kind),
      C(status), C(current), C(interrupted), C(target_id), C(phases), C(images) with digests, and C(rendered), the SHA-256 of each project.
  type: dict
  returned: success
lines:
  description: The same as a table.
  type: list
  elements: str
  returned: success
ledger:
  description: Where the ledger is.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {"environment": {"type": "str"}, "id": {"type": "str"}, "limit": {"type": "int", "default": 20}}
REQUIRED_IF = []


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    module.fail_json(msg="This is done on the controller, by the action plugin of the same name; it was not found.")


if __name__ == "__main__":
    main()
