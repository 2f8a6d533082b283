#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotates the server token of a cluster, or verifies its tokens."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_token_rotate
short_description: Rotate the server token of a k3s cluster
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Runs C(k3s token rotate) on a server, which makes the new token itself, so that none stands in an argument. Verifies that the server
    accepts the new token and refuses the old one. Then each server is to be started with it, by O(state=taken).
  - Where a rotation was cut off before that, the token that k3s has made is kept, and nothing is rotated again.
options:
  state:
    description:
      - V(taken) has a server started with the token that was made on it or on another server, and verifies that it accepts it.
      - V(verified) only looks whether the server is started with its own token, and accepts it and that of agents.
    type: str
    default: rotated
    choices: [rotated, taken, verified]
  token:
    description: The token that is taken, as M(pifleet.ops.k3s_token_info) returns it.
    type: str
  data_dir:
    description: The k3s data folder.
    type: path
    default: /var/lib/rancher/k3s
  timeout:
    description: Seconds until a server that does not accept the new token fails.
    type: int
    default: 60
attributes:
  check_mode:
    description: Predicts whether a token would be rotated.
    support: full
  diff_mode:
    description: A token is not shown.
    support: none
"""

EXAMPLES = r"""
- name: Rotate the server token
  pifleet.ops.k3s_token_rotate:
  delegate_to: pi-cluster-1.local
  run_once: true
"""

RETURN = r"""
resumed:
  description: Whether a rotation before was cut off, and is gone on with.
  type: bool
  returned: success
ca:
  description: The hash of the cluster's CA, as tokens begin with it. It is no secret.
  type: str
  returned: success
fingerprints:
  description: What tells the tokens of servers and agents from others, and gives nothing away.
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import token_rotation


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "default": "rotated", "choices": ["rotated", "taken", "verified"]},
            "token": {"type": "str", "no_log": True},
            "data_dir": {"type": "path", "default": "/var/lib/rancher/k3s"},
            "timeout": {"type": "int", "default": 60},
        },
        required_if=[("state", "taken", ["token"])],
        supports_check_mode=True,
    )
    server = token_rotation.LocalServer(argv.run, module.params["data_dir"])
    try:
        if module.params["state"] == "rotated":
            found = token_rotation.rotate(server, module.check_mode, module.params["timeout"])
        elif module.params["state"] == "taken":
            found = token_rotation.take(server, module.params["token"], module.check_mode, module.params["timeout"])
        else:
            found = token_rotation.verify(server, module.params["timeout"])
    except PifleetError as error:
        module.fail_json(msg=str(error))
    fingerprints = {"server": found.server, "agents": found.agents}
    module.exit_json(changed=found.changed, resumed=found.resumed, ca=found.ca, fingerprints=fingerprints)


if __name__ == "__main__":
    main()
