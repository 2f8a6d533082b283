# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way commands are run: an argument list, a time limit, and no shell."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError


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
        self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> Completed: ...


def run(argv: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None) -> Completed:
    """Run *argv* to its end, at most *timeout* seconds. Never raises for an exit code. ``LC_ALL=C.UTF-8``: output is there to be parsed."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout, env=environment, check=False
        )
    except FileNotFoundError:
        return Completed(tuple(argv), 127, "", f"{argv[0]}: no such program")
    except subprocess.TimeoutExpired as late:
        out = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else (late.stdout or "")
        return Completed(tuple(argv), 124, out, f"{argv[0]}: no end after {timeout:g} seconds")
    return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)


def check(done: Completed, hint: str = "") -> Completed:
    """Return *done*, or raise CommandError with the last lines of what the command said."""
    if not done.ok:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
        raise CommandError(f"`{' '.join(done.argv[:4])}` failed with exit code {done.rc}: {' | '.join(said)}", hint)
    return done
