# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is to refresh: one at a time, at most one waits, and the newest takes the place of the one that waits.

The kernel's lock (flock(2)) decides, so that a killed process holds nothing; the notes beside it only say who it is.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

_POLL = 0.1  # seconds between two looks of one that waits


class Clock(Protocol):
    """The process's clocks: seconds since the epoch, *monotonic* seconds, and *sleep*."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Ticket:
    """A refresh that runs or waits. *started*: the process's start in clock ticks since boot, so that a number used again is told apart;
    *wants*: revision or reference; *since*: seconds since the epoch."""

    pid: int
    started: int
    wants: str
    since: float


class SupersededError(PifleetError):
    """A newer refresh took the place of this one, which had not begun."""


class BusyError(PifleetError):
    """Another refresh did not end in time."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Who refreshes, and who waits; None for nobody."""

    running: Ticket | None
    waiting: Ticket | None


@contextmanager
def take(folder: Path, wants: str, clock: Clock, timeout: float) -> Iterator[None]:
    """Hold the turn. Waits at most *timeout* seconds. Raises SupersededError or BusyError, and OSError where *folder* cannot be written."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    ticket = Ticket(os.getpid(), _started(os.getpid()), wants, clock.time())
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _wait(folder, lock, ticket, clock, clock.monotonic() + timeout)
        _write(lock, ticket)
        yield
    finally:
        os.close(lock)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep checked-out desired state as it is while it is read. Where there is no refresh, there is nothing to keep."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # the folder itself: a check must leave no file
    except (FileNotFoundError, NotADirectoryError):
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


@contextmanager
def writing(folder: Path, clock: Clock, timeout: float) -> Iterator[None]:
    """Change checked-out desired state while nobody reads it. Waits at most *timeout* seconds. Raises BusyError."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until = clock.monotonic() + timeout
        while not _flock(lock, fcntl.LOCK_EX):
            if clock.monotonic() >= until:
                raise BusyError("Desired state is still being reconciled by another run.", "Run again later.")
            clock.sleep(_POLL)
        yield
    finally:
        os.close(lock)


def look(folder: Path) -> Turns:
    """Return who refreshes and who waits now."""
    waiting = _alive(_parse(_read(folder / "queue")))
    try:
        lock = os.open(folder / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return Turns(None, waiting)
    try:
        if _flock(lock, fcntl.LOCK_SH):
            return Turns(None, waiting)
        return Turns(_parse(os.read(lock, 4096)) or Ticket(0, 0, "", 0.0), waiting)
    finally:
        os.close(lock)


def _wait(folder: Path, lock: int, ticket: Ticket, clock: Clock, until: float) -> None:
    if _flock(lock, fcntl.LOCK_EX):
        _edit(folder, lambda _waiting: None)  # one that waited is older, and finds its place taken
        return
    _edit(folder, lambda _waiting: ticket)
    while True:
        if clock.monotonic() >= until:
            _edit(folder, lambda waiting: None if waiting == ticket else waiting)
            running = look(folder).running
            who = f"process {running.pid}, for {running.wants or 'the newest revision'}" if running else "another process"
            raise BusyError(f"Desired state is being refreshed by {who}, and did not become free in time.", "Run again later.")
        clock.sleep(_POLL)
        if _parse(_read(folder / "queue")) != ticket:
            raise SupersededError(f"A newer refresh took the place of this one ({ticket.wants or 'newest revision'}), which had to wait.")
        if _flock(lock, fcntl.LOCK_EX):
            break
    if not _edit(folder, lambda waiting: None if waiting == ticket else waiting):
        raise SupersededError(f"A newer refresh took the place of this one ({ticket.wants or 'newest revision'}), which had to wait.")


def _edit(folder: Path, change: Callable[[Ticket | None], Ticket | None]) -> bool:
    """Replace the note of who waits by *change* of it; nobody else does so meanwhile. Whether that is another one."""
    note = os.open(folder / "queue", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(note, fcntl.LOCK_EX)
        before = _parse(os.read(note, 4096))
        after = change(before)
        if after != before:
            _write(note, after)
        return after != before
    finally:
        os.close(note)


def _write(fd: int, ticket: Ticket | None) -> None:
    """No fsync: after a power cut nobody runs or waits."""
    text = json.dumps(asdict(ticket)).encode() if ticket else b""
    os.ftruncate(fd, 0)
    os.pwrite(fd, text, 0)


def _flock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _parse(text: bytes) -> Ticket | None:
    try:
        noted = json.loads(text or b"null")
        return Ticket(int(noted["pid"]), int(noted["started"]), str(noted["wants"]), float(noted["since"]))
    except (ValueError, KeyError, TypeError):
        return None


def _alive(ticket: Ticket | None) -> Ticket | None:
    return ticket if ticket and _started(ticket.pid) == ticket.started else None


def _started(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot, 0 where there is none (field 22 of /proc/PID/stat: proc(5))."""
    stat = _read(Path(f"/proc/{pid}/stat"))
    return int(stat.rpartition(b")")[2].split()[19]) if stat else 0
