# SPDX-License-Identifier: GPL-3.0-or-later
"""What the callback knows of the run that goes on: counted in the process of ansible-playbook, read by the tasks that it forks.

No library, and nothing of Ansible but attributes of what it hands over: the callback is called for every result.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

#: as in Ansible's recap
KINDS = ("ok", "changed", "failed", "unreachable", "skipped", "rescued", "ignored")
#: changes and failures that are named; the rest is counted only
NAMED = 2000
#: seconds from which on it is kept how long a task took, and how many of those
LONG = 1.0
STEPS = 200


@dataclass(frozen=True, slots=True)
class Counts:
    """How many task results of each kind a host had."""

    ok: int = 0
    changed: int = 0
    failed: int = 0
    unreachable: int = 0
    skipped: int = 0
    rescued: int = 0
    ignored: int = 0

    @property
    def outcome(self) -> str:
        if self.unreachable:
            return "unreachable"
        if self.failed:
            return "failed"
        return "ok" if any((self.ok, self.changed, self.skipped, self.rescued, self.ignored)) else "not_run"


@dataclass(slots=True)
class Play:
    """A play that did something. *began* is of ``time.monotonic``; *seconds* None while it goes on."""

    name: str
    started_at: str
    began: float
    seconds: float | None = None


@dataclass(slots=True)
class Recording:
    """One run. *run_id* is empty until the action that opens the record returned; *broken* says how the callback failed, if it did."""

    run_id: str = ""
    hosts: dict[str, dict[str, int]] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)
    plays: list[Play] = field(default_factory=list)
    changes: list[dict[str, str]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    started: int = 0
    ended: int = 0
    seconds: float = 0.0
    broken: str = ""
    #: the longer tasks, all hosts together: (play, task) and the longest that it took
    steps: dict[tuple[str, str], float] = field(default_factory=dict)
    at_work: tuple[tuple[str, str], float] | None = None
    began: float = field(default_factory=time.monotonic)

    def count(self, host: str, *kinds: str) -> None:
        counted = self.hosts.setdefault(host, dict.fromkeys(KINDS, 0))
        for kind in kinds:
            counted[kind] += 1

    def counts(self) -> dict[str, Counts]:
        return {host: Counts(**counted) for host, counted in self.hosts.items()}

    def play(self, name: str) -> None:
        """A play begins to do something, and the one before it is over."""
        self.end_play()
        self.plays.append(Play(name, _now(), time.monotonic()))

    def end_play(self) -> None:
        if self.plays and self.plays[-1].seconds is None:
            self.plays[-1].seconds = round(time.monotonic() - self.plays[-1].began, 3)

    def step(self, task: str) -> None:
        """A task begins, and the one before it is over; "" is one that has no name here, or none."""
        now = time.monotonic()
        if self.at_work:
            key, began = self.at_work
            if now - began >= LONG and (key in self.steps or len(self.steps) < STEPS):
                self.steps[key] = max(self.steps.get(key, 0.0), round(now - began, 1))
        self.at_work = ((self.plays[-1].name if self.plays else "", task), now) if task else None

    def name(self, into: list[dict[str, str]], host: str, task: str) -> None:
        if len(into) < NAMED:
            into.append({"host": host, "play": self.plays[-1].name if self.plays else "", "task": task})

    def problem(self, run_id: str, failed: Iterable[str]) -> str:
        """Return why this is no evidence of the run *run_id*, "" where it is. *failed*: hosts that Ansible plays no more.

        Called in the task that closes the record, which began and has not ended.
        """
        if self.broken:
            return f"it failed in {self.broken}"
        if not self.run_id:
            return "it did not see that the record was opened"
        if self.run_id != run_id:
            return f"it recorded another run, {self.run_id}"
        if self.ended < self.started - 1:
            return f"it saw {self.ended} results of {self.started - 1} tasks"
        unseen = sorted(host for host in failed if not self._counted(host, "failed", "unreachable"))
        return f"it did not see how {', '.join(unseen)} failed" if unseen else ""

    def report(self) -> dict[str, Any]:
        """Return what is told of the run beside its counts."""
        self.end_play()
        self.step("")
        return {
            "seconds": round(time.monotonic() - self.began, 3),
            "plays": [{"name": p.name, "started_at": p.started_at, "seconds": p.seconds} for p in self.plays],
            "steps": [{"play": play, "task": task, "seconds": seconds} for (play, task), seconds in self.steps.items()],
            "failures": list(self.failures[:100]),
            "recording_seconds": round(self.seconds, 6),
        }

    def _counted(self, host: str, *kinds: str) -> bool:
        counted: Mapping[str, int] = self.hosts.get(host, {})
        return any(counted.get(kind) for kind in kinds)


#: of this process; None where the callback is not enabled
_current: Recording | None = None


def begin() -> Recording:
    """A playbook begins."""
    global _current
    _current = Recording()
    return _current


def current() -> Recording | None:
    return _current


def _now() -> str:
    return datetime.now(tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
