# SPDX-License-Identifier: GPL-3.0-or-later
"""Works on several stacks at a time: takes their locks, lets their plans be carried out, and sees whether what was started stays up."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import apply, records, state, status, unattended_log
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.case import NOTHING, Case
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.gate import Gate
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.locks import BusyError, Lock
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.look import each
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Container, Settings, known
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import EngineTimeoutError, Ports
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.verify import STABLE, WAITING, Watch, holding_up

#: Seconds between two looks at containers that were just started, at most.
PAUSE = 1.0
#: How much longer than a look the pause after it is, at least: on a busy node looking must not slow down what is looked at.
_REST = 3.0
#: Seconds for finding out why an apply took too long.
_LAST_LOOK = 10.0


@dataclass(slots=True)
class Attempt:
    """A stack that is worked on, under its lock. *watch* is None where there is nothing to be seen: it failed, or was removed;
    *logged*: what an unattended run keeps of it."""

    case: Case
    lock: Lock
    work: apply.Work
    watch: Watch | None = None
    error: str = ""
    logged: unattended_log.Attempt | None = None


def names_in_the_way(cases: Sequence[Case]) -> set[str]:
    """Return the projects of those of *cases* that need the name of a container which is another's of them: it is relabelled, or that stack
    goes. Once that one was worked on, the name is free."""
    taken = {container.name: case.project for case in cases for container in case.containers}
    return {case.project for case in cases for name in case.new_names if taken.get(name, case.project) != case.project}


class Attempts:
    """The attempts of one run."""

    def __init__(self, settings: Settings, ports: Ports, gate: Gate) -> None:
        self._settings, self._ports, self._clock, self._gate = settings, ports, ports.clock, gate
        self._started: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()
        self._broken: BaseException | None = None
        self._log = unattended_log.UnattendedLog(settings.state_dir, self._clock.now()) if settings.unattended else None

    def make(self, cases: Sequence[Case]) -> None:
        """Work on *cases*, which need it. How it went is in them, and kept on the node, afterwards."""
        beginner = threading.Thread(target=self._begin_all, args=(cases,))
        beginner.start()
        self._watch()
        beginner.join()
        if self._broken:
            raise self._broken
        self._look_again([case for case in cases if case.error and case.ours])

    @contextlib.contextmanager
    def isolated(self, case: Case) -> Iterator[None]:
        """Turn what goes wrong with one stack into its error, so that the others go on."""
        try:
            yield
        except PifleetError as error:
            case.error = str(error)
        except Exception as error:  # of this code's own making: still no reason to leave the others alone
            case.error = f"unexpected: {type(error).__name__}: {error}"
        else:
            return
        self._ports.log("failed", {"stack": case.name, "error": case.error})

    # -- beginning, in threads ------------------------------------------------------------------------------------------------------
    def _begin_all(self, cases: Sequence[Case]) -> None:
        """Begin with what nothing is in the way of: then what another stack makes room for. What is busy comes last, and is waited for."""
        blocked = names_in_the_way(cases)
        busy: list[Case] = []

        def first(case: Case) -> None:
            if not self._begin(case, 0.0):
                busy.append(case)

        def again(case: Case) -> None:
            self._begin(case, self._settings.timeout)

        try:
            for now in (False, True):
                each(first, [case for case in cases if (case.project in blocked) is now], self._settings.parallel)
            each(again, busy, self._settings.parallel)
        except BaseException as error:
            self._broken = error
        finally:
            self._started.put(None)

    def _begin(self, case: Case, patience: float) -> bool:
        """Take the lock of *case* and carry out its plan. False where somebody else has it and there is no *patience*."""
        with self.isolated(case), contextlib.ExitStack() as undone:
            lock = Lock(self._settings.state_dir, case.project, self._settings.owner, self._clock)
            try:
                lock.acquire(patience)
            except BusyError:
                if not patience:
                    return False
                raise
            undone.callback(lock.release)
            if patience:
                lock.waited = True
            if attempt := self._carry_out(case, lock):
                undone.pop_all()  # it is released when the attempt is finished
                self._started.put(attempt)
        return True

    def _carry_out(self, case: Case, lock: Lock) -> Attempt | None:
        self._again_if_outdated(case, lock)
        if not case.to_do and not case.to_verify:
            self.keep_locked(case)
            return None
        settings, now = self._settings, self._clock.monotonic()
        deadline = now + settings.timeout
        attempt = Attempt(case, lock, apply.Work(case, records.current(case, settings.owner), deadline, (lock.fd,)))
        before = {c.id: c.restarts for c in case.containers}
        if case.to_do:
            self._ports.log("started", {"stack": case.name, "revision": settings.revision, "plan_digest": case.plan.digest})
            if self._log:
                attempt.logged = self._log.begin(status.of(case, settings.owner), settings.revision, self._clock.now())
            attempt.work.record = records.begun(case, settings.owner, self._clock.now())
            state.save(settings.state_dir, attempt.work.record)
            self._gate.begin(case)
            try:
                apply.carry_out(attempt.work, settings, self._ports)
            except PifleetError as error:
                attempt.error = str(error) + (self._holding_up(case) if isinstance(error, EngineTimeoutError) else "")
                return attempt
        if case.folder and case.stack:
            attempt.watch = Watch(case.stack, settings.stable_seconds, self._clock.monotonic(), deadline, before)
        return attempt

    def _holding_up(self, case: Case) -> str:
        """What the apply of *case*, of which the time was over, waited for, as a sentence to be added."""
        with contextlib.suppress(PifleetError):
            seen = self._ports.engine.observe(projects=(case.project,), timeout=_LAST_LOOK)
            waits = holding_up(known(case.stack), seen.containers) if case.stack else ""
            return f" It waited: {waits}." if waits else ""
        return ""

    def _again_if_outdated(self, case: Case, lock: Lock) -> None:
        """Judge the stack anew where somebody else worked on it since it was seen."""
        settings = self._settings
        now_kept = state.load_one(settings.state_dir, case.project, settings.owner)
        if not lock.waited and now_kept == case.loaded:
            return
        images = case.stack.images if case.stack else ()
        seen = self._ports.engine.observe(images, projects=(case.project,), timeout=settings.timeout)
        case.record, case.loaded = now_kept, now_kept
        case.containers, case.images = seen.containers, seen.images
        if case.folder is None and not seen.containers and not (now_kept and now_kept.removing):
            case.plan, case.drift = NOTHING, ()  # it is removed already
            return
        case.judge(settings, self._clock.now())
        self._gate.hold_back([case])

    # -- looking at what was started, in one thread -----------------------------------------------------------------------------------
    def _watch(self) -> None:
        """Look at everything that was started until all of it is decided. One look is for all stacks together."""
        watched: list[Attempt] = []
        next_look, more = 0.0, True
        while more or watched:
            if more:
                left = max(0.0, next_look - self._clock.monotonic()) if watched else None
                arrived = self._arrivals(left)
                more = None not in arrived
                watched += [attempt for attempt in arrived if attempt and not self._finished_early(attempt)]
            else:
                self._clock.sleep(max(0.0, next_look - self._clock.monotonic()))
            if watched and (began := self._clock.monotonic()) >= next_look:
                watched = self._look_at(watched)
                ended = self._clock.monotonic()
                pause = PAUSE if more else min(PAUSE, self._settings.stable_seconds / 3)
                next_look = ended + max(pause, _REST * (ended - began))

    def _arrivals(self, patience: float | None) -> list[Attempt | None]:
        """What was started meanwhile; waits for it at most *patience* seconds (None: as long as it takes)."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._started.get(timeout=patience) if patience is None or patience > 0 else self._started.get_nowait())
            while True:
                found.append(self._started.get_nowait())
        return found

    def _finished_early(self, attempt: Attempt) -> bool:
        if attempt.watch is None:
            self._finish(attempt, attempt.case.containers, attempt.error)
            return True
        return False

    def _look_at(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """One look at all of *attempts*. Those that are not decided yet are returned."""
        undecided = []
        try:
            seen = self._ports.engine.observe(projects=[a.case.project for a in attempts], timeout=self._settings.timeout)
        except PifleetError as error:
            for attempt in attempts:
                self._finish(attempt, attempt.case.containers, str(error))
            return []
        for attempt in attempts:
            here = tuple(c for c in seen.containers if c.project == attempt.case.project)
            verdict, why = known(attempt.watch).look(here, self._clock.monotonic())
            if verdict == WAITING:
                undecided.append(attempt)
            else:
                self._finish(attempt, here, "" if verdict == STABLE else why)
        return undecided

    def _finish(self, attempt: Attempt, containers: tuple[Container, ...], error: str) -> None:
        """Keep how the attempt ended, and let the stack go."""
        case, settings = attempt.case, self._settings
        case.containers = containers
        with self.isolated(case), attempt.lock:
            if error:
                case.error = error
                self._ports.log("failed", {"stack": case.name, "revision": settings.revision, "error": error})
                case.record = records.failed(case, attempt.work.record, settings, self._clock.now(), error)
                self._end(case, attempt.logged)
                state.save(settings.state_dir, case.record)
                return
            case.settled = True
            if case.folder is None:
                case.record, case.containers = None, ()
                self._end(case, attempt.logged)
                state.forget(settings.state_dir, case.project)
            else:
                case.record = records.synced(case, attempt.work.record, settings, self._clock.now())
                self._end(case, attempt.logged)
                state.save(settings.state_dir, case.record)
            self._gate.use_up(case)
            self._ports.log("succeeded", {"stack": case.name, "revision": settings.revision, "changed": str(case.changed).lower()})

    def _end(self, case: Case, logged: unattended_log.Attempt | None = None) -> None:
        """Keep how an unattended attempt ended, before the stack's record says so: cut off in between, the next run looks again.

        Where there was nothing to carry out (*logged* None), the same as before is nothing new.
        """
        before, after = case.loaded, case.record
        same = before is not None and after is not None and (before.status, before.last_error) == (after.status, after.last_error)
        if self._log and (logged or not same):
            self._log.end(logged, status.of(case, self._settings.owner), self._settings.revision, self._clock.now())

    def _look_again(self, cases: Sequence[Case]) -> None:
        """Count what failed attempts left behind."""
        if not cases:
            return
        with contextlib.suppress(PifleetError):
            seen = self._ports.engine.observe(projects=[case.project for case in cases], timeout=self._settings.timeout)
            for case in cases:
                case.containers = tuple(c for c in seen.containers if c.project == case.project)

    # -- what is not worked on --------------------------------------------------------------------------------------------------------
    def keep(self, case: Case) -> None:
        """Keep what this run found out of a stack that it does not work on."""
        lock = Lock(self._settings.state_dir, case.project, self._settings.owner, self._clock)
        with self.isolated(case), contextlib.suppress(BusyError):  # whoever works on it keeps more than is known here
            lock.acquire(0.0)
            with lock:
                self.keep_locked(case)

    def keep_locked(self, case: Case) -> None:
        """The same, under the stack's lock."""
        found = records.kept(case, self._settings, self._clock.now())
        if found is not None and found != case.loaded:
            case.record = found
            if case.error:
                self._end(case)
            state.save(self._settings.state_dir, found)
