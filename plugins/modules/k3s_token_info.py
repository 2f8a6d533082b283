#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the tokens that nodes join a cluster with."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_token_info
short_description: Read the tokens of a cluster from one of its servers
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Returns the tokens in their full form, with the hash of the cluster's CA, so that a joining node verifies whom it talks to.
  - Whoever holds the server token is cluster administrator. Always use this module with C(no_log=true).
options:
  data_dir:
    description: The k3s data folder.
    type: path
    default: /var/lib/rancher/k3s
  timeout:
    description: Seconds to wait for a server that is just starting to write its tokens.
    type: int
    default: 30
attributes:
  check_mode:
    description: Changes nothing, and does not wait.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Read the tokens from a server
  pifleet.ops.k3s_token_info:
  delegate_to: pi-cluster-1.local
  run_once: true
  no_log: true
  register: tokens
"""

RETURN = r"""
server_token:
  description: Token that servers join with. Empty where there is no cluster yet.
  returned: always
  type: str
agent_token:
  description: Token that agents join with. Empty where there is no cluster yet.
  returned: always
  type: str
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import read_text


def main() -> None:
    module = AnsibleModule(
        argument_spec={"data_dir": {"type": "path", "default": "/var/lib/rancher/k3s"}, "timeout": {"type": "int", "default": 30}},
        supports_check_mode=True,
    )
    folder = f"{module.params['data_dir']}/server"
    end = time.monotonic() + (0 if module.check_mode else module.params["timeout"])
    while True:
        # agent-token is a link to token on a server that was started without a separate one
        server, agent = ((read_text(f"{folder}/{name}") or "").strip() for name in ("token", "agent-token"))
        if (server and agent) or time.monotonic() >= end:
            break
        time.sleep(0.5)
    if not (server and agent) and not module.check_mode:
        module.fail_json(
            msg=f"This server has no tokens in {folder}: it never came up. Look at `journalctl -u k3s` there, or run the play for it first."
        )
    module.exit_json(changed=False, server_token=server, agent_token=agent)


if __name__ == "__main__":
    main()
