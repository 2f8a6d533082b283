#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says whether a node joined its cluster, and if not, why."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_join_info
short_description: Say whether a k3s node has joined, and if not, why
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Reads the k3s unit, its journal and the effective state of the host, and names the cause when the node is not ready.
  - Only the current start of the unit counts, and in a crash loop the last few; failures of an earlier start are never reported.
  - It never changes anything and never fails because a node is not ready. The caller decides by RV(state).
options:
  role:
    description: What the node is.
    type: str
    required: true
    choices: [server, agent]
  timeout:
    description:
      - Seconds to wait until the node is ready. V(0) looks once, and so does check mode, in which nothing is going to happen.
      - The module returns early when the node is ready, and when a cause that does not heal by waiting (a rejected token, a port
        that is taken) has persisted for some seconds.
    type: int
    default: 0
  data_dir:
    description: The k3s data folder. Default is the one in the node's k3s configuration, else C(/var/lib/rancher/k3s).
    type: path
  server_url:
    description: The server that the node joins. Default is the one in the node's k3s configuration.
    type: str
attributes:
  check_mode:
    description: Works in check mode, without waiting.
    support: full
  diff_mode:
    description: Shows no diff because it changes nothing.
    support: none
seealso:
  - module: pifleet.ops.k3s_cluster_info
"""

EXAMPLES = r"""
- name: Wait until the agent has joined, or fail with the cause
  pifleet.ops.k3s_join_info:
    role: agent
    timeout: 300
  register: join
  failed_when: join.state != 'ready'
"""

RETURN = r"""
state:
  description:
    - The verdict.
    - One of V(ready), V(starting), V(token_rejected), V(node_password_rejected), V(ca_mismatch), V(server_unreachable),
      V(clock_skew), V(cgroup_memory_missing), V(no_default_route), V(port_in_use), V(disk_pressure), V(crash_loop), V(unknown).
  type: str
  returned: success
  sample: node_password_rejected
hint:
  description: What to do about it; empty when ready.
  type: str
  returned: success
evidence:
  description: The line of the journal or the fact that the verdict rests on, scrubbed.
  type: str
  returned: success
msg:
  description: State, hint and evidence in one line, which is what Ansible shows where the caller fails by RV(state).
  type: str
  returned: success
waited:
  description: Seconds that the module waited.
  type: float
  returned: success
log:
  description: The last lines of the unit's current start (in a crash loop also of the starts before), scrubbed; empty when ready.
  type: list
  elements: str
  returned: success
unit:
  description: State of the systemd unit.
  type: dict
  returned: success
  contains:
    name:
      description: Name of the unit.
      type: str
    active:
      description: systemd's ActiveState.
      type: str
    sub:
      description: systemd's SubState.
      type: str
    result:
      description: Result of the last run.
      type: str
    n_restarts:
      description: Automatic restarts since the last start that was asked for.
      type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import join, join_probe


def run(params, check_mode):
    setup = join_probe.read_setup(params["role"], params["data_dir"], params["server_url"])
    node = join_probe.LocalNode(setup, argv.run)
    timeout = 0 if check_mode else params["timeout"]
    outcome = join.wait(params["role"], node, join_probe.SystemClock(), timeout, setup.port)
    unit, found = outcome.unit, outcome.diagnosis
    return {
        "changed": False,
        "state": found.state,
        "hint": found.hint,
        "evidence": found.evidence,
        "msg": f"{found.state}: {found.hint} ({found.evidence})",
        "waited": round(outcome.waited, 1),
        "log": list(outcome.log),
        "unit": {
            "name": f"{join.unit_name(params['role'])}.service",
            "active": unit.active,
            "sub": unit.sub,
            "result": unit.result,
            "n_restarts": unit.n_restarts,
        },
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "role": {"type": "str", "required": True, "choices": ["server", "agent"]},
            "timeout": {"type": "int", "default": 0},
            "data_dir": {"type": "path"},
            "server_url": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module.params, module.check_mode))
    except PifleetError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
