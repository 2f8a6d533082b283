#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_validate
short_description: Refuse an inventory that cannot become a cluster
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Looks at all hosts of the groups C(k3s_cluster), C(control_plane) and C(workers), those outside of C(--limit) too, before
    anything is touched, and reports everything that is wrong at once.
  - Variables are held against the argument specs of the collection's roles; unknown ones with a prefix of the
    collection (C(k3s_), C(base_os_), C(post_bootstrap_)) are refused, with the name that was probably meant.
  - The fleet is refused for an empty C(control_plane), an even number of etcd servers (without C(k3s_datastore_endpoint)), hosts
    in both groups or in none, duplicate addresses and names, names that Kubernetes does not take, names where k3s needs an address,
    a malformed or differing C(k3s_version), malformed tokens, networks that overlap, and a missing C(k3s_artifact_dir).
  - A variable whose template needs facts of the run is left to the role that uses it.
  - Runs on the controller, without a connection to any host. Use it with C(run_once).
options: {}
attributes:
  check_mode:
    description: Works in check mode, with the same result.
    support: full
  diff_mode:
    description: Shows no diff because it changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Refuse an inventory that cannot work, before anything is touched
  pifleet.ops.fleet_validate:
  run_once: true
"""

RETURN = r"""
hosts:
  description: How many hosts were looked at.
  type: int
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.fleet_validate runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
