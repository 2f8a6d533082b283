# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process a run belongs to, and whether it still lives: pids are used again, and a reboot ends them all."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """*controller*: the machine's name; *boot_id*: of its running system; *started*: when the process began, in the kernel's words."""

    controller: str
    boot_id: str
    pid: int
    started: str


def identify(pid: int, proc: Path = Path("/proc")) -> Process:
    """Return who *pid* is. Without /proc (macOS) the pid alone tells."""
    return Process(socket.gethostname(), _read(proc / "sys/kernel/random/boot_id"), pid, _started(pid, proc))


def is_gone(process: Process, proc: Path = Path("/proc")) -> bool:
    """Whether *process* has certainly ended. One of another controller is never certain."""
    if process.controller != socket.gethostname():
        return False
    if process.boot_id != _read(proc / "sys/kernel/random/boot_id"):
        return True
    if process.started:
        return _started(process.pid, proc) != process.started
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _started(pid: int, proc: Path) -> str:
    """The 22nd field of /proc/<pid>/stat (proc(5)); the 2nd may hold blanks and brackets. A zombie has ended."""
    fields = _read(proc / str(pid) / "stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""
