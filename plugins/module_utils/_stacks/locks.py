# SPDX-License-Identifier: GPL-3.0-or-later
"""One holder at a time for each stack of a node."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from types import TracebackType

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import Clock

_PAUSE = 0.2  # seconds between two tries
_DYING = 10.0  # seconds that a killed process may take to end


class BusyError(PifleetError):
    """Somebody else works on the stack, and still does after the time that could be waited."""


class Lock:
    """The lock of one stack: an flock, which the kernel takes back when its last holder ends, however that happens.

    The file says who holds it: owner, pid, start time. A Compose that a run started holds it too (``fd``), so that a run which was
    killed does not make room for another while its Compose is still at work. Such an orphan is waited for, and killed when it outlasts
    the time limit: nobody else is left to do it.
    """

    def __init__(self, folder: str, project: str, owner: str, clock: Clock) -> None:
        self.path = os.path.join(folder, f"{project}.lock")
        self.waited = False
        self._folder, self._owner, self._clock = folder, owner, clock
        self._fd = -1

    @property
    def fd(self) -> int:
        """The descriptor to be inherited by what must hold the lock as well."""
        return self._fd

    def acquire(self, patience: float) -> None:
        """Take the lock, waiting at most *patience* seconds, if any. Raises BusyError, naming the holder."""
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PifleetError(f"{self.path} cannot be opened: {error.strerror}.") from None
        until = self._clock.monotonic() + patience
        while not self._try():
            self.waited = True
            late = self._clock.monotonic() - until
            if late >= 0 and (not patience or late >= _DYING or not self._end_orphans()):
                holder = self.holder()
                os.close(self._fd)
                self._fd = -1
                raise BusyError(f"busy: {holder}.", "It is done by that run, or by the next.")
            self._clock.sleep(_PAUSE)
        self._sign()

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would let two hold a lock of that name."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def holder(self) -> str:
        """Say who holds the lock, as far as the file tells."""
        told = _read(self.path)
        return (
            f"{told.get('owner', 'somebody')} (pid {told.get('pid', 'unknown')}, since {told.get('since', 'an unknown time')}) works on it"
        )

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _sign(self) -> None:
        told = {"owner": self._owner, "pid": os.getpid(), "started": start_time(os.getpid()), "since": iso(self._clock.now())}
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(told).encode(), 0)
        except OSError as error:
            self.release()
            raise PifleetError(f"{self.path} cannot be written: {error.strerror}.", "Make room, then run again.") from None

    def _end_orphans(self) -> bool:
        """Kill what still holds the lock of a run that is gone. False where that run lives."""
        told = _read(self.path)
        if told and start_time(int(told.get("pid", 0))) == told.get("started"):
            return False
        orphans = [pid for pid in holders(self.path) if pid != os.getpid()]
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(orphans)


def is_held(folder: str, project: str) -> bool:
    """Whether somebody holds the lock of a stack now. Takes nothing and makes no file."""
    try:
        fd = os.open(os.path.join(folder, f"{project}.lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def holders(path: str) -> list[int]:
    """Return the ids of processes that hold an flock on *path*, not of those that wait for it (proc(5), fdinfo)."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") == path and "FLOCK" in _text(f"/proc/{pid}/fdinfo/{fd}"):
                    found.append(int(pid))
                    break
        except OSError:
            continue
    return found


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()


def start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot (proc(5)): with its id, what no other has. Empty where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            return stream.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""


def iso(now: float) -> str:
    """Return a time as UTC in ISO 8601, with microseconds."""
    from datetime import datetime, timezone

    return datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _read(path: str) -> dict[str, str]:
    try:
        with open(path, "rb") as stream:
            told = json.loads(stream.read() or b"{}")
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
