# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Counts what a run does, for the record that the action run_record opened."""

from __future__ import annotations

DOCUMENTATION = r"""
name: evidence
type: notification
short_description: Complete the record of a run in the ledger
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - Counts the results of each kind every host has, and notes when plays began, how long the longer tasks took, and which tasks changed or
    failed, by their names alone. Nothing of a result itself is taken, and of tasks with C(no_log) not even the name.
  - The closing M(pifleet.ops.run_record) puts it into the ledger, and fails where it is missing. A run that ends before that is closed as
    failed by the callback itself; what it cannot write then is a warning, and the next run reports it.
requirements:
  - C(callbacks_enabled = pifleet.ops.evidence) in C(ansible.cfg), as in the one of the checkout
  - SQLAlchemy
"""

import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import recording

#: the second where a play says `collections: [pifleet.ops]`
ACTIONS = ("pifleet.ops.run_record", "run_record")
META = ("meta", "ansible.builtin.meta", "ansible.legacy.meta")
#: Ansible counts these once it has loaded what they include, not by their result
INCLUDES = ("include_tasks", "include_role")
#: what a playbook says by set_stats where it did not fail and its exit code is to be another one than 0
EXIT_CODE = "pifleet_exit_code"


def _recorded(handler: Callable[..., None]) -> Callable[..., None]:
    """Measure what *handler* takes, and let the closing gate know when it fails: Ansible only warns."""

    @wraps(handler)
    def measured(self: CallbackModule, *args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        try:
            handler(self, *args, **kwargs)
        except Exception as error:
            self.recording.broken = f"{handler.__name__} ({type(error).__name__})"
            raise
        finally:
            self.recording.seconds += time.perf_counter() - began

    return measured


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """One for each ansible-playbook process, which may run several playbooks one after the other."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "pifleet.ops.evidence"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.recording = recording.begin()
        self._opened: dict[str, Any] = {}
        self._play: Any = None
        self._waiting = ""
        #: which no host has begun yet
        self._task: Any = None

    def v2_playbook_on_start(self, playbook: Any) -> None:
        del playbook
        self.recording = recording.begin()
        self._opened = {}

    @_recorded
    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._play = play
        self._waiting = play.get_name() or "play"

    @_recorded
    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        del is_conditional
        self._task = task

    @_recorded
    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._task = task

    @_recorded
    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        del host, task
        self.recording.started += 1
        if self._waiting:
            self.recording.step("")
            self.recording.play(self._waiting)
            self._waiting = ""
        if self._task is not None:
            self.recording.step("" if self._task.no_log else self._task.get_name())
            self._task = None

    @_recorded
    def v2_runner_on_ok(self, result: Any) -> None:
        self.recording.ended += 1
        action = result.task.action
        if action.rpartition(".")[2] not in INCLUDES:
            self._count(result, "ok")
        if action in ACTIONS and not self.recording.run_id:
            found = result.result
            if found.get("run_id") and "previous_interrupted" in found:
                self.recording.run_id = found["run_id"]
                self._opened = {} if result.task.check_mode else found

    @_recorded
    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self.recording.ended += 1
        if ignore_errors:
            self._count(result, "ok", "ignored")
            return
        # Ansible takes a host that is rescued back into the play before it says this
        rescued = result.host.name not in getattr(self._play, "_removed_hosts", ())
        self._count(result, "rescued" if rescued else "failed", changed=False)
        if not result.task.no_log:
            self.recording.name(self.recording.failures, result.host.name, result.task.get_name())

    @_recorded
    def v2_runner_on_unreachable(self, result: Any) -> None:
        self.recording.ended += 1
        self.recording.unreachable.add(result.host.name)
        ignored = getattr(result.task, "ignore_unreachable", False)
        self.recording.count(result.host.name, *(("ok", "ignored") if ignored else ("unreachable",)))

    @_recorded
    def v2_runner_on_skipped(self, result: Any) -> None:
        if result.task.action not in META:
            self.recording.ended += 1
            self.recording.count(result.host.name, "skipped")

    @_recorded
    def v2_playbook_on_include(self, included_file: Any) -> None:
        for host in included_file._hosts:
            self.recording.count(host.name, "ok")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._opened:
            self._finish(stats)
        said = (stats.custom or {}).get("_run", {}).get(EXIT_CODE)
        if said and not stats.failures and not stats.dark:
            raise SystemExit(int(said))

    def _finish(self, stats: Any) -> None:
        # the action that opened the record has imported it already
        from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root
        from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity
        from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.ledgers import ledger_of
        from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Runs
        from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.statements import Statements

        run_id, root = self._opened["run_id"], Path(self._opened["fleet_root"])
        kinds = (stats.ok, stats.changed, stats.failures, stats.dark, stats.skipped, stats.rescued, stats.ignored)
        counts = {host: recording.Counts(*(kind.get(host, 0) for kind in kinds)) for host in stats.processed}
        try:
            store = ledger_of(identity.load(root))
            Runs(store).finish(run_id, counts, self.recording)
            Statements(store, _fleet_root.state_dir(root), self._opened["gnupg_key"]).sign(run_id)
        except PifleetError as error:
            self._display.warning(f"The record of the run {run_id} is not complete: {error}")
        self._queue(root)

    def _queue(self, root: Path) -> None:
        """Queue what was recorded after the closing action, or instead of it. Where that is refused, a later run does it."""
        from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import gate

        try:
            gate.queue_evidence(root)
        except PifleetError as error:
            self._display.warning(f"The evidence of this run stays in the ledger: {error}")

    def _count(self, result: Any, *kinds: str, changed: bool = True) -> None:
        changed = changed and result.is_changed()
        self.recording.count(result.host.name, *kinds, *(("changed",) if changed else ()))
        if changed and not result.task.no_log:
            self.recording.name(self.recording.changes, result.host.name, result.task.get_name())
