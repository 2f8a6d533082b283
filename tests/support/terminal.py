# SPDX-License-Identifier: GPL-3.0-or-later
"""A real pseudo-terminal with an emulator behind it: what a person sees, now and in the scrollback."""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import pyte


class Terminal:
    """A program on a terminal of its own. ``frames`` are the screens that it showed."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path, columns: int = 120, lines: int = 40) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=5000, ratio=1.0)
        self.raw = b""
        self.frames: list[list[str]] = []
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.modes = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=env, start_new_session=True, preexec_fn=_own_terminal
        )
        self._slave = slave

    def read(self, until: Callable[[Terminal], bool] | None = None, timeout: float = 120.0) -> bool:
        """Read until *until* says yes, or to the program's end; return whether *until* said yes."""
        deadline = time.monotonic() + timeout
        while True:
            assert time.monotonic() < deadline, "\n".join(self.shown)
            ready, _, _ = select.select([self._master], [], [], 0.05)
            if ready:
                data = os.read(self._master, 65536)
                self.raw += data
                self._stream.feed(data)
                self.frames.append(self.shown)
                if until and until(self):
                    return True
            elif self.process.poll() is not None:
                return False

    @property
    def shown(self) -> list[str]:
        """The lines on the screen."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        """All that stays: what scrolled away, and the screen."""
        width = self.screen.columns
        gone = ["".join(line[x].data for x in range(width)).rstrip() for line in self.screen.history.top]
        return "\n".join([*gone, *self.shown]).rstrip()

    def interrupt(self) -> None:
        """What ^C does: the terminal's own doing."""
        os.write(self._master, b"\x03")

    def resize(self, columns: int, lines: int) -> None:
        ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def is_as_before(self) -> bool:
        """Whether the program left the terminal's modes and its cursor as they were."""
        return termios.tcgetattr(self._slave) == self.modes and not self.screen.cursor.hidden

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._slave)
        os.close(self._master)


def _own_terminal() -> None:
    ioctl(0, termios.TIOCSCTTY, 0)
