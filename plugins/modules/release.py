#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Take a release through its phases
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Plans a release of an environment of C(releases.yml), records it in the controller's ledger, and takes it through its phases
    C(build), C(push), C(migrate_pre), C(rollout), C(migrate_post), C(finalize), each recorded before and after it. C(build) and C(push)
    are done here; what the others do on nodes is M(pifleet.ops.release_host)'s.
  - A phase that fails ends the release, and every later phase is skipped.
  - Needs an open run (M(pifleet.ops.run_record)). Runs on the controller, without a connection to the task's host.
options:
  do:
    description:
      - V(plan) returns what would be done, and changes nothing. V(create) records the release, or resumes one. V(build) and V(push) run
        that phase. V(begin) records that O(phase) begins, V(record) what its hosts returned.
    type: str
    required: true
    choices: [plan, create, build, push, begin, record]
  kind:
    description: A version is deployed, or an earlier release brought back.
    type: str
    choices: [deploy, rollback]
    default: deploy
  environment:
    description: The environment.
    type: str
  version:
    description: What is to be deployed, a tag or commit that is checked out. By default it is found by itself.
    type: str
  rebuild:
    description: Whether images are built that are known from an earlier release.
    type: bool
    default: false
  unattended:
    description: Nobody asks for this deploy. A version that is live already, or that was rolled back, is left alone.
    type: bool
    default: false
  resume:
    description: Id of a release to go on with.
    type: str
  to_release:
    description: Id of the release that a rollback goes to.
    type: str
  to_version:
    description: Version that a rollback goes to.
    type: str
  to_previous:
    description: A rollback goes to the release before. That is the default too.
    type: bool
    default: false
  accept_irreversible:
    description: Whether a rollback may cross migrations that are not marked reversible.
    type: bool
    default: false
  digest:
    description: RV(digest) of the plan that is to be recorded. Needed with O(do=create) of a release that is not resumed.
    type: str
  release_id:
    description: The release.
    type: str
  phase:
    description: The phase.
    type: str
    choices: [migrate_pre, rollout, migrate_post, finalize]
  results:
    description: What M(pifleet.ops.release_host) returned, by host.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Plans, and does nothing else.
    support: full
  diff_mode:
    description: The plan says what would be done.
    support: none
seealso:
  - module: pifleet.ops.release_host
  - module: pifleet.ops.release_info
"""

EXAMPLES = r"""
- name: Plan the release
  pifleet.ops.release:
    do: plan
    environment: prod
  run_once: true
  register: release_plan

- name: Record it
  pifleet.ops.release:
    do: create
    environment: prod
    digest: "{{ release_plan.digest }}"
  run_once: true
  register: release
"""

RETURN = r"""
plan:
  description: The plan.
  type: dict
  returned: with O(do=plan)
digest:
  description: SHA-256 of the plan.
  type: str
  returned: with O(do=plan)
nothing:
  description: Why there is nothing to do. Empty where there is.
  type: str
  returned: with O(do=plan)
to_do:
  description: Whether the release is to be recorded and carried out. False in check mode.
  type: bool
  returned: with O(do=plan)
hosts:
  description: All hosts of the release, in the order in which they get it.
  type: list
  elements: str
  returned: with O(do=plan)
wanted_images:
  description: References that have to be on each host before a rollback, by host.
  type: dict
  returned: with O(do=plan)
lines:
  description: The plan, or the release, as text.
  type: list
  elements: str
  returned: success
release_id:
  description: Id of the release.
  type: str
  returned: with all but O(do=plan)
status:
  description: V(pending), V(running), V(completed) or V(failed).
  type: str
  returned: with all but O(do=plan)
phases:
  description: Status by phase.
  type: dict
  returned: with all but O(do=plan)
batches:
  description: Hosts that do not have the version yet, batch by batch.
  type: list
  elements: list
  returned: with all but O(do=plan)
pre_hosts:
  description: Hosts on which migrations before the rollout are still to run.
  type: list
  elements: str
  returned: with all but O(do=plan)
post_hosts:
  description: Hosts on which migrations after the rollout are still to run.
  type: list
  elements: str
  returned: with all but O(do=plan)
ledger:
  description: Where the ledger is.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "do": {"type": "str", "required": True, "choices": ["plan", "create", "build", "push", "begin", "record"]},
    "kind": {"type": "str", "choices": ["deploy", "rollback"], "default": "deploy"},
    "environment": {"type": "str"},
    "version": {"type": "str"},
    "rebuild": {"type": "bool", "default": False},
    "unattended": {"type": "bool", "default": False},
    "resume": {"type": "str"},
    "to_release": {"type": "str"},
    "to_version": {"type": "str"},
    "to_previous": {"type": "bool", "default": False},
    "accept_irreversible": {"type": "bool", "default": False},
    "digest": {"type": "str"},
    "release_id": {"type": "str"},
    "phase": {"type": "str", "choices": ["migrate_pre", "rollout", "migrate_post", "finalize"]},
    "results": {"type": "dict", "default": {}},
}
REQUIRED_IF = [
    ("do", "build", ("release_id",)),
    ("do", "push", ("release_id",)),
    ("do", "begin", ("release_id", "phase")),
    ("do", "record", ("release_id", "phase")),
]


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    module.fail_json(msg="This is done on the controller, by the action plugin of the same name; it was not found.")


if __name__ == "__main__":
    main()
