#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run_record
short_description: Record a run in the controller's ledger
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - The first play of a playbook opens the run's record, the last one closes it. Runs of a process that was killed in between
    are reported, and marked as interrupted, when the next one is opened.
  - The ledger is C(.pifleet/ledger.db) of the fleet's folder, which is the checkout that the playbook is in, else (playbooks of
    an installed collection) the current directory; the variable C(fleet_root) overrides both.
  - Who ran it is the login user of the controller as the kernel knows it. It cannot be given.
  - Runs on the controller, without a connection to the task's host. Use it with C(hosts=all), C(run_once) and without
    fact gathering, so that it also runs under C(--limit).
  - The callback P(pifleet.ops.evidence#callback) counts what every host did, and closes a run that failed on all hosts. The
    C(ansible.cfg) of the checkout enables it. Closing fails where it did not record the run.
  - Every step is an event in the ledger's chain (see M(pifleet.ops.evidence_verify)). Closing adds a signed statement about the
    end of the chain, with the controller's own key C(.pifleet/keys/evidence.pem), which is made when it is first needed, or with the
    GnuPG key of the variable C(evidence_gnupg_key), a fingerprint. A key that cannot sign, or has expired, is refused at the opening.
  - The key C(ledger_url) of C(evidence.yml) in the fleet's folder names a ledger in PostgreSQL, such as
    C(postgresql://user@host/database), that several controllers share. A variable of that name in the inventory is refused where it says
    something else, because sync does not see it.
options:
  state:
    description:
      - V(opened) begins the record.
      - V(noted) keeps O(artifact), O(unattended) or both with the open run. Outside of an open run it warns and keeps nothing.
      - V(closed) ends the record with an outcome for every host. Fails where no record was opened, and where the callback did not
        record the run.
    type: str
    required: true
    choices: [opened, noted, closed]
  artifact:
    description: What to keep. What looks like a secret is masked before.
    type: dict
    suboptions:
      name:
        description: Name for people.
        type: str
        required: true
      media_type:
        description: Media type.
        type: str
        default: text/plain
      content:
        description: The text. Equal texts are stored once.
        type: str
        required: true
  stacks:
    description:
      - What M(pifleet.ops.stack_reconcile) or M(pifleet.ops.stack_acknowledge) returned, by host. Each stack that was changed, or is not as
        desired, becomes an event C(stack.)I(status) (C(stack.removed) of one that was taken away), which names O(artifact) as its body.
      - What looks like a secret is masked before.
    type: dict
  unattended:
    description:
      - What nodes did by themselves, as M(pifleet.ops.stack_host) returned it, by host. Each attempt becomes an event C(stack.)I(status)
        with the attempt's own times, once for ever. RV(recorded) is what the node may forget then.
      - What looks like a secret is masked before.
    type: dict
  anchor:
    description:
      - With O(state=closed), write the end of the chain down outside of the ledger too, where a rewritten ledger does not reach,
        on the task's host (M(pifleet.ops.evidence_anchor), which needs C(become)), and, where the fleet's folder is in git, under the
        ref C(refs/pifleet/evidence). What cannot be written is a warning.
    type: bool
    default: false
  anchor_path:
    description: Folder on the task's host where the end of the chain is written down.
    type: path
    default: /var/lib/pifleet/evidence
attributes:
  check_mode:
    description: Records that a check ran, and nothing else.
    support: full
  diff_mode:
    description: Shows no diff. A record is no change of the fleet, so it never reports one.
    support: none
seealso:
  - plugin: pifleet.ops.evidence
    plugin_type: callback
"""

EXAMPLES = r"""
- name: Open the record
  hosts: all
  gather_facts: false
  tags: [always]
  tasks:
    - name: Open the run's record in the ledger
      pifleet.ops.run_record:
        state: opened
      run_once: true

- name: Close the record
  hosts: all
  gather_facts: false
  tags: [always]
  tasks:
    - name: Close the run's record in the ledger
      pifleet.ops.run_record:
        state: closed
      run_once: true
"""

RETURN = r"""
run_id:
  description: Id of the run; ids sort by time. Null where nothing is recorded.
  type: str
  returned: success
  sample: 20250102T030405.678Z-9f86d081
ledger:
  description: Path of the ledger.
  type: str
  returned: success
previous_interrupted:
  description: Earlier runs that never ended.
  type: list
  elements: dict
  returned: O(state=opened)
  contains:
    run_id:
      description: Id of the run.
      type: str
    playbook:
      description: Its playbook.
      type: str
    requester:
      description: Who ran it.
      type: str
    started_at:
      description: When it began, UTC.
      type: str
fleet_root:
  description: The fleet's folder.
  type: str
  returned: O(state=opened)
gnupg_key:
  description: Fingerprint of the GnuPG key that signs. Null where the controller's own key does.
  type: str
  returned: O(state=opened)
last_run:
  description: How long the newest run of the same playbook took that succeeded, with the same hosts, tags and inventory. Null without one.
  type: dict
  returned: O(state=opened)
  contains:
    run_id:
      description: Id of that run.
      type: str
    seconds:
      description: How long it took.
      type: float
    steps:
      description: Its tasks that took a second or more, each with C(play), C(task) and C(seconds). Those with C(no_log) are not among them.
      type: list
      elements: dict
head:
  description: End of the chain after closing.
  type: dict
  returned: O(state=closed), but in check mode
  contains:
    chain:
      description: Id of the chain.
      type: str
    seq:
      description: Number of its last event.
      type: int
    sha256:
      description: Hash of that event.
      type: str
rebuilds:
  description: Rebuilds of nodes that neither succeeded nor were abandoned (see M(pifleet.ops.rebuild_record)), by host.
  type: dict
  returned: O(state=opened)
  contains:
    rebuild_id:
      description: Id of the rebuild.
      type: str
    node:
      description: The node's name in the cluster's API.
      type: str
    status:
      description: V(failed) or V(interrupted); V(running) where another run is at it.
      type: str
    reasons:
      description: Why the node had to be rebuilt.
      type: list
      elements: str
    last_step:
      description: The step that its last attempt came to.
      type: str
    run_id:
      description: The run of its last attempt.
      type: str
    began_at:
      description: When that attempt began, UTC.
      type: str
status:
  description: How the run ended, V(succeeded) or V(failed).
  type: str
  returned: O(state=closed), but in check mode
hosts:
  description: Outcome by host, V(ok), V(failed) or V(unreachable).
  type: dict
  returned: O(state=closed), but in check mode
sha256:
  description: Checksum of the artifact as it was kept. Null where nothing was kept.
  type: str
  returned: O(state=noted)
recorded:
  description: Ids of the attempts of O(unattended) that are in the ledger now, by host. M(pifleet.ops.stack_reconcile) takes them.
  type: dict
  returned: O(state=noted)
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "state": {"type": "str", "required": True, "choices": ["opened", "noted", "closed"]},
    "artifact": {
        "type": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "media_type": {"type": "str", "default": "text/plain"},
            "content": {"type": "str", "required": True},
        },
    },
    "stacks": {"type": "dict"},
    "unattended": {"type": "dict"},
    "anchor": {"type": "bool", "default": False},
    "anchor_path": {"type": "path", "default": "/var/lib/pifleet/evidence"},
}
REQUIRED_IF = [("state", "noted", ("artifact", "unattended"), True)]


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.run_record runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
