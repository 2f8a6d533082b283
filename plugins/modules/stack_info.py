#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows the Compose stacks of a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_info
short_description: Show the Compose stacks of a node
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Returns what is known of each stack, from what M(pifleet.ops.stack_reconcile) kept on the node and from the containers themselves.
  - Never changes anything and never starts Compose.
  - Where what was kept is lost, it is recovered from the labels of the containers, and RV(stacks[].recovered) says so.
extends_documentation_fragment: [pifleet.ops.stacks]
seealso:
  - module: pifleet.ops.stack_reconcile
"""

EXAMPLES = r"""
- name: Look at the stacks of this node
  pifleet.ops.stack_info:
    path: /var/lib/pifleet/desired-state/stacks
  register: found
"""

RETURN = r"""
plan:
  description: What was, or in check mode would be, done.
  type: dict
  returned: always
  contains:
    digest:
      description: SHA-256 of the whole plan. Equal plans have equal digests; a plan without actions has one too.
      type: str
    actions:
      description: The actions in order, each with C(stack), C(kind), C(target) and C(reasons).
      type: list
      elements: dict
stacks:
  description: Every stack of this node, in the order of names.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: Its folder below O(path).
      type: str
    project:
      description: Name of its Compose project.
      type: str
    owner:
      description: Whose stack it is.
      type: str
    status:
      description: One of V(synced), V(syncing), V(drifted), V(failed), V(missing), V(deleting).
      type: str
    revision:
      description: Commit of the last sync that was verified. A failed attempt keeps it.
      type: str
    compose_hash:
      description: SHA-256 over everything that decides what runs.
      type: str
    commit_message:
      description: Message of that commit.
      type: str
    last_sync_at:
      description: When it was last brought, and verified, to be as desired. UTC, ISO 8601.
      type: str
    last_attempt_at:
      description: When that was last tried.
      type: str
    last_sync_status:
      description: How the last attempt ended, V(succeeded) or V(failed). Empty before the first.
      type: str
    last_error:
      description: Why the last attempt failed, free of secrets. Empty after one that succeeded.
      type: str
    retry_at:
      description: Until when an unattended run leaves a failed revision alone.
      type: str
    drift:
      description: Each difference with C(service) (empty where it is the whole stack's), C(reason) and C(detail).
      type: list
      elements: dict
    policy:
      description: What is done about its drift.
      type: str
    awaiting_acknowledgement:
      description: Whether its plan waits for M(pifleet.ops.stack_acknowledge).
      type: bool
    plan_digest:
      description: SHA-256 of its own plan, with the images it leads to as far as they are known. What an acknowledgement names.
      type: str
    pinned:
      description: Whether it is held at its revision.
      type: bool
    suspended:
      description: Whether its own compose file says to leave it alone.
      type: bool
    in_scope:
      description: Whether O(scope) includes it.
      type: bool
    recovered:
      description: Whether revision, hash and times come from the labels of its containers alone, because the state file was lost.
      type: bool
    containers_running:
      description: How many of its containers run.
      type: int
    containers_total:
      description: How many containers it has, stopped ones too.
      type: int
    services:
      description: Names of its services.
      type: list
      elements: str
    changed:
      description: Whether this run changed, or in check mode would change, anything of it.
      type: bool
    actions:
      description: What was done, each with C(kind), C(target) and C(reasons).
      type: list
      elements: dict
refresh:
  description: How the desired state is that is checked out on the node, as M(pifleet.ops.stack_host) returns it.
  type: dict
  returned: success
warnings:
  description: What should be known and stopped nothing.
  type: list
  elements: str
  returned: when there are any
"""

from dataclasses import asdict, replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import in_force, refresh
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import answer, local, options, reconcile


def main():
    module = AnsibleModule(argument_spec=dict(options.OPTIONS), supports_check_mode=True)
    try:
        with in_force.desired_state(module.params["path"]) as tracked:
            report = reconcile.info(replace(options.settings(module.params), tracked=tracked), local.ports())
    except PifleetError as error:
        module.fail_json(msg=str(error))
    answer.leave(module, report, may_fail=False, refresh=asdict(refresh.status(RefreshPlaces.below())))


if __name__ == "__main__":
    main()
