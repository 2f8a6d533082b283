# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab says: a live progress display on a terminal, one plain line a step everywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol


class Step(Protocol):
    """A long step under way."""

    def say(self, text: str) -> None:
        """Show what the step does now (terminal only: it may change many times a second)."""


class Console:
    """Steps may run side by side in threads. ``with Console() as console: with console.step("node image") as step: …``"""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._progress: Any = None
        self._live = sys.stderr.isatty()

    def __enter__(self) -> Console:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def line(self, text: str) -> None:
        """Print one lasting line."""
        with self._lock:
            if self._progress is not None:
                self._progress.console.print(text, markup=False, highlight=False)
            else:
                print(f"[lab] {time.monotonic() - self._began:5.1f} s  {text}", file=sys.stderr, flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step that takes a while; its end is printed with the time it took."""
        began = time.monotonic()
        if self._live:
            progress = self._started()
            task = progress.add_task(title, total=None, detail="")
            try:
                yield _Live(progress, task)
            finally:
                progress.remove_task(task)
        else:
            self.line(f"{title} …")
            yield _Silent()
        self.line(f"{title}: {time.monotonic() - began:.1f} s")

    def _started(self) -> Any:
        with self._lock:
            if self._progress is None:
                from rich.console import Console as RichConsole
                from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

                columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TextColumn("[dim]{task.fields[detail]}"))
                self._progress = Progress(*columns, console=RichConsole(stderr=True), transient=True)
                self._progress.start()
            return self._progress


class _Live:
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def say(self, text: str) -> None:
        self._progress.update(self._task, detail=text.strip()[:90])


class _Silent:
    def say(self, text: str) -> None:
        del text  # only a live display shows what changes many times a second
