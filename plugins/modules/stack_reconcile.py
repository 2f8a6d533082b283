#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconciles the Compose stacks of a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_reconcile
short_description: Make the Compose stacks of a node what the desired state says
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Compares every stack of a folder with what runs on the node, in one call for all of them, and repairs what differs. Each difference
    has a reason. Nothing else is changed, and a stack without drift does not start Compose.
  - A stack is called synced only after its containers were seen running, and healthy, for a while.
  - Containers and Compose projects of others are never touched.
  - One bad stack stops no other. The module fails after it finished the others, and still returns all of RV(stacks).
options:
  recorded:
    description:
      - Ids of what the timer's runs did by themselves and is evidence by now (RV(pifleet.ops.run_record#module:recorded)). The node forgets
        them; in check mode it does not.
    type: list
    elements: str
    default: []
extends_documentation_fragment: [pifleet.ops.stacks]
seealso:
  - module: pifleet.ops.stack_info
  - module: pifleet.ops.stack_acknowledge
"""

EXAMPLES = r"""
- name: Reconcile the stacks of this node
  pifleet.ops.stack_reconcile:
    path: /var/lib/pifleet/desired-state/stacks
    revision: 5f0c2a7d9e1b4c3a8f6e2d1c0b9a8f7e6d5c4b3a
    commit_message: "web: 1.4.2"
    node_role: workers

- name: Report drift and repair nothing
  pifleet.ops.stack_reconcile:
    path: /var/lib/pifleet/desired-state/stacks
    policy: detect
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
diff:
  description: What is or would be done to each stack that changes, and the drift behind it. Without values of variables.
  type: dict
  returned: with C(--diff)
  contains:
    prepared:
      description: The text.
      type: str
warnings:
  description: What should be known and stopped nothing.
  type: list
  elements: str
  returned: when there are any
"""

from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import in_force
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import answer, local, options, reconcile


def forget(module):
    """Forget what is evidence by now. A converged node has nothing of that, and loads nothing for it."""
    if module.params["recorded"] and not module.check_mode:
        from ansible_collections.pifleet.ops.plugins.module_utils._stacks import unattended_log

        unattended_log.forget(module.params["state_dir"], module.params["recorded"])


def main():
    recorded = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(argument_spec={**options.OPTIONS, "recorded": recorded}, supports_check_mode=True)
    try:
        forget(module)
        with in_force.desired_state(module.params["path"]) as tracked:
            settings = replace(options.settings(module.params), tracked=tracked)
            report = reconcile.reconcile(settings, local.ports(), check=module.check_mode)
    except PifleetError as error:
        module.fail_json(msg=str(error))
    answer.leave(module, report)


if __name__ == "__main__":
    main()
