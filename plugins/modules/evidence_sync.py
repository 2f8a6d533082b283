#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation and argument spec; the work is done by the action plugin of the same name, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence_sync
short_description: Send the fleet's evidence to its hub
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Sends what is in the ledger to the hub that C(evidence.yml) of the fleet's folder names, or says how that stands.
  - Before anything is queued or sent, the sync boundary is checked without using the network. Where it is not clean (a sync service of
    another version, identity or ledger; a service that died; rows from before the fleet had an identity; no token that the hub would
    take), it is refused, nothing is changed, and the command is named that mends it. Playbooks that change the fleet go on then, and
    their evidence waits in the ledger.
  - Runs on the controller, without a connection to the task's host. The playbook C(pifleet.ops.sync) is the usual way to it.
options:
  mode:
    description:
      - V(now) takes over legacy rows, queues what is in the ledger, and sends it.
      - V(status) shows identity, sync service, queues, delivery and orphans. It changes nothing and does not ask the hub.
      - V(compare) compares the ledger with the hub, record by record, and fails where one is lost, different or of unknown origin.
      - V(token) puts the token in O(token_from) where C(token_file) of C(evidence.yml) says.
      - V(retry) lets dead letters be sent again.
      - V(adopt) takes over rows that wait for another hub under the same owner and fleet, after C(hub_url) has changed; V(now) sends them.
      - V(stop) ends the fleet's sync services and removes the records of those that died.
    type: str
    default: now
    choices: [now, status, compare, token, retry, adopt, stop]
  check:
    description: With O(mode=status), fail where the sync boundary is not clean.
    type: bool
    default: false
  migrate:
    description: With O(mode=now), take over legacy rows first. Where V(false), such rows are a refusal.
    type: bool
    default: true
  output:
    description: What is shown. V(json) is one line with RV(status), for programs; V(none) is nothing.
    type: str
    default: text
    choices: [text, json, none]
  token_from:
    description: With O(mode=token), a file with a token that C(token add) of the hub has printed.
    type: path
attributes:
  check_mode:
    description: With O(mode=now) as O(mode=status) with O(check=true); the others do nothing.
    support: full
  diff_mode:
    description: Shows no diff.
    support: none
seealso:
  - module: pifleet.ops.run_record
"""

EXAMPLES = r"""
- name: Send what there is
  hosts: all
  gather_facts: false
  tasks:
    - name: Send the fleet's evidence to its hub
      pifleet.ops.evidence_sync:
      run_once: true

- name: Show how it stands
  hosts: all
  gather_facts: false
  tasks:
    - name: Look at the sync boundary, and fail where it is not clean
      pifleet.ops.evidence_sync:
        mode: status
        check: true
      run_once: true
"""

RETURN = r"""
queued:
  description: How many C(events) and C(bodies) were queued, and how many bodies the ledger lacks (C(missing)).
  type: dict
  returned: O(mode=now), unless refused
delivered:
  description: How many C(events) and C(bodies) the hub took, how many rows it C(rejected), and what ended it early (C(error)).
  type: dict
  returned: O(mode=now), unless refused
migrated:
  description: How many rows were C(taken) over and C(quarantined), by table. Null where there were no legacy rows.
  type: dict
  returned: O(mode=now) and O(mode=adopt), unless refused
exit_code:
  description: V(2) where the sync boundary is not clean, else V(0).
  type: int
  returned: O(mode=status), and where it is refused
status:
  description: The sync boundary.
  type: dict
  returned: O(mode=status), unless it fails
  contains:
    ok:
      description: Whether evidence may be queued and sent.
      type: bool
    mismatches:
      description: In what the running service differs.
      type: list
      elements: dict
    orphan_records:
      description: Services that died, or that run for nobody.
      type: list
      elements: dict
    legacy_event_rows:
      description: Events of the legacy queue.
      type: int
    legacy_body_upload_rows:
      description: Bodies of the legacy queue.
      type: int
    legacy_rows_for_scope:
      description: Rows of both that this identity would take over.
      type: int
    auth_present:
      description: Whether there is a token that the hub may take.
      type: bool
    auth_required:
      description: Whether one is needed.
      type: bool
    exit_code:
      description: V(0) or V(2).
      type: int
    foreground:
      description: Who asks.
      type: dict
    daemon_owner_record:
      description: The sync service that owns the outbox; C(status) is V(present), V(absent) or V(orphan).
      type: dict
    active_queue:
      description: Path and depths of the outbox.
      type: dict
    legacy_queue:
      description: Path and depths of the legacy queue, with C(rows_in_scope).
      type: dict
    stranded_queues:
      description: What waits for other identities (C(scope), C(event_count), C(body_upload_count)), which no sync of this one sends.
      type: list
      elements: dict
    delivery:
      description: How the delivery went last.
      type: dict
    token:
      description: State of the token.
      type: dict
service:
  description: How the sync service is run.
  type: dict
  returned: O(mode=status), unless it fails
  contains:
    argv:
      description: Its command.
      type: list
      elements: str
    python_path:
      description: What it needs as C(PYTHONPATH).
      type: str
    source_path:
      description: Folder of the collection.
      type: str
comparison:
  description: >-
    Counts of records that are C(equal), C(waiting), C(stranded), C(missing), C(different) or C(extra), and the first that should not be.
  type: dict
  returned: O(mode=compare)
token_file:
  description: Where the token stands now.
  type: str
  returned: O(mode=token), but in check mode
revived:
  description: How many dead letters are sent again.
  type: int
  returned: O(mode=retry)
stopped:
  description: What was ended and removed.
  type: list
  elements: str
  returned: O(mode=stop)
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "mode": {"type": "str", "default": "now", "choices": ["now", "status", "compare", "token", "retry", "adopt", "stop"]},
    "check": {"type": "bool", "default": False},
    "migrate": {"type": "bool", "default": True},
    "output": {"type": "str", "default": "text", "choices": ["text", "json", "none"]},
    "token_from": {"type": "path"},
}
REQUIRED_IF = [("mode", "token", ("token_from",))]


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    module.fail_json(msg="pifleet.ops.evidence_sync runs on the controller, as the action of that name; it cannot run as a module.")


if __name__ == "__main__":
    main()
