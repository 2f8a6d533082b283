# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shows a run as it goes on: what each host does or waits for, and in the end what changed and what failed."""

from __future__ import annotations

DOCUMENTATION = r"""
name: live
type: stdout
short_description: Show what each host does, and in the end what changed and what failed
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - On a terminal, the last lines show for each host how far it is, what it does now or what it waits for and why, and how long that takes
    beside the last run of the same playbook, as far as the ledger knows one (see M(pifleet.ops.run_record)). Above them scroll changes,
    failures, diffs and warnings as of P(ansible.builtin.default#callback); with C(-v) all results do.
  - Without a terminal, in CI (C(CI) is set), with C(NO_COLOR), with C(-vvv) and with C(--step) it is P(ansible.builtin.default#callback),
    line by line, with what follows.
  - In the end, after the recap, it says what was changed (with C(--check), what would be) and why, how long the run and its longest tasks
    took, and last what failed, whole, with its cause and what to do about it.
  - Where it cannot show something itself it says so and goes on as P(ansible.builtin.default#callback). It never hides a failure.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - C(stdout_callback = pifleet.ops.live) in C(ansible.cfg), as in that of the checkout, or C(ANSIBLE_STDOUT_CALLBACK=pifleet.ops.live)
"""

import atexit
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from ansible import constants, context
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.pifleet.ops.plugins.plugin_utils._live import screen, text
from ansible_collections.pifleet.ops.plugins.plugin_utils._live.outcome import Outcome
from ansible_collections.pifleet.ops.plugins.plugin_utils._live.progress import Progress

RECORDS = ("pifleet.ops.run_record", "run_record")
#: tasks that ask the person at the terminal
ASKS = ("pause", "ansible.builtin.pause", "ansible.legacy.pause")


def _beside(handler: Callable[..., None]) -> Callable[..., None]:
    """Do what *handler* does beside the default's own method of the same name, which is called whatever happens in it."""

    @wraps(handler)
    def both(self: CallbackModule, *args: Any, **kwargs: Any) -> None:
        if not self._broken:
            try:
                with self._lock:
                    handler(self, *args, **kwargs)
            except Exception as error:
                self._give_up(error)
        getattr(Default, handler.__name__)(self, *args, **kwargs)

    return both


class CallbackModule(Default):  # type: ignore[misc]
    """The default callback, with a view of the run on a terminal and a summary in the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "pifleet.ops.live"

    def __init__(self) -> None:
        super().__init__()
        # the one that Ansible's own threads write with: with another one the two could wait for each other
        self._lock: Any = getattr(self._display, "_lock", None) or threading.RLock()
        self._broken = False
        self._view = False
        self._screen: Any = None
        self._plays: list[str] = []
        self._began_task = 0.0
        self._step = ("", "")
        self._took: dict[tuple[str, str], float] = {}
        self._outcome = Outcome()
        self._progress = Progress("", time.monotonic(), ())

    def get_option(self, k: str, hostvars: Any = None) -> Any:
        if k in ("display_ok_hosts", "display_skipped_hosts") and self._quiet():
            return False
        return super().get_option(k, hostvars)

    @_beside
    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._outcome, self._took, self._step = Outcome(), {}, ("", "")
        plays = playbook.get_plays()
        self._plays = [play._uuid for play in plays]
        title = os.path.basename(playbook._file_name) + (" (check)" if context.CLIARGS.get("check") else "")
        self._progress = Progress(title, time.monotonic(), (), forks=context.CLIARGS.get("forks") or constants.DEFAULT_FORKS)
        if self._wants_view():
            self._progress.sizes = [_size_of(play) for play in plays]
            self._begin_view()

    @_beside
    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._end_step()
        wanted, batch = _hosts_of(play) if self._view else ([], [])
        number = self._plays.index(play._uuid) + 1 if play._uuid in self._plays else self._progress.number
        in_step = play.strategy.rpartition(".")[2] not in ("free", "host_pinned")
        self._progress.begin_play(play.get_name().strip(), number, wanted, batch, in_step=in_step)

    @_beside
    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        del is_conditional
        self._begin_task(task)

    @_beside
    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._begin_task(task)

    @_beside
    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._progress.start(host.name, task.get_name().strip(), time.monotonic(), _how(task))
        if self._screen and task.action in ASKS:
            self._screen.pause(paused=True)

    @_beside
    def v2_runner_on_ok(self, result: Any) -> None:
        self._ended(result)
        if result.task.action in RECORDS and isinstance(last := result.result.get("last_run"), dict):
            steps = {(one["play"], one["task"]): float(one["seconds"]) for one in last["steps"]}
            self._progress.expect(float(last["seconds"]), steps)
        if result.is_changed():
            self._outcome.change(result.host.name, _name(result), result.result, hidden=_hidden(result))

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if not self._quiet():
            super().v2_playbook_on_include(included_file)

    @_beside
    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        # Ansible takes a host that is rescued back into the play before it says this
        rescued = self._play is not None and result.host.name not in getattr(self._play, "_removed_hosts", ())
        kind = "ignored" if ignore_errors else "rescued" if rescued else "failed"
        self._ended(result, out="failed" if kind == "failed" else "")
        self._fail(result, kind)

    @_beside
    def v2_runner_on_unreachable(self, result: Any) -> None:
        ignored = bool(result.task.ignore_unreachable)
        self._ended(result, out="" if ignored else "unreachable")
        self._fail(result, "ignored" if ignored else "unreachable")

    @_beside
    def v2_runner_on_skipped(self, result: Any) -> None:
        self._ended(result)

    @_beside
    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._progress.item(result.host.name, self._label(result))

    @_beside
    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._progress.item(result.host.name, self._label(result))

    @_beside
    def v2_runner_item_on_skipped(self, result: Any) -> None:
        self._progress.item(result.host.name, self._label(result))

    @_beside
    def v2_runner_retry(self, result: Any) -> None:
        made, of = result.result.get("attempts", 0), result.result.get("retries", 0)
        self._progress.note(result.host.name, f"attempt {made + 1} of {of}" if of > 0 else f"attempt {made + 1}")

    @_beside
    def v2_playbook_on_no_hosts_remaining(self) -> None:
        self._progress.begin_task("", once=False)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._end_view()
        super().v2_playbook_on_stats(stats)
        if self._broken:
            return
        try:
            self._summary(stats)
        except Exception as error:
            self._give_up(error)

    def _quiet(self) -> bool:
        """Whether results without a change are in the view alone."""
        return self._view and not self._display.verbosity

    def _wants_view(self) -> bool:
        debugs = getattr(constants, "ENABLE_TASK_DEBUGGER", False)
        if not sys.stdout.isatty() or self._display.verbosity >= 3 or context.CLIARGS.get("step") or debugs:
            return False
        return screen.is_for_a_person(os.environ, tty=True) and not constants.ANSIBLE_NOCOLOR

    def _begin_view(self) -> None:
        if self._screen:
            self._screen.stop()
        self._view = True
        self._screen = screen.Screen(self._progress, self._lock)
        self._screen.start()
        # a run that is interrupted comes to no end of its own
        atexit.register(self._interrupted, self._screen)

    def _end_view(self) -> None:
        if self._screen:
            self._progress.close()
            self._screen.stop()
            if self._screen.broken:
                self._display.warning(f"The view of the run ended early: {self._screen.broken!r}")
            self._screen = None

    def _interrupted(self, drawn: Any) -> None:
        if drawn is not self._screen or os.getpid() != drawn.owner:
            return
        drawn.stop()
        now = time.monotonic()
        for row in self._progress.rows(now, 1000):
            if row.kind == "runs":
                self._display.display(f"interrupted: {row.host} : {row.text} {row.times}", color=constants.COLOR_ERROR)
        for line in text.failures(self._outcome.fatal):
            self._display.display(line, color=constants.COLOR_ERROR)

    def _give_up(self, error: Exception) -> None:
        """Go on as the default callback, and say so."""
        self._broken, self._view = True, False
        if self._screen:
            self._screen.stop()
            self._screen = None
        self._display.warning(
            f"pifleet.ops.live cannot show this run ({type(error).__name__}: {error}); it goes on as the default callback."
        )

    def _begin_task(self, task: Any) -> None:
        self._end_step()
        name = task.get_name().strip()
        self._step, self._began_task = (self._progress.play, name), time.monotonic()
        self._progress.begin_task(name, once=task.run_once is True)

    def _end_step(self) -> None:
        if self._step[1]:
            seconds = time.monotonic() - self._began_task
            self._took[self._step] = max(seconds, self._took.get(self._step, 0.0))
        self._step = ("", "")

    def _ended(self, result: Any, out: str = "") -> None:
        self._progress.end(result.host.name, changed=result.is_changed(), out=out)
        if self._screen and result.task.action in ASKS:
            self._screen.pause(paused=False)

    def _fail(self, result: Any, kind: str) -> None:
        where = str(result.task.get_path() or "")
        self._outcome.fail(result.host.name, _name(result), kind, result.result, where=_short(where), hidden=_hidden(result))

    def _label(self, result: Any) -> str:
        return "" if _hidden(result) else str(self._get_item_label(result.result) or "")

    def _summary(self, stats: Any) -> None:
        del stats
        self._end_step()
        width = shutil.get_terminal_size().columns
        changes = list(self._outcome.changes.values())
        if changes:
            self._display.banner("WOULD CHANGE" if context.CLIARGS.get("check") else "CHANGED")
            if self._view:
                self._display.display(screen.changes_table(changes, width))
            else:
                for line in text.changes(changes):
                    self._display.display(line)
        self._display.display("")
        for line in text.times(time.monotonic() - self._progress.began, self._progress.last_seconds, self._took, self._progress.last_steps):
            self._display.display(line)
        if self._outcome.survived:
            for line in text.survived(self._outcome.survived):
                self._display.display(line, color=constants.COLOR_WARN)
        if self._outcome.fatal:
            self._display.banner("FAILED")
            if self._view:
                self._display.display(screen.failures_table(self._outcome.fatal, width))
            else:
                for line in text.failures(self._outcome.fatal):
                    self._display.display(line, color=constants.COLOR_ERROR)


def _how(task: Any) -> str:
    """Return what is particular about how a host does a task."""
    place = task.delegate_to if isinstance(task.delegate_to, str) and "{{" not in task.delegate_to else ""
    return ", ".join(filter(None, [f"on {place}" if place else "", "in the background" if task.async_val else ""]))


def _name(result: Any) -> str:
    return str(result.task.get_name()).strip()


def _hidden(result: Any) -> bool:
    return bool(result.task.no_log) or "censored" in result.result


def _short(path: str) -> str:
    here = os.getcwd() + os.sep
    return path.removeprefix(here)


def _hosts_of(play: Any) -> tuple[list[str], list[str]]:
    """Return the hosts of a play, and those of the part of it that begins now: Ansible restricts its inventory to them."""
    inventory = play.get_variable_manager()._inventory
    batch = [host.name for host in inventory.get_hosts(play.hosts)]
    return [host.name for host in inventory.get_hosts(play.hosts, ignore_restrictions=True)] if play.serial else batch, batch


def _size_of(play: Any) -> int:
    """Return how many tasks a play has, without what it includes when it gets there."""
    blocks = [*play.pre_tasks, *play.tasks, *play.post_tasks]
    for role in play.roles:
        if not role.from_include:
            blocks += role.get_task_blocks()
    return sum(_tasks_of(block) for block in blocks) + bool(play.gather_facts)


def _tasks_of(block: Any) -> int:
    inside = getattr(block, "block", None)
    return 1 if inside is None else sum(_tasks_of(one) for one in inside)
