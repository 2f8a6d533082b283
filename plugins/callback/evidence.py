# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Completes the record of a run that the action run_record opened."""

from __future__ import annotations

DOCUMENTATION = r"""
name: evidence
type: notification
short_description: Complete the record of a run in the ledger
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - At the end of a playbook that opened a record with M(pifleet.ops.run_record), it fills in how many results of each kind every host
    had, and closes the record as failed where the playbook ended before it did so itself.
  - It never fails a run. What it cannot write is a warning.
requirements:
  - C(callbacks_enabled = pifleet.ops.evidence) in C(ansible.cfg), as in the one of the checkout
  - SQLAlchemy
"""

from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import UNREACHABLE

#: the second where a play says `collections: [pifleet.ops]`
ACTIONS = ("pifleet.ops.run_record", "run_record")


class CallbackModule(CallbackBase):
    """One for each ansible-playbook process, which may run several playbooks one after the other."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "pifleet.ops.evidence"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._run: tuple[str, str] | None = None

    def v2_playbook_on_start(self, playbook: Any) -> None:
        del playbook
        self._run = None

    def v2_runner_on_ok(self, result: Any) -> None:
        if self._run is None and result.task.action in ACTIONS:
            found = result.result
            if found.get("run_id") and "previous_interrupted" in found and not result.task.check_mode:
                self._run = (found["ledger"], found["run_id"])

    def v2_runner_on_unreachable(self, result: Any) -> None:
        UNREACHABLE.add(result.host.name)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._run is None:
            return
        # the action that opened the record has imported it already
        from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Counts, Runs
        from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

        path, run_id = self._run
        kinds = (stats.ok, stats.changed, stats.failures, stats.dark, stats.skipped, stats.rescued, stats.ignored)
        counts = {host: Counts(*(kind.get(host, 0) for kind in kinds)) for host in stats.processed}
        try:
            Runs(Store(Path(path))).finish(run_id, counts)
        except PifleetError as error:
            self._display.warning(f"The record of the run {run_id} is not complete: {error}")
