# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines at the foot of a terminal that are drawn anew while everything else scrolls above them, and the tables in the end.

The cursor is never hidden and the terminal's mode never changed: whenever the process dies, the terminal is as it was.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.pifleet.ops.plugins.plugin_utils._live.cells import RESET, Cell, columns, fitted, width_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._live.outcome import Changed, Failed
from ansible_collections.pifleet.ops.plugins.plugin_utils._live.progress import Progress, Row

#: seconds between two frames
FRAME = 0.25
BAR = 12
STYLES = {"runs": "\x1b[36m", "waits": "\x1b[2m", "out": "\x1b[31m", "done": "\x1b[32m"}
BOLD, DIM, RED, YELLOW = "\x1b[1m", "\x1b[2m", "\x1b[1;31m", "\x1b[33m"
#: names of programs that watch terminals: what cannot move a cursor, or is no person
DUMB = ("", "dumb", "unknown")


def is_for_a_person(environment: Mapping[str, str], *, tty: bool) -> bool:
    """Whether lines may be drawn anew: on a terminal, not in CI, and colours are wanted."""
    ci = environment.get("CI", "").lower() not in ("", "0", "false")
    plain = bool(environment.get("NO_COLOR")) or bool(environment.get("ANSIBLE_NOCOLOR"))
    return tty and not ci and not plain and environment.get("TERM", "") not in DUMB


def frame(progress: Progress, now: float, width: int, height: int) -> list[tuple[str, str]]:
    """Return the lines of the view as (style, text), none wider than *width* cells."""
    rows = progress.rows(now, max(1, min(height // 2, height - 4)))
    wide = min(max((width_of(row.host) for row in rows), default=0), max(8, width // 4))
    head = fitted(progress.headline(now), min(width, width_of(progress.headline(now))))
    return [(BOLD, head), *((STYLES[row.kind], _line(row, wide, width)) for row in rows)]


def _line(row: Row, wide: int, width: int) -> str:
    full = round(row.share * BAR)
    drawn = "━" * full + "╌" * (BAR - full)
    times = f"  {row.times}" if row.times else ""
    room = max(0, width - wide - BAR - 8 - width_of(times))
    text = row.text if width_of(row.text) <= room else fitted(row.text, max(0, room - 1)) + "…"
    line = f"{fitted(row.host, wide)} {drawn} {row.share:4.0%}  {text}{times}"
    return fitted(line, min(width, width_of(line)))


class Screen:
    """Draws *progress* on *stream*. *lock*: of all that write to the terminal.

    While it is on, ``sys.stdout`` and ``sys.stderr`` are such that what is written to them takes the view away first.
    """

    def __init__(self, progress: Progress, lock: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self.progress = progress
        self.broken: BaseException | None = None
        self._lock = lock
        self._clock = clock
        self._stream = sys.stdout
        self.owner = os.getpid()
        self._drawn: list[int] = []
        self._last: tuple[os.terminal_size, list[tuple[str, str]]] | None = None
        self._paused = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="pifleet-live")
        self._kept = (sys.stdout, sys.stderr)
        self._open = False
        self._held = False

    def start(self) -> None:
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._after_fork)
        sys.stdout = _Through(self, sys.stdout)
        if sys.stderr.isatty():
            sys.stderr = _Through(self, sys.stderr)
        self._thread.start()

    def stop(self) -> None:
        """Take the view away for good. Once more does nothing."""
        if self._over.is_set() or os.getpid() != self.owner:
            return
        self._over.set()
        with self._lock:
            self.clear()
            sys.stdout, sys.stderr = self._kept
        self._thread.join(timeout=2)

    def pause(self, *, paused: bool) -> None:
        """Somebody is asked something: the view is away meanwhile."""
        with self._lock:
            self._paused = paused
            self.clear()

    def clear(self) -> None:
        """Take the view away, until the next frame. Call with the lock."""
        if self._drawn and os.getpid() == self.owner:
            width = self._size().columns
            # a terminal that became narrower has folded the lines
            lines = sum(max(1, -(-cells // max(1, width))) for cells in self._drawn)
            self._drawn = []
            self._write(f"\r\x1b[{lines}A\x1b[J")

    def draw(self) -> None:
        """Draw a frame. Call with the lock."""
        size = self._size()
        if self._paused or size.lines < 6 or size.columns < 40:
            self.clear()
            return
        lines = frame(self.progress, self._clock(), size.columns - 1, size.lines)
        if self._drawn and self._last == (size, lines):
            return
        self._last = size, lines
        self.clear()
        self._drawn = [width_of(text) for _style, text in lines]
        self._write("".join(f"{style}{text}{RESET}\n" for style, text in lines))

    def write(self, stream: Any, text: str) -> int:
        """Write what is to stay, above the view."""
        if os.getpid() != self.owner or self._over.is_set():
            return int(stream.write(text))
        with self._lock:
            self.clear()
            count = stream.write(text)
            # only whole lines leave the view a line of its own
            self._open = not text.endswith("\n")
            stream.flush()
        return int(count)

    def _run(self) -> None:
        while not self._over.wait(FRAME):
            try:
                with self._lock:
                    if not self._over.is_set() and not self._open:
                        self.draw()
            except Exception as error:
                # the view is given up, never the run: what is written goes on as without it
                self.broken = error
                return

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _size(self) -> os.terminal_size:
        try:
            return os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return shutil.get_terminal_size()

    def _before_fork(self) -> None:
        # a thread that has the lock in this moment would have it for ever in the child
        if not self._over.is_set() and os.getpid() == self.owner:
            self._lock.acquire()
            self._held = True

    def _after_fork(self) -> None:
        if self._held:
            self._held = False
            self._lock.release()


class _Through:
    """A stream that takes the view away before it writes."""

    def __init__(self, screen: Screen, stream: Any) -> None:
        self._screen, self._stream = screen, stream

    def write(self, text: str) -> int:
        return self._screen.write(self._stream, text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def changes_table(changes: list[Changed], width: int) -> str:
    """Return the table of what changed, with colours."""
    head: list[list[Cell]] = [[(BOLD, "hosts")], [(BOLD, "task")], [(BOLD, "why")]]
    rows: list[list[list[Cell]]] = [[[(YELLOW, ", ".join(row.hosts))], [("", row.task)], [(DIM, row.why)]] for row in changes]
    return "\n".join(columns([head, *rows], width))


def failures_table(failures: list[Failed], width: int) -> str:
    """Return what failed, whole, with colours."""
    rows: list[list[list[Cell]]] = []
    for one in failures:
        hint = [("", f"→ {one.hint}")] if one.hint else []
        rows.append([[(RED, one.host)], [(BOLD, one.task), (RED, one.cause), *hint]])
    return "\n".join(columns(rows, width))
