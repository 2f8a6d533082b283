# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel settings: nodes are containers, so what a kubelet sets is set for the whole machine. All of it is put back.

The values from before are written to disk before the first node starts, so that they are put back after a kill too.
They belong to one boot of the machine: after a restart the kernel has its own values again, and the file is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import read_text, write_atomic
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import image, paths
from lab.console import Console

PROC = Path("/proc/sys")
# Counters, and settings that are the network namespace's or the user's own affair.
VOLATILE = re.compile(
    r"^(kernel/(random/|ns_last_pid|pty/nr|hostname|domainname|sched_domain|perf_event_max_sample_rate|tainted|modprobe|core_pattern|seccomp)"
    r"|fs/(dentry-state|file-nr|inode-nr|inode-state|aio-nr|quota/|binfmt_misc/)|vm/stat_refresh|vm/(drop_caches|compact_memory)"
    r"|user/|sunrpc/|dev/|abi/|debug/|net/(?!ipv4/ip_forward$|ipv4/conf/(all|default)/|ipv6/conf/(all|default)/|bridge/|netfilter/nf_conntrack_max$))"
)
# More than about six kubelets exhaust the default of 128.
NEEDED = {"fs/inotify/max_user_instances": 1024}


def _store() -> Path:
    return paths.machine() / "sysctls.json"


def _boot_id() -> str:
    return (read_text("/proc/sys/kernel/random/boot_id") or "").strip()


def current(proc: Path = PROC) -> dict[str, str]:
    """All settings that can be read and written, by their path below /proc/sys."""
    found = {}
    for folder, _, files in os.walk(proc):
        for file in files:
            path = Path(folder, file)
            name = str(path.relative_to(proc))
            if VOLATILE.match(name):
                continue
            try:
                if path.stat().st_mode & 0o200:
                    found[name] = path.read_text().strip()
            except (OSError, UnicodeDecodeError):
                continue  # write-only, or needs a right we lack: then we cannot have changed it
    return found


def save() -> None:
    """Keep the values of now, unless those from before an earlier fleet of this boot are kept already."""
    kept = read_text(_store())
    if kept is None or json.loads(kept)["boot_id"] != _boot_id():
        write_atomic(_store(), json.dumps({"boot_id": _boot_id(), "values": current()}, indent=1))


def different() -> dict[str, str]:
    """What has to be put back: path -> the value from before."""
    kept = read_text(_store())
    if kept is None or json.loads(kept)["boot_id"] != _boot_id():
        return {}
    now = current()
    return {name: old for name, old in json.loads(kept)["values"].items() if name in now and now[name] != old}


def apply(values: dict[str, str]) -> None:
    """Set *values* on the machine: as root, by sudo, or, for one who may only use Docker, in a container with all rights."""
    if os.geteuid() == 0:
        for name, value in values.items():
            with contextlib.suppress(OSError):  # restore() looks at the outcome
                (PROC / name).write_text(value + "\n")
        return
    for name, value in values.items():
        if shutil.which("sudo"):
            command = ["sudo", "tee", str(PROC / name)]
        else:
            command = ["docker", "run", "--rm", "--interactive", "--privileged", "--network", "host", image.ensure(image.node(), Console())]
            command += ["tee", str(PROC / name)]
        check(run(command, stdin=value + "\n"))


def restore() -> dict[str, str]:
    """Put everything back that differs and forget the kept values; returns what was put back."""
    changed = different()
    if changed:
        apply(changed)
        if left := different():
            raise PifleetError(f"Not put back: {', '.join(sorted(left))}.", f"The values from before: {_store()}.")
    _store().unlink(missing_ok=True)
    return changed


def raise_limits() -> None:
    """Have at least NEEDED."""
    low = {name: str(value) for name, value in NEEDED.items() if int((PROC / name).read_text()) < value}
    if low:
        apply(low)
