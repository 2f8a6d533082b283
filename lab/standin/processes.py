# SPDX-License-Identifier: GPL-3.0-or-later
"""The components as child processes: they end with k3s, and k3s ends with the first that fails."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from . import log

PR_SET_PDEATHSIG = 1
STORES = ("kine", "etcd")  # end last, when nobody writes any more
GRACE, STORE_GRACE = 3.0, 5.0  # seconds


class Children:
    """The running components."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ends: dict[str, Callable[[int], str]] = {}
        self.stopping = threading.Event()

    def start(self, name: str, argv: Sequence[str], ends: Callable[[int], str] | None = None, log_file: str = "") -> None:
        """Start *name*; *ends* words its unexpected end; *log_file* takes what it says, else the journal does.

        From the main thread only: the signal at a parent's death follows the thread that forked.
        """
        log.info(f"Running {name} {' '.join(argv[1:])}")
        # only k3s itself tells systemd that it is ready
        environment = {**os.environ, "NOTIFY_SOCKET": ""}
        self.ends[name] = ends or (lambda code: f"{name} exited: {code}")
        with open(log_file or os.devnull, "ab") as stream:
            said = stream if log_file else None
            self.running[name] = subprocess.Popen(
                argv, env=environment, preexec_fn=_die_with_parent, start_new_session=True, stdout=said, stderr=said
            )

    def end(self, name: str) -> None:
        """Stop one component for good."""
        process = self.running.pop(name, None)
        if process is not None:
            _terminate([process], STORE_GRACE)

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 180.0) -> None:
        """Wait until *ready*. Raises FatalError when a component exits, or when the time is over."""
        deadline = time.monotonic() + seconds
        while not _quietly(ready):
            self.check()
            if time.monotonic() > deadline:
                raise log.FatalError(f"timed out waiting for {what}")
            if self.stopping.wait(0.1):
                raise SystemExit(0)

    def check(self) -> None:
        for name, process in list(self.running.items()):
            if process.poll() is not None and not self.stopping.is_set():
                raise log.FatalError(self.ends[name](process.returncode))

    def watch(self) -> None:
        """Return when told to stop. Raises FatalError when a component exits."""
        while not self.stopping.wait(1.0):
            self.check()

    def stop(self) -> None:
        self.stopping.set()
        _terminate([process for name, process in self.running.items() if name not in STORES], GRACE)
        _terminate([process for name, process in self.running.items() if name in STORES], STORE_GRACE)

    def every(self, seconds: float, task: Callable[[], None], name: str) -> None:
        """Repeat *task* in the background; what fails is logged and tried again."""

        def loop() -> None:
            while not self.stopping.wait(seconds):
                try:
                    task()
                except Exception as problem:
                    log.error(f"{name}: {problem!r}")

        threading.Thread(target=loop, daemon=True, name=name).start()


def _terminate(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """End all of them at once; what has not ended after *seconds* is killed."""
    living = [process for process in processes if process.poll() is None]
    for process in living:
        process.terminate()
    deadline = time.monotonic() + seconds
    for process in living:
        try:
            process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _quietly(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except OSError:
        return False


def notify(message: str) -> None:
    """Tell systemd (sd_notify(3)), where it asked to be told."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as channel:
        channel.sendto(message.encode(), "\0" + path[1:] if path[0] == "@" else path)


def arguments(defaults: Mapping[str, str], extra: Sequence[str]) -> list[str]:
    """``--key=value`` of *defaults*, changed by the user's ``key=value`` of a ``…-arg`` setting."""
    merged = dict(defaults)
    for item in extra:
        key, _, value = item.partition("=")
        merged[key] = value
    return [f"--{key}={value}" for key, value in merged.items()]
