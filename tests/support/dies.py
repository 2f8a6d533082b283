# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a program of ours that is killed (-9) before any given line of its own: `python -m tests.support.dies COUNTER AT MODULE ARGS…`.

Lines are counted as they are executed, in functions of the code that moves evidence, whatever the thread; each one's first few times, so
that loops over rows do not drown the rest. *COUNTER*: the file in which the count stands, for who watches; *AT*: before which line it dies,
0 for never.
"""

from __future__ import annotations

import mmap
import os
import runpy
import signal
import struct
import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

OURS = ("/plugin_utils/_evidence/", "/plugin_utils/_ledger/", "/pifleet/ops/hub/")
MOST = 10
_FUNCTION = 0x1  # CO_OPTIMIZED: no module's or class's body


def runner(counter: Path, at: int = 0) -> tuple[str, ...]:
    """Return the words that stand before the module of a program that is to die."""
    counter.write_bytes(bytes(8))
    return (sys.executable, "-m", "tests.support.dies", str(counter), str(at))


def counted(counter: Path) -> int:
    """Return how many lines a program has executed by now."""
    return int(struct.unpack("<q", counter.read_bytes())[0])


def watch(counter: Path, at: int) -> None:
    """Count from here on, and die where it is time."""
    with counter.open("r+b") as stream:
        shown = mmap.mmap(stream.fileno(), 8)
    count, seen = 0, Counter[tuple[CodeType, int]]()

    def line(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        place = (frame.f_code, frame.f_lineno)
        if event == "line" and seen[place] < MOST:
            seen[place] += 1
            count += 1
            shown[:] = struct.pack("<q", count)
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    def call(frame: FrameType, _event: str, _argument: object) -> Any:
        code = frame.f_code
        return line if code.co_flags & _FUNCTION and any(part in code.co_filename for part in OURS) else None

    threading.settrace(call)
    sys.settrace(call)


if __name__ == "__main__":
    _counter, _at, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    watch(Path(_counter), int(_at))
    runpy.run_module(module, run_name="__main__", alter_sys=True)
