#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_host_key
short_description: Show and replace the SSH host key of a node that was set up anew
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - A node with a new card has new SSH host keys, and ssh refuses to connect. This module finds out, on the controller, if that is why
    a host is unreachable, shows both keys, and replaces the known one for that host alone when O(accept) says so.
  - It looks where ssh itself would look with the connection's settings and the user's ssh configuration (C(ssh -G)).
  - With V(inspected), a host whose key is not the known one fails the task unless O(accept) is set. With it, the offered keys are
    written into a file of this run, and the arguments are returned with which ssh trusts these keys and no others. Any other host is
    reported as unreachable with O(failure), as it was before.
  - With V(replaced), the user's known_hosts gets the keys that the run was pinned to, in place of the host's old ones. Comments, the
    lines of other hosts, their order, and lines with C(@cert-authority) and C(@revoked) stay. A name is taken out of a line that
    is also about other hosts.
  - A key that is marked C(@revoked) is refused always.
options:
  state:
    description:
      - V(inspected) compares what the host offers with what is known, and changes nothing.
      - V(replaced) writes the keys of O(pinned) into the user's known_hosts.
    type: str
    choices: [inspected, replaced]
    required: true
  accept:
    description: Permission to trust a changed key.
    type: bool
    default: false
  failure:
    description: What Ansible said when the host was unreachable.
    type: str
    default: ""
  pinned:
    description: The file that V(inspected) returned, in the same run. Required with O(state=replaced).
    type: path
notes:
  - Hosts behind a proxy (C(ProxyJump), C(ProxyCommand)) cannot be asked for their keys. Where such a host's key changed, the task says
    how to replace it by hand.
  - Only connections of the type C(ssh) are looked at. With V(inspected) a host of another type is unreachable, as it was before.
attributes:
  check_mode:
    description: Predicts the change of known_hosts. The file of the run is written too, since the node must be reached to predict anything.
    support: full
  diff_mode:
    description: Shows the lines of this host.
    support: full
"""

EXAMPLES = r"""
- name: See if an unreachable host has a new key
  pifleet.ops.ssh_host_key:
    state: inspected
    accept: "{{ rebuild_accept_new_host_key | default(false) }}"
    failure: "{{ found.msg }}"
  register: host_key

- name: Trust that key, and no other, from here on
  ansible.builtin.set_fact:
    ansible_ssh_args: "{{ host_key.ssh_args }}"

- name: Write it down
  pifleet.ops.ssh_host_key:
    state: replaced
    pinned: "{{ host_key.pinned }}"
"""

RETURN = r"""
host_key_changed:
  description: Whether the host offers another key than the known one.
  type: bool
  returned: state is inspected
known:
  description: The keys that were known.
  type: list
  elements: dict
  returned: state is inspected, and the key changed or is revoked
  contains:
    type:
      description: Type of the key, such as C(ssh-ed25519).
      type: str
      returned: always
    fingerprint:
      description: SHA-256 fingerprint, as C(ssh-keygen -l) shows it.
      type: str
      returned: always
    file:
      description: The known_hosts.
      type: str
      returned: always
    line:
      description: Number of the line.
      type: int
      returned: always
offered:
  description: The keys that the host offers.
  type: list
  elements: dict
  returned: state is inspected, and the key changed or is revoked
  contains:
    type:
      description: Type of the key, such as C(ssh-ed25519).
      type: str
      returned: always
    fingerprint:
      description: SHA-256 fingerprint, as C(ssh-keygen -l) shows it.
      type: str
      returned: always
pinned:
  description: A known_hosts with the offered keys alone; it is gone when the run ends.
  type: str
  returned: state is inspected, and a changed key is accepted
ssh_args:
  description: What to set C(ansible_ssh_args) to, so that the run trusts RV(pinned) alone. The connection's own arguments follow.
  type: str
  returned: state is inspected, and a changed key is accepted
removed:
  description: The entries that were replaced.
  type: list
  elements: dict
  returned: state is replaced
  contains:
    type:
      description: Type of the key, such as C(ssh-ed25519).
      type: str
      returned: always
    fingerprint:
      description: SHA-256 fingerprint, as C(ssh-keygen -l) shows it.
      type: str
      returned: always
    file:
      description: The known_hosts.
      type: str
      returned: always
    line:
      description: Number of the line.
      type: int
      returned: always
added:
  description: The entries that are new.
  type: list
  elements: dict
  returned: state is replaced
  contains:
    name:
      description: Name in known_hosts.
      type: str
      returned: always
    type:
      description: Type of the key, such as C(ssh-ed25519).
      type: str
      returned: always
    fingerprint:
      description: SHA-256 fingerprint, as C(ssh-keygen -l) shows it.
      type: str
      returned: always
    file:
      description: The known_hosts.
      type: str
      returned: always
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "state": {"type": "str", "choices": ["inspected", "replaced"], "required": True},
    "accept": {"type": "bool", "default": False},
    "failure": {"type": "str", "default": ""},
    "pinned": {"type": "path"},
}
REQUIRED_IF = [("state", "replaced", ("pinned",))]


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.ssh_host_key runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
