# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue of fix runs. The ledger has what waits in it; the queue is who is told, and goes to work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Priority = Literal["normal", "high"]


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """*kind*: ``embedded`` or ``celery``; *ok*: whether what is handed in will be done; *pending*: fix runs that wait; *workers*: who take
    them; *problem*: what a person has to see to, empty where there is nothing."""

    kind: str
    ok: bool
    pending: int
    workers: int
    problem: str = ""


class Queue(Protocol):
    """Who does the fix runs that wait in the ledger (``FixRuns.create``, ``requeue`` or ``decide`` without a process)."""

    def submit(self, run_id: str, *, priority: Priority = "normal") -> None:
        """Tell that the fix run *run_id* waits. It is recorded already: one that nobody could be told of is found later."""

    def health(self) -> QueueHealth:
        """Say how the queue is. Never raises, and waits for seconds at most."""
