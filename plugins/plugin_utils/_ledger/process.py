# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process a run belongs to, and whether it still lives: pids are used again, and a reboot ends them all."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
#: id of a container of Docker, Podman or containerd, in the path of what they mount at /etc/hostname
_CONTAINER = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Process:
    """*controller*: see ``controller``; *boot_id*: of its running system; *started*: when the process began, in the kernel's words."""

    controller: str
    boot_id: str
    pid: int
    started: str


def controller(proc: Path = Path("/proc")) -> str:
    """Return this machine's name, in a container with the container's id.

    A container may have its machine's name (Docker's network mode ``host``), but nobody outside of it sees its processes by their pids.
    """
    name = socket.gethostname()
    # proc_pid_mountinfo(5): the fourth field is the path in the file system, the fifth is where it is mounted
    mounts = (line.split() for line in _read(proc / "self/mountinfo").splitlines())
    found = next((_CONTAINER.search(mount[3]) for mount in mounts if len(mount) > 4 and mount[4] == "/etc/hostname"), None)
    return name if found is None or found[0].startswith(name) else f"{name}/{found[0][:12]}"


def identify(pid: int, proc: Path = Path("/proc")) -> Process:
    """Return who *pid* is. Without /proc (macOS) the pid alone tells."""
    return Process(controller(proc), _read(proc / "sys/kernel/random/boot_id"), pid, _started(pid, proc))


def is_gone(process: Process, proc: Path = Path("/proc")) -> bool:
    """Whether *process* has certainly ended. One of another controller is never certain."""
    if process.controller != controller(proc):
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


def end_with_parent() -> None:
    """Let this process, a worker of ansible-playbook, be killed as soon as that is.

    A worker leads a session of its own. It would go on with its task unseen, beside the run that takes over. Linux alone can (prctl(2)).
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent and parent.pid != os.getppid():  # it ended before that
        os.kill(os.getpid(), signal.SIGKILL)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _started(pid: int, proc: Path) -> str:
    """The 22nd field of /proc/<pid>/stat (proc(5)); the 2nd may hold blanks and brackets. A zombie has ended."""
    fields = _read(proc / str(pid) / "stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""
