#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fires a synthetic alert on the node that reaches Alertmanager; the action of the same name records it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: alert_test
short_description: Fire a synthetic alert and see it routed, delivered and resolved
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Gives Alertmanager an alert of a severity, waits until it was routed and every receiver of that route took the message, resolves it, and
    waits until those that are told of the end took that too.
  - That a receiver took a message is what Alertmanager counts of requests to it that succeeded.
  - How it went is an event C(alert.tested) in the controller's ledger, with the filled-in C(docs/governance/alert-test-template.md) as
    body, also where it failed. By these events a test is due 30 days after the last one that passed.
  - An alert of a test that was cut off ends by itself after 15 minutes.
options:
  state:
    description: V(due) only says by the ledger when the severity was tested last. No connection is made.
    type: str
    choices: [tested, due]
    default: tested
  severity:
    description: Severity of the alert.
    type: str
    choices: [critical, warning]
    default: critical
  config:
    description: The configuration of Alertmanager, for the times and receivers of its routes.
    type: dict
    default: {}
  runbook:
    description: Link to the runbook that the alert carries.
    type: str
    default: docs/runbooks/observability.md#pifleetalerttest
  address:
    description: Where Alertmanager is, seen from the task's host.
    type: str
    default: http://127.0.0.1:9093
  service:
    description: Reach it through the API of the cluster instead, as this C(NAMESPACE/SERVICE:PORT).
    type: str
    default: ""
  ways:
    description: Receivers with their times. Set by the action, never by a playbook.
    type: dict
  test_id:
    description: Name of the test. Set by the action, never by a playbook.
    type: str
attributes:
  check_mode:
    description: Sends nothing, and says what it would do and when it was done last.
    support: full
  diff_mode:
    description: Changes nothing that stays.
    support: none
"""

EXAMPLES = r"""
- name: Test the route of critical alerts
  pifleet.ops.alert_test:
    config: "{{ (lookup('ansible.builtin.file', 'alertmanager-config.yaml') | from_yaml).alertmanager.config }}"
  delegate_to: "{{ groups.control_plane | first }}"
  run_once: true
"""

RETURN = r"""
test:
  description: How it went, with C(test_id), C(severity), C(runbook), C(fired_at), C(routed_at), C(delivered_at), C(resolved_at),
    C(receivers), C(seconds) from fired to delivered, and C(error). Times are UTC.
  type: dict
  returned: with O(state=tested), but in check mode
due:
  description: When each severity was tested last with success (C(last), null for never), and whether that is too long ago (C(overdue)).
  type: list
  elements: dict
  returned: success
report:
  description: The filled-in template.
  type: str
  returned: with O(state=tested), but in check mode
lines:
  description: What was, or would be, done, for people.
  type: list
  elements: str
  returned: success
"""

import time
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.api import local_api
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import SERVER_KUBECONFIG
from ansible_collections.pifleet.ops.plugins.module_utils._observability.alert_test import AlertTest, Way

ARGUMENTS = {
    "state": {"type": "str", "choices": ["tested", "due"], "default": "tested"},
    "severity": {"type": "str", "choices": ["critical", "warning"], "default": "critical"},
    "config": {"type": "dict", "default": {}},
    "runbook": {"type": "str", "default": "docs/runbooks/observability.md#pifleetalerttest"},
    "address": {"type": "str", "default": "http://127.0.0.1:9093"},
    "service": {"type": "str", "default": ""},
    "ways": {"type": "dict"},
    "test_id": {"type": "str"},
}


def over_http(address):
    """Return how Alertmanager is asked at *address*."""
    import urllib.error
    import urllib.request

    def call(method, path, body):
        request = urllib.request.Request(  # noqa: S310 - of the role
            address.rstrip("/") + path, body.encode() or None, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            raise PifleetError(f"Alertmanager refuses {path}: {error.code} {error.read(200).decode(errors='replace').strip()}.") from error
        except (OSError, ValueError) as error:
            hint = "Is observability set up (playbooks/observability.yml), and does it run?"
            raise PifleetError(f"Alertmanager does not answer at {address}: {getattr(error, 'reason', error)}.", hint) from error

    return call


def over_kubernetes(service):
    """Return how it is asked through the API: https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/"""
    namespace, _slash, name = service.partition("/")
    base = f"/api/v1/namespaces/{namespace}/services/{name}/proxy"

    def call(method, path, body):
        hint = "Is observability set up (playbooks/observability.yml), and does the cluster answer?"
        if method == "GET":
            return argv.check(argv.run(["k3s", "kubectl", "get", "--raw", base + path], timeout=30), hint).stdout
        # `kubectl create --raw` does not say that it sends JSON, which Alertmanager refuses
        api = local_api(SERVER_KUBECONFIG)
        answer = api.ask(method, base + path, body) if api else None
        if answer is None:
            raise PifleetError(f"Alertmanager does not take {path} through the API of this server.", hint)
        return answer

    return call


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    params = module.params
    if module.check_mode or params["state"] == "due" or not params["test_id"]:
        module.fail_json(msg="The action of this name does that, on the controller.")
    ways = {
        name: Way(tuple(one["integrations"]), one["resolved"], one["wait"], one["interval"]) for name, one in (params["ways"] or {}).items()
    }
    call = over_kubernetes(params["service"]) if params["service"] else over_http(params["address"])
    found = AlertTest(call, time, ways).run(params["test_id"], params["severity"], params["runbook"])
    module.exit_json(changed=False, test=asdict(found))


if __name__ == "__main__":
    main()
