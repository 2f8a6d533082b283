# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way commands are run: an argument list, a time limit, and no shell."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

#: Exit code of a command whose time was over, as of timeout(1).
TIMED_OUT = 124


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished command: its exit code and its output as text. ``rc`` is 127 where there is no such program, 124 after the time limit."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.rc == 0


class CommandError(PifleetError):
    """A command that had to succeed did not."""


class Runner(Protocol):
    """The port through which cores run commands. Tests give a function that replays recorded output."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        bare: bool = False,
        keep: Sequence[int] = (),
        most: int = 0,
    ) -> Completed: ...


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
    bare: bool = False,
    keep: Sequence[int] = (),
    most: int = 0,
) -> Completed:
    """Run *argv* to its end, at most *timeout* seconds. Never raises for an exit code. ``LC_ALL=C.UTF-8``: output is there to be parsed.

    The command leads a process group of its own, so that what it started ends with it when its time is over. *bare*: its environment
    is *env* alone. *keep*: file descriptors that it inherits: a lock on one of them lasts until the command itself has ended.
    *most*: bytes that are kept of each of its outputs, half of them from the beginning and half from the end, however much it says; 0: all.
    """
    environment = {**({} if bare else os.environ), "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
            pass_fds=tuple(keep),
        )
    except FileNotFoundError:
        return Completed(tuple(argv), 127, "", f"{argv[0]}: no such program")
    try:
        out, err = _head_and_tail(process, most, timeout) if most else process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired as late:
        said = late.output.decode(errors="replace") if most and late.output else ""
        return Completed(tuple(argv), TIMED_OUT, said + _end(process), f"{argv[0]}: no end after {timeout:g} seconds")
    except BaseException:
        _end(process)
        raise
    return Completed(tuple(argv), process.returncode, out, err)


def _head_and_tail(process: subprocess.Popen[str], most: int, timeout: float) -> tuple[str, str]:
    """Read both outputs of *process*, which is given no input, to their ends, and return of each at most *most* bytes.

    Raises TimeoutExpired with what is kept of both.
    """
    import selectors  # here, because few commands say that much
    import time

    deadline = time.monotonic() + timeout
    kept = (_Kept(most // 2), _Kept(most // 2))
    with selectors.DefaultSelector() as selector:
        for pipe, into in ((process.stdout, kept[0]), (process.stderr, kept[1])):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, into)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(process.args, timeout, output="".join(one.text for one in kept).encode())
            for key, _events in selector.select(left):
                block = os.read(key.fd, 1 << 16)
                if block:
                    key.data.add(block)
                else:
                    selector.unregister(key.fileobj)
    process.communicate(timeout=max(1.0, deadline - time.monotonic()))
    return kept[0].text, kept[1].text


class _Kept:
    """The first and the last *half* bytes of what is added, in memory that does not grow with it."""

    def __init__(self, half: int) -> None:
        self._half, self._head, self._tail, self._size, self._all = half, b"", deque[bytes](), 0, 0

    def add(self, block: bytes) -> None:
        self._all += len(block)
        room = self._half - len(self._head)
        self._head += block[:room]
        if block := block[room:]:
            self._tail.append(block)
            self._size += len(block)
        while self._tail and self._size - len(self._tail[0]) >= self._half:
            self._size -= len(self._tail.popleft())

    @property
    def text(self) -> str:
        tail = b"".join(self._tail)[-self._half :]
        left_out = self._all - len(self._head) - len(tail)
        middle = f"\n... {left_out} bytes were left out ...\n".encode() if left_out else b""
        return (self._head + middle + tail).decode(errors="replace")


def _end(process: subprocess.Popen[str]) -> str:
    """Kill *process* and all that it started, and return what it had written."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    try:
        return process.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired as late:  # something left the group and holds the pipe
        return late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else ""


def check(done: Completed, hint: str = "") -> Completed:
    """Return *done*, or raise CommandError with the last lines of what the command said, scrubbed."""
    if not done.ok:
        from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub  # here: where nothing fails, it is not needed

        said = scrub(done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
        raise CommandError(f"`{scrub(' '.join(done.argv[:4]))}` failed with exit code {done.rc}: {' | '.join(said)}", hint)
    return done
