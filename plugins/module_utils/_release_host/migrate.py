# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration: one command, once, in a container of the new image that is removed afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.engine import environment, said
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.project import Places

_PAUSE = 0.2  # seconds between two tries


@contextlib.contextmanager
def alone(places: Places, timeout: float) -> Iterator[None]:
    """Let nobody else migrate the project as long as the block lasts. Raises PifleetError.

    A module that an interrupted run left is waited for, at most *timeout* seconds: at its end it takes its container
    away, and what it staged.
    """
    try:
        os.makedirs(os.path.dirname(places.lock), mode=0o700, exist_ok=True)
        lock = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PifleetError(f"{error.filename or places.lock} cannot be written: {error.strerror}.", "Make room, and run again.") from None
    try:
        until = time.monotonic() + timeout
        while not _locked(lock):
            if time.monotonic() > until:
                raise PifleetError(
                    f"another run still migrates {places.project} after {timeout:g} seconds.", "Wait for its end, and resume."
                )
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def migrate(places: Places, service: str, command: Sequence[str], timeout: float, run: Runner = argv.run) -> str:
    """Run *command* with the networks, volumes and variables of *service* as staged, at most *timeout* seconds; return what it said last.

    A container of the same migration that an interrupted run left is waited for first: two at once would harm the data.
    Raises PifleetError where it fails.
    """
    name = f"{places.project}-migration-{service}"
    _settle(name, timeout, run)
    compose = ["docker", "compose", "--ansi", "never", "-p", places.project, "--project-directory", places.staged]
    file = os.path.join(places.staged, "compose.yaml")
    words = [*compose, "-f", file, "run", "--rm", "--no-deps", "--quiet-pull", "-T", "--name", name, service, *command]
    try:
        done = run(words, timeout=timeout, env=environment(), bare=True)
    finally:
        # what Compose itself did not remove, as after the time limit
        run(["docker", "rm", "--force", "--volumes", name], timeout=60)
        shutil.rmtree(places.staged, ignore_errors=True)
    if not done.ok:
        raise PifleetError(f"the migration of {service} ended with exit code {done.rc}: {said(done)}.")
    # what Compose itself says goes to standard error
    return said(replace(done, stderr=""))


def _settle(name: str, timeout: float, run: Runner) -> None:
    state = run(["docker", "inspect", "--format", "{{.State.Running}}", name])
    if not state.ok:
        return
    if state.stdout.strip() == "true" and not run(["docker", "wait", name], timeout=timeout).ok:
        raise PifleetError(
            f"the migration container {name} of an interrupted run still runs after {timeout:g} seconds.",
            f"Look at it (`docker logs {name}`), end it (`docker rm -f {name}`), and resume.",
        )
    run(["docker", "rm", "--force", "--volumes", name], timeout=60)
