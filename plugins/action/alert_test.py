# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: runs the module of the same name where Alertmanager is reached, and records how it went."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Any

from ansible_collections.pifleet.ops.plugins.action.run_record import MISSING, LedgerAction
from ansible_collections.pifleet.ops.plugins.modules.alert_test import ARGUMENTS
from ansible_collections.pifleet.ops.plugins.plugin_utils import _alert_test

if not MISSING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.alert_tests import AlertTests, due


class ActionModule(LedgerAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENTS
    own = ("ways", "test_id")

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        self.use_ledger()
        tests = AlertTests(self._store)
        ways = _alert_test.ways_of(params["config"])
        if params["state"] == "due" or self._task.check_mode:
            known = due(self._store)
            would = [f"Would fire an alert of severity {params['severity']} and resolve it; nothing was sent."]
            lines = [*(would if params["state"] == "tested" else []), *map(_alert_test.line, known)]
            return {"due": [asdict(one) for one in known], "lines": lines}
        return self._test(params, tests, ways)

    def _test(self, params: dict[str, Any], tests: AlertTests, ways: dict[str, dict[str, Any]]) -> dict[str, Any]:
        arguments = {**params, "config": {}, "ways": ways, "test_id": secrets.token_hex(6)}
        tests.refuse_without_run(self._process)
        answer: dict[str, Any] = self._execute_module(module_name="pifleet.ops.alert_test", module_args=arguments, task_vars=self.task_vars)
        if "test" not in answer:
            return answer
        found = answer["test"]
        where = str(self._task.delegate_to or self.task_vars["inventory_hostname"])
        report = _alert_test.to_markdown(found, where)
        tests.record(self._process, {**found, "host": where}, report.encode())
        known = [asdict(one) for one in due(self._store)]
        result = {"test": found, "report": report, "due": known, "lines": _alert_test.told(found)}
        if found["error"]:
            result.update(failed=True, msg=f"The test of {params['severity']} alerts failed. {found['error']}")
        return result
