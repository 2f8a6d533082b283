# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each host of a run stands: what it does, or what it waits for, and how far it is. No clock: moments are handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: (name of the play, name of the task)
Step = tuple[str, str]


@dataclass(slots=True)
class Host:
    """One host. *place*: tasks of the run that lie behind it, of ``Progress.total``; *out*: how it left the run, "" while it is in it.

    *task* is what it does since *since*, "" between two tasks; *note* says how far it is with that.
    """

    name: str
    place: int = 0
    out: str = ""
    task: str = ""
    since: float = 0.0
    note: str = ""
    items: int = 0
    changed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the view. *kind*: ``runs``, ``waits``, ``out`` or ``done``; *share*: 0 to 1; *times* compare with the last run."""

    host: str
    kind: str
    share: float
    text: str
    times: str = ""


@dataclass(slots=True)
class Progress:
    """One playbook. *sizes*: how many tasks each play has, as far as that is known before; *forks*: how many hosts may work at once."""

    title: str
    began: float
    sizes: Sequence[int]
    forks: int = 5
    hosts: dict[str, Host] = field(default_factory=dict)
    number: int = 0
    play: str = ""
    task: str = ""
    in_step: bool = True
    #: all hosts of the play, and those of the part of it (``serial``) that is at work
    wanted: frozenset[str] = frozenset()
    batch: frozenset[str] = frozenset()
    started: set[str] = field(default_factory=set)
    once: bool = False
    last_seconds: float | None = None
    last_steps: Mapping[Step, float] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return max(1, sum(self.sizes))

    def begin_play(self, title: str, number: int, wanted: Sequence[str], batch: Sequence[str], *, in_step: bool = True) -> None:
        """A play begins, or its next part. *number* counts plays from 1; *in_step*: its hosts go on to a task together."""
        for name in wanted:
            self.hosts.setdefault(name, Host(name))
        if number == self.number:
            for name in self.batch - set(batch):
                self.hosts[name].place = sum(self.sizes[:number])
        self.play, self.number, self.in_step = title, number, in_step
        self.wanted, self.batch = frozenset(wanted), frozenset(batch)
        before = sum(self.sizes[: number - 1])
        for host in self.hosts.values():
            if not host.out and (host.name not in self.wanted or host.name in self.batch):
                host.place = max(host.place, before)
        self.begin_task("", once=False)

    def begin_task(self, name: str, *, once: bool) -> None:
        """The play comes to a task. *once*: one host does it for all."""
        self.task, self.once = name, once
        self.started.clear()

    def start(self, name: str, task: str, now: float, note: str = "") -> None:
        """A host begins with a task."""
        host = self.hosts.setdefault(name, Host(name))
        host.task, host.since, host.note, host.items = task, now, note, 0
        self.started.add(name)

    def item(self, name: str, label: str) -> None:
        """A host is through with one item of its task's loop."""
        host = self.hosts.setdefault(name, Host(name))
        host.items += 1
        host.note = f"{host.items} items, the last {label}" if label else f"{host.items} items"

    def note(self, name: str, text: str) -> None:
        """Something is known of how far a host is."""
        self.hosts.setdefault(name, Host(name)).note = text

    def end(self, name: str, *, changed: bool = False, out: str = "") -> None:
        """A host is through with its task; *out*: and with the run, because it failed or is unreachable."""
        host = self.hosts.setdefault(name, Host(name))
        host.place = max(host.place, min(host.place + 1, sum(self.sizes[: self.number]) or self.total))
        host.changed += changed
        if out:
            host.out = f"{out}: {host.task or self.task}"
        host.task, host.note = "", ""

    def close(self) -> None:
        """The playbook is over."""
        for host in self.hosts.values():
            host.task = ""
            if not host.out:
                host.place = self.total

    def expect(self, seconds: float | None, steps: Mapping[Step, float]) -> None:
        """How long the last run of the same command took, and its longer steps."""
        self.last_seconds, self.last_steps = seconds, steps

    def headline(self, now: float) -> str:
        """What the run does, in one line."""
        plays = f"play {self.number} of {max(len(self.sizes), self.number)}: {self.play}" if self.number else "begins"
        return f"{self.title}  {plays}  {compared(now - self.began, self.last_seconds)}"

    def rows(self, now: float, limit: int) -> list[Row]:
        """Return one row a host, those that work first; beyond *limit* the rest in one row, so that it fits the screen."""
        made = [self._row(host, now) for host in self.hosts.values()]
        if len(made) <= limit:
            return made
        order = {"runs": 0, "out": 1, "waits": 2, "done": 3}
        made.sort(key=lambda row: order[row.kind])
        shown, rest = made[: max(0, limit - 1)], made[max(0, limit - 1) :]
        kinds = {"runs": "at work", "out": "out", "waits": "waiting", "done": "done"}
        counted = ", ".join(f"{n} {word}" for kind, word in kinds.items() if (n := sum(row.kind == kind for row in rest)))
        return [*shown, Row(f"{len(rest)} more", "waits", sum(row.share for row in rest) / len(rest), counted)]

    def _row(self, host: Host, now: float) -> Row:
        share = min(1.0, host.place / self.total)
        if host.out:
            return Row(host.name, "out", share, host.out)
        if host.task:
            text = f"{host.task} ({host.note})" if host.note else host.task
            return Row(host.name, "runs", share, text, compared(now - host.since, self.last_steps.get((self.play, host.task))))
        if host.place >= self.total:
            return Row(host.name, "done", 1.0, "done")
        return Row(host.name, "waits", share, self.waits_for(host.name))

    def waits_for(self, name: str) -> str:
        """Return why a host that does nothing does nothing."""
        if name not in self.wanted:
            return "not in this play"
        if name not in self.batch:
            over = self.hosts[name].place >= sum(self.sizes[: self.number])
            return "waits for the next play" if over else f"waits for its turn: {len(self.batch)} at a time"
        if not self.in_step:
            return "waits for a free fork" if len(self._busy()) >= self.forks else "between two tasks"
        busy = self._busy()
        if not busy:
            return "between two tasks"
        if not self.once and name not in self.started and len(busy) >= self.forks:
            return f"waits for a free fork (forks = {self.forks})"
        shown = ", ".join(busy[:3]) + (f" and {len(busy) - 3} more" if len(busy) > 3 else "")
        return f"waits for {shown}, which does it for all" if self.once else f"waits for {shown}: {self.hosts[busy[0]].task}"

    def _busy(self) -> list[str]:
        return [host.name for host in self.hosts.values() if host.task and not host.out]


def clock(seconds: float) -> str:
    """Return a duration as a person reads it: 7 s, 1:05, 1:02:03."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def compared(seconds: float, last: float | None) -> str:
    """Return a duration beside that of the last run; None: there is none to compare with."""
    return clock(seconds) if last is None else f"{clock(seconds)} (last time {clock(last)})"
