#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secrets_rotate
short_description: Rotate the encrypted files of the fleet's folder, and record rotations
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Encrypts each file anew, one after the other. A new form is verified in memory before it replaces the old one (it has the same content,
    the recipients of the policy, and nothing in clear text), and once more from the file; what does not verify is left as it is.
  - Plaintext comes and goes through pipes of C(sops) and stands in no file.
  - A rotation that was cut off is gone on with by the next one of its kind. The old files, encrypted as they were, stay in
    C(.pifleet/secrets) until the next rotation, for the way back.
  - Refuses before anything is touched where a file cannot be decrypted or is not as C(secrets_check) wants it, or a recipient has no
    usable key.
  - Each rotation is an event in the ledger. Needs an open record (M(pifleet.ops.run_record)).
options:
  what:
    description:
      - V(data_keys) gives each file a new data key, for the same recipients.
      - V(recipients) makes the recipients of each file those of C(.sops.yaml). Where somebody is left out, the data key is new too.
      - V(hub_token) puts the token in O(token_from) in the place that C(evidence.yml) names, once the hub has taken it, and takes it back
        where the hub refuses it from there.
      - The others are rotated elsewhere, and only recorded here.
    type: str
    required: true
    choices: [data_keys, recipients, k3s_token, k3s_agent_token, hub_token]
  state:
    description:
      - V(taken_back) puts the old files of the last rotation of files back, where nobody has changed the new ones since.
      - V(recorded) records a rotation that was made, and verified, elsewhere.
    type: str
    default: rotated
    choices: [rotated, taken_back, recorded]
  replace:
    description: With O(what=recipients), public keys in C(.sops.yaml) that are to be replaced, each by its new one.
    type: dict
    default: {}
  token_from:
    description: With O(what=hub_token), a file with the new token, of mode 0600.
    type: path
  details:
    description: With O(state=recorded), what is told of it. No secret belongs here.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Predicts which files would be rotated, with all refusals.
    support: full
  diff_mode:
    description: An encrypted file tells nothing.
    support: none
seealso:
  - module: pifleet.ops.secrets_check
"""

EXAMPLES = r"""
- name: Give every file a new data key
  pifleet.ops.secrets_rotate:
    what: data_keys
  run_once: true
"""

RETURN = r"""
files:
  description: The files that were rotated, or would be, or were taken back.
  type: list
  elements: str
  returned: success
resumed:
  description: Whether an earlier rotation was gone on with.
  type: bool
  returned: success
notes:
  description: What is worth knowing, as keys that expire soon.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "what": {
        "type": "str",
        "required": True,
        "choices": ["data_keys", "recipients", "k3s_token", "k3s_agent_token", "hub_token"],
    },
    "state": {"type": "str", "default": "rotated", "choices": ["rotated", "taken_back", "recorded"]},
    "replace": {"type": "dict", "default": {}},
    "token_from": {"type": "path", "no_log": False},
    "details": {"type": "dict", "default": {}},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.secrets_rotate runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
