#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2025, pifleet.ops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Facts of a node: parses nothing, decides nothing; see module_utils/_base_os/facts.py."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: pi_facts
short_description: Gather the facts of a fleet node in one quick call
version_added: "0.1.0"
description:
  - Reads what the roles of this collection need to know of a node, straight from C(/proc), C(/sys) and C(/etc).
    One call is all the facts of a converged bootstrap.
  - Starts no process, except C(systemctl show) once where a k3s unit is installed, C(k3s --version) where the
    installed binary is not the one that was recorded when it was installed, and C(vcgencmd get_throttled) on a Pi whose kernel
    does not tell the firmware's flags.
  - What the hardware does not have, or does not tell, is null, never an error.
  - Describes the I(effective) state, for instance whether the memory controller works now, not what a file asks for.
  - No fact is a secret.
options:
  data_dir:
    description:
      - Data folder of k3s.
      - The default is the one in the node's k3s configuration, else V(/var/lib/rancher/k3s).
    type: path
  unit:
    description:
      - Name of the k3s unit.
      - The default is whichever of V(k3s.service) and V(k3s-agent.service) is installed, the enabled one if both are.
    type: str
attributes:
  check_mode:
    description: Reads only, so it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so there is no difference to show.
    support: none
author:
  - pifleet.ops contributors (@pifleet)
"""

EXAMPLES = r"""
- name: Gather the facts of the node
  pifleet.ops.pi_facts:
  register: pi_facts_result

- name: Refuse a node without a memory controller
  ansible.builtin.assert:
    that: ansible_facts.pi.cgroup.memory
"""

RETURN = r"""
ansible_facts:
  description: The same as RV(pi), under the name C(pi), so that later tasks find it in C(ansible_facts.pi).
  returned: success
  type: dict
  contains:
    pi:
      description: See RV(pi).
      type: dict
      returned: success
pi:
  description: The facts of the node.
  returned: success
  type: dict
  contains:
    hostname:
      description: The host name now, as the kernel has it.
      type: str
      returned: success
    machine_id:
      description: Content of C(/etc/machine-id).
      type: str
      returned: success
    boot_id:
      description: Identifier of this boot of the kernel. A container has the one of its host.
      type: str
      returned: success
    os:
      description: Operating system, with C(id), C(version_id), C(codename), C(pretty) and C(raspberry_pi_os) (a boolean).
      type: dict
      returned: success
    machine:
      description: The kernel's machine name, as C(uname -m) prints it.
      type: str
      returned: success
    arch:
      description: Architecture of the k3s release for this machine, V(amd64), V(arm64) or V(arm); empty when there is none.
      type: str
      returned: success
    model:
      description: Model of the board from the device tree, null where there is none.
      type: str
      returned: success
      sample: Raspberry Pi 5 Model B Rev 1.0
    revision:
      description: Revision code of the board in hexadecimal digits, null where there is none.
      type: str
      returned: success
      sample: d04170
    boot_path:
      description: Folder of the boot firmware's files, null where there is none.
      type: str
      returned: success
      sample: /boot/firmware
    throttled:
      description:
        - The firmware's flags, those that are set C(now) and those that were C(since_boot), each a list of V(undervoltage),
          V(frequency_capped), V(throttled) and V(soft_temperature_limit). Null where there is no such firmware.
      type: dict
      returned: success
      sample: {"now": [], "since_boot": ["undervoltage"]}
    temperature:
      description: Temperature of the processor in °C, null where the kernel does not tell it.
      type: float
      returned: success
      sample: 48.3
    storage:
      description:
        - By device, C(size_bytes), C(written_bytes) (to its ext4 file systems since they were made) and C(wear) (0 new, 1 used up, as
          eMMC, some cards and NVMe disks tell it), each null where the device does not tell. Null where no device tells anything.
      type: dict
      returned: success
      sample: {"mmcblk0": {"size_bytes": 31914983424, "written_bytes": 1024000000, "wear": null}}
    memory_mb:
      description: Memory in MiB.
      type: int
      returned: success
    cpus:
      description: Number of CPUs that are online.
      type: int
      returned: success
    page_size:
      description: Bytes of a memory page.
      type: int
      returned: success
    container:
      description: Whether the node is a container.
      type: bool
      returned: success
    container_kind:
      description: What kind of container, empty on a machine of its own.
      type: str
      returned: success
      sample: docker
    python:
      description: Version of the Python that runs modules on the node.
      type: str
      returned: success
    default_route:
      description: Whether there is a usable default route, of IPv4 or IPv6.
      type: bool
      returned: success
    address:
      description: IPv4 address of the interface with the default route, empty when there is none.
      type: str
      returned: success
    addresses:
      description: Addresses that other hosts can use, without loopback, link-local and temporary ones.
      type: list
      elements: str
      returned: success
    interfaces:
      description: Interfaces with such an address, each with C(name), C(mac) and C(addresses) (with prefix length).
      type: list
      elements: dict
      returned: success
    cgroup:
      description:
        - C(version) of the control group hierarchy (1 or 2), C(controllers) (those that work now), C(memory) (whether the
          memory controller works now), C(booted_with_memory) (whether the running kernel's command line enables it), C(cmdline_path)
          (the kernel command line file of the boot firmware, or null) and C(cmdline_has_memory) (whether that file enables the
          memory controller).
      type: dict
      returned: success
    clock:
      description:
        - C(epoch) in seconds when the facts were read, C(synchronised) (a boolean, or null where the kernel does not say)
          and C(service), the enabled time service.
      type: dict
      returned: success
    swap:
      description: Active swap, C(total_mb) and C(kinds) (of C(file), C(partition), C(zram)).
      type: dict
      returned: success
    disk:
      description: For C(/) and the data folder of k3s, C(total_mb) and C(free_mb).
      type: dict
      returned: success
    init:
      description: Whether systemd is the init system.
      type: bool
      returned: success
    stacks:
      description: Whether desired state of stacks was ever brought to the node.
      type: bool
      returned: success
    k3s:
      description: What there is of k3s on the node.
      type: dict
      returned: success
      contains:
        role:
          description: V(server) or V(agent) from the unit file, null without one.
          type: str
          returned: success
        unit:
          description: Name of the installed unit, empty without one.
          type: str
          returned: success
        unit_state:
          description: C(active), C(sub), C(enabled), C(main_pid) and C(n_restarts) of the unit, null without one.
          type: dict
          returned: success
        version:
          description: Version of the installed binary, empty when there is none or it does not run.
          type: str
          returned: success
          sample: v1.34.4+k3s1
        binary_sha256:
          description: SHA-256 of the installed binary, null when there is none.
          type: str
          returned: success
        images_sha256:
          description: SHA-256 of the installed airgap images as recorded, null when there are none or others.
          type: str
          returned: success
        data_dir:
          description: Data folder of k3s.
          type: str
          returned: success
        datastore:
          description: V(sqlite), V(etcd) or V(external), null where no server ever ran.
          type: str
          returned: success
        agent_data:
          description: Whether an agent has received its certificates.
          type: bool
          returned: success
        config_present:
          description: Whether C(/etc/rancher/k3s/config.yaml) is there.
          type: bool
          returned: success
        node_name:
          description: Node name in that file, empty when it has none.
          type: str
          returned: success
        node_password:
          description: Whether the node has a node password, which k3s makes at the first join.
          type: bool
          returned: success
        token:
          description: Whether there is a file with the token that the node joins with.
          type: bool
          returned: success
        ports_in_use:
          description: Ports of k3s that another process listens on, with its name and pid.
          type: dict
          returned: success
          sample: {"6443": "nginx (812)"}
"""

import platform
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

# The first module of every run: where Python is too old for the collection's code, it says so instead of failing to import it.
PYTHON = tuple(int(part) for part in platform.python_version_tuple()[:2])
if PYTHON >= (3, 10):
    from ansible_collections.pifleet.ops.plugins.module_utils._base_os.facts import collect
    from ansible_collections.pifleet.ops.plugins.module_utils._base_os.local_host import LocalHost
    from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError


def main() -> None:
    module = AnsibleModule(argument_spec={"data_dir": {"type": "path"}, "unit": {"type": "str"}}, supports_check_mode=True)
    if PYTHON < (3, 10):
        module.fail_json(
            msg=f"The node has Python {platform.python_version()}, and 3.10 is needed. "
            "Use Debian 12 or 13, Raspberry Pi OS bookworm or trixie, or Ubuntu 22.04 or 24.04, which have it."
        )
    try:
        pi = asdict(collect(LocalHost(), platform.python_version(), module.params["data_dir"], module.params["unit"]))
    except PifleetError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, pi=pi, ansible_facts={"pi": pi})


if __name__ == "__main__":
    main()
