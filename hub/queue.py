# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue of fix runs. The ledger has what waits in it; the queue is who is told, and goes to work.

``Embedded`` does them one at a time in a child of this process; ``Brokered`` hands them to the workers of ``worker``. Both look again and
again for what waits and nobody was told of: after a restart, or because the broker could not be reached.
"""

from __future__ import annotations

import logging
import threading
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol

from ansible_collections.pifleet.ops.hub.execution import Child, Play, Settings, execute
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import HIGH
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import FixRuns, Told, untold
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

log = logging.getLogger("pifleet.queue")

Priority = Literal["normal", "high"]
#: seconds between two looks
LOOK = 5.0


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

    def start(self) -> None:
        """Begin to work, with what waits already."""

    def stop(self) -> None:
        """End. What was begun is interrupted, or goes on elsewhere."""

    def submit(self, run_id: str, *, priority: Priority = "normal") -> None:
        """Tell that the fix run *run_id* waits. It is recorded already: one that nobody could be told of is found later."""

    def health(self) -> QueueHealth:
        """Say how the queue is. Never raises, and waits for seconds at most."""


def open_queue(settings: Settings, store: Store) -> Queue:
    """Return the queue that *settings* ask for: embedded, or with workers where they name a broker. Raises PifleetError."""
    settings.refuse_file(store)
    return Brokered(settings, store) if settings.broker_url else Embedded(store, Child(settings), settings.measure)


class _Looking(ABC):
    """A thread that looks at what waits: when it is told to, and every few seconds."""

    def __init__(self, store: Store, told: Told = untold) -> None:
        self._store, self._fix_runs = store, FixRuns(store, told=told)
        self._told, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="fix-runs", daemon=True)
        self._problem = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._told.set()

    def _work(self) -> None:
        while not self._over.is_set():
            self._told.clear()
            try:
                self._look()
                self._problem = ""
            except PifleetError as error:
                self._problem = str(error)
                log.warning("%s", error)
            except Exception as error:  # the thread is the queue: it goes on
                self._problem = f"{type(error).__name__}: {error}"
                log.exception("the queue of fix runs")
            self._told.wait(LOOK)

    @abstractmethod
    def _look(self) -> None:
        """See to what waits. Raises PifleetError for what a person has to know."""

    def _pending(self) -> int:
        try:
            return len(self._fix_runs.queued())
        except PifleetError as error:
            self._problem = str(error)
            return 0


class Embedded(_Looking):
    """One at a time, by this process. Its state is the ledger alone. *told*: see ``FixRuns``."""

    def __init__(self, store: Store, play: Play, told: Told = untold) -> None:
        super().__init__(store, told)
        self._play, self._measure = play, told

    def submit(self, run_id: str, *, priority: Priority = "normal") -> None:
        """See ``Queue``. The priority is recorded."""
        del run_id, priority
        self._told.set()

    def health(self) -> QueueHealth:
        pending, alive = self._pending(), self._thread.is_alive()
        problem = self._problem or ("" if alive else "It does not run.")
        return QueueHealth("embedded", not problem, pending, int(alive), problem)

    def _look(self) -> None:
        # what another process than this one left
        self._fix_runs.mark_dead()
        while not self._over.is_set() and (waiting := self._fix_runs.queued()):
            # one that another hub of this ledger has just taken is no longer among them
            execute(self._store, self._play, waiting[0].id, told=self._measure)


class Brokered(_Looking):
    """Handed to the workers of a broker."""

    def __init__(self, settings: Settings, store: Store) -> None:
        # Celery takes a moment to import, which a hub without a broker need not
        from ansible_collections.pifleet.ops.hub.worker import made_app

        super().__init__(store)
        self._settings, self._app = settings, made_app(settings)
        self._handed: set[str] = set()

    def submit(self, run_id: str, *, priority: Priority = "normal") -> None:
        try:
            self._hand(run_id, priority)
        except Exception as error:  # whatever the broker's library says: it is recorded, and handed over later
            self._problem = f"The broker cannot be reached: {error}"
            log.warning("%s waits: %s", run_id, self._problem)

    def health(self) -> QueueHealth:
        pending = self._pending()
        try:
            workers = len(self._app.control.ping(timeout=1.0))
        except Exception as error:  # whatever the broker's library says
            return QueueHealth("celery", ok=False, pending=pending, workers=0, problem=f"The broker cannot be reached: {error}")
        problem = self._problem or ("" if workers else "No worker answers.")
        return QueueHealth("celery", not problem, pending, workers, problem)

    def _hand(self, run_id: str, priority: Priority) -> None:
        from ansible_collections.pifleet.ops.hub.worker import NAME, number_of

        self._app.send_task(
            NAME,
            args=[run_id],
            task_id=str(uuid.uuid4()),
            queue=self._settings.queue,
            priority=number_of(self._settings.broker_url, priority),
            # a connection that a restart of the broker broke is made anew; a broker that is away is not waited for
            retry=True,
            retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5},
        )
        self._handed.add(run_id)

    def _look(self) -> None:
        waiting = self._fix_runs.queued()
        self._handed &= {run.id for run in waiting}
        for run in waiting:
            # once more after a restart of the hub: one too many finds nothing to do
            if run.id not in self._handed:
                self._hand(run.id, "high" if run.priority == HIGH else "normal")
