#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secrets_check
short_description: Compare the files of the fleet's folder with its policy for secrets
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - The policy is C(.sops.yaml). Fails on a file that has to be encrypted and is not, or not wholly; on one that others can read than the
    policy names, or not all of them; on one that no rule covers; on a policy that cannot work; and on a plain file of the desired state
    that holds a Kubernetes Secret or what looks like a secret.
  - Says which secrets were not rotated within 90 days, by the ledger. That is no finding.
  - Reads only, needs no key and no C(sops), and shows no secret. Looks at what git would commit; without git, at all files.
  - Runs on the controller, without a connection to the task's host. The playbook C(pifleet.ops.secrets_check) is the usual way to it.
options:
  places:
    description: Folders and files that are looked through for secrets. By default those of the desired state. Files named C(*.sops.*)
      are looked at wherever they are.
    type: list
    elements: str
  output:
    description: Show a person a table, a program one line of JSON, or nothing.
    type: str
    default: text
    choices: [text, json, none]
attributes:
  check_mode:
    description: Changes nothing, so it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Refuse secrets in clear text
  pifleet.ops.secrets_check:
  run_once: true
"""

RETURN = r"""
findings:
  description: What is wrong. Empty where all is as the policy says.
  type: list
  elements: dict
  returned: always, but where the folder cannot be read
  contains:
    path:
      description: The file, relative to the fleet's folder.
      type: str
    line:
      description: The line, where one can be named.
      type: int
    rule:
      description: One of V(policy), V(no_rule), V(not_encrypted), V(partly_encrypted), V(no_mac), V(other_selection), V(wrong_recipient),
        V(plain_copy), V(kubernetes_secret), V(detected_secret).
      type: str
    text:
      description: What was found, for people.
      type: str
    hint:
      description: The way out.
      type: str
notes:
  description: What is worth knowing and no finding.
  type: list
  elements: str
  returned: always, but where the folder cannot be read
encrypted:
  description: The encrypted files.
  type: list
  elements: str
  returned: always, but where the folder cannot be read
due:
  description: Each kind of secret with the time of its last rotation in the ledger, and whether that is overdue.
  type: list
  elements: dict
  returned: always, but where the folder cannot be read
scanned:
  description: How many plain files were looked through.
  type: int
  returned: always, but where the folder cannot be read
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "places": {"type": "list", "elements": "str"},
    "output": {"type": "str", "default": "text", "choices": ["text", "json", "none"]},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.secrets_check runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
