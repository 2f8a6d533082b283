# SPDX-License-Identifier: GPL-3.0-or-later
"""Callback for tests: writes one JSON line for each task result of a host, as Ansible itself saw it."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: record_tasks
type: notification
short_description: Write task results as JSON lines
description: Writes task results to the file named by the environment variable PIFLEET_TEST_RECORD.
"""


class CallbackModule(CallbackBase):
    """Records every result."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "record_tasks"
    CALLBACK_NEEDS_ENABLED = True

    def _write(self, result: Any, outcome: str) -> None:
        values = result.result
        line = {
            "host": result.host.get_name(),
            "task": result.task.get_name(),
            "outcome": outcome,
            "changed": bool(values.get("changed")) and outcome == "ok",
            "msg": str(values.get("msg", "")),
        } | {k: values[k] for k in ("state", "hint", "evidence", "plan", "skipped") if k in values and k != "skipped"}
        with open(os.environ["PIFLEET_TEST_RECORD"], "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, default=str) + "\n")

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write(result, "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._write(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._write(result, "unreachable")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._write(result, "skipped")
