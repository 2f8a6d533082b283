# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the lab keeps things: what can be made again in the user's cache, what belongs to a fleet in the checkout's state folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
STATE = CHECKOUT / ".pifleet" / "lab"


def cache() -> Path:
    """``${XDG_CACHE_HOME:-~/.cache}/pifleet/lab``: node image, components, artifacts, the engine's log. Shared by all checkouts."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pifleet" / "lab"


def machine() -> Path:
    """What the lab changed on this machine and has to put back: sysctls, a Docker Engine it started."""
    return cache() / "machine"


def fleet_state(fleet: str) -> Path:
    """``.pifleet/lab/<fleet>``: the fleet's ssh key and known_hosts."""
    return STATE / fleet


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file *path* while the block runs, so that two lab commands do not do the same work at once.

    *shared*: together with others that share it, but not with one that holds it alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def machine_in_use(*, alone: bool = False) -> AbstractContextManager[None]:
    """Held while nodes are started; *alone* by what puts the machine back after the last one."""
    return locked(cache() / "machine.lock", shared=not alone)
