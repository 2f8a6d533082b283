#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2025, pifleet.ops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade of the base_os core: parses arguments, plans, carries out, verifies. The decisions are in module_utils/_base_os/plan.py."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: base_os
short_description: Bring the operating system of a fleet node into the state that k3s needs
version_added: "0.1.0"
description:
  - Plans and carries out everything that the role P(pifleet.ops.base_os#role) does, except the restart of the node, in one call.
  - Looks at the node first, and refuses one that cannot work before anything is touched. Looks again afterwards, and fails
    when a change did not take effect.
  - Supports Debian 12 and 13, Raspberry Pi OS bookworm and trixie, Ubuntu 22.04 and 24.04, on amd64, arm64 and ARMv7.
  - What a container cannot do is left out and returned in RV(left_out).
options:
  hostname:
    description: The node's host name, a single label. Not managed when not given.
    type: str
  hosts:
    description:
      - The fleet's block in C(/etc/hosts). Lines outside the block stay as they are. Not managed when not given.
    type: list
    elements: dict
    suboptions:
      address:
        description: IP address. When empty, the block keeps the line that it has for the host.
        type: str
        default: ""
      names:
        description: Names of the host, the canonical one first.
        type: list
        elements: str
        required: true
  packages:
    description: Debian packages that have to be installed.
    type: list
    elements: str
    default: []
  apt_lock_timeout:
    description: Seconds to wait for another process that holds the locks of dpkg and apt.
    type: int
    default: 300
  ntp_servers:
    description:
      - Time servers for chrony or systemd-timesyncd, whichever the node has. Empty means those of the distribution.
      - Not managed when not given.
    type: list
    elements: str
  clock_sync_timeout:
    description: Seconds to wait until the clock is synchronised. V(0) looks once.
    type: int
    default: 60
  clock_reference:
    description: The controller's clock, in seconds since the epoch. When not given, the clocks are not compared.
    type: float
  max_clock_skew:
    description: Seconds that the node's clock may differ from O(clock_reference). V(0) allows any difference.
    type: float
    default: 60
  swap_policy:
    description:
      - V(keep) leaves swap as it is. V(disable) switches all of it off for good. V(zram) has compressed memory as the only swap.
      - Handles dphys-swapfile, rpi-swap, systemd-zram-generator, zram-tools, zram-config and the entries of C(/etc/fstab).
    type: str
    choices: [keep, disable, zram]
    default: keep
  sysctls:
    description: Kernel parameters and their values, for now and for every boot. Not managed when not given.
    type: dict
  kernel_modules:
    description: Kernel modules to load, now and at every boot. Not managed when not given.
    type: list
    elements: str
  journal_max_use:
    description:
      - What the journal may use of the disk, as in C(SystemMaxUse=) of journald. Empty means journald's default.
      - Without effect with O(sd_card_wear=true), where the journal is in memory.
      - The journal is not managed when neither this nor O(sd_card_wear) is given.
    type: str
  sd_card_wear:
    description:
      - Whether to spare the SD card, with a journal in memory, of at most 64 MB, and the root file system mounted C(noatime).
      - V(false) does not undo C(noatime).
    type: bool
attributes:
  check_mode:
    description: Plans the same as a run, and changes nothing.
    support: full
  diff_mode:
    description: Shows each change of the plan.
    support: full
notes:
  - Needs root rights.
seealso:
  - module: pifleet.ops.pi_facts
author:
  - pifleet.ops contributors (@pifleet)
"""

EXAMPLES = r"""
- name: Prepare the operating system
  pifleet.ops.base_os:
    hostname: pi-cluster-1
    hosts:
      - address: 192.168.0.11
        names: [pi-cluster-1, pi-cluster-1.local]
    packages: [ca-certificates]
    kernel_modules: [br_netfilter, overlay]
    sysctls:
      net.ipv4.ip_forward: 1
    journal_max_use: 200M
  register: base_os_result

- name: Restart the node when it needs it
  ansible.builtin.reboot:
  when: base_os_result.reboot_required
"""

RETURN = r"""
plan:
  description: The changes, in the order they were made, or in check mode would be made.
  returned: success
  type: list
  elements: dict
  sample: [{"kind": "file", "target": "/etc/hosts", "reason": "differs"}]
left_out:
  description: What this node cannot do, each with C(item) and C(reason).
  returned: success
  type: list
  elements: dict
  sample: [{"item": "kernel modules", "reason": "a docker container uses those of its host"}]
reboot_required:
  description: Whether the node has to be restarted for its effective state to be the desired one.
  returned: success
  type: bool
reboot_reasons:
  description: Why, of V(memory_cgroup) and V(swap).
  returned: success
  type: list
  elements: str
boot_id:
  description: Identifier of the running boot, to tell afterwards that the node was restarted.
  returned: success
  type: str
"""

import time
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._base_os import facts, gate
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.apply import Applier
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.hosts_file import HostEntry
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.local_host import LocalHost
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.plan import Plan, make_plan, refuse_skew
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.snapshot import Desired, Snapshot, take
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import as_diff, as_result

ARGUMENTS: dict[str, Any] = {
    "hostname": {"type": "str"},
    "hosts": {
        "type": "list",
        "elements": "dict",
        "options": {"address": {"type": "str", "default": ""}, "names": {"type": "list", "elements": "str", "required": True}},
    },
    "packages": {"type": "list", "elements": "str", "default": []},
    "apt_lock_timeout": {"type": "int", "default": 300},
    "ntp_servers": {"type": "list", "elements": "str"},
    "clock_sync_timeout": {"type": "int", "default": 60},
    "clock_reference": {"type": "float"},
    "max_clock_skew": {"type": "float", "default": 60},
    "swap_policy": {"type": "str", "choices": ["keep", "disable", "zram"], "default": "keep"},
    "sysctls": {"type": "dict"},
    "kernel_modules": {"type": "list", "elements": "str"},
    "journal_max_use": {"type": "str"},
    "sd_card_wear": {"type": "bool"},
}


def desired_state(params: dict[str, Any]) -> Desired:
    """Return the module's parameters as the planner wants them."""
    hosts = params["hosts"]
    return Desired(
        hostname=params["hostname"],
        hosts=None if hosts is None else tuple(HostEntry(h["address"], tuple(h["names"])) for h in hosts),
        packages=tuple(params["packages"]),
        ntp_servers=_tuple(params["ntp_servers"]),
        clock_reference=params["clock_reference"],
        max_clock_skew=params["max_clock_skew"],
        swap_policy=params["swap_policy"],
        sysctls=None if params["sysctls"] is None else {key: str(value) for key, value in params["sysctls"].items()},
        kernel_modules=_tuple(params["kernel_modules"]),
        journal_max_use=params["journal_max_use"],
        sd_card_wear=params["sd_card_wear"],
    )


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def carry_out(plan: Plan, node: Snapshot, desired: Desired, params: dict[str, Any], started: float) -> Plan:
    """Carry out *plan* and return what is left to do afterwards. Raises PifleetError where a change did not take effect."""
    host = LocalHost()

    def synchronised() -> bool:
        if host.synchronised():
            return True
        return facts.time_service(host) == "chrony.service" and gate.chrony_is_synchronised(argv.run)

    def clock_gate() -> None:
        gate.wait_until_synchronised(synchronised, time.sleep, params["clock_sync_timeout"])
        refuse_skew(time.time(), desired, settled=True, passed=time.monotonic() - started)

    Applier("/", argv.run, time, params["apt_lock_timeout"]).carry_out(plan, node.memo, node.boot_id, node.cgroup.cmdline_path, clock_gate)
    left = make_plan(take(host, desired), desired)
    if left.changes:
        items = "; ".join(f"{c.kind} {c.target} ({c.reason})" for c in left.changes)
        raise PifleetError(
            f"Done, and yet not in effect: {items}.",
            "Another tool may undo it, a package may be a virtual one (use a real name), or the kernel may round a value.",
        )
    return left


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    started = time.monotonic()
    desired = desired_state(module.params)
    try:
        node = take(LocalHost(), desired)
        plan = final = make_plan(node, desired)
        if not module.check_mode and (plan.changes or plan.wait_for_clock or plan.reboot_reasons):
            final = carry_out(plan, node, desired, module.params, started)
    except PifleetError as error:
        module.fail_json(msg=str(error))
    if module.check_mode and plan.wait_for_clock:
        module.warn("The clock is not synchronised now: a run waits for the time service, and fails when it does not come.")
    module.exit_json(
        changed=bool(plan.changes),
        diff=as_diff(plan.changes),
        plan=as_result(plan.changes),
        left_out=[asdict(item) for item in plan.skipped],  # not `skipped`: by that key Ansible takes the whole task for skipped
        reboot_required=bool(final.reboot_reasons),
        reboot_reasons=list(final.reboot_reasons),
        boot_id=node.boot_id,
    )


if __name__ == "__main__":
    main()
