# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of the timer found, as figures for node-exporter, where the node is observed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from ansible_collections.pifleet.ops.plugins.module_utils._common import exposition
from ansible_collections.pifleet.ops.plugins.module_utils._common.exposition import Gauge, Labels
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Status

FILE = "pifleet-stacks.prom"


def gauges(stacks: Iterable[Status], now: float, *, success: bool) -> list[Gauge]:
    """Return the figures of a run that ended at *now*, seconds since the epoch. A stack that is suspended, or out of scope, is nobody's
    worry."""
    told: dict[Labels, float] = {(("stack", one.name), ("status", one.status)): 1.0 for one in stacks if one.in_scope and not one.suspended}
    return [
        Gauge("pifleet_stack_status", "What each stack is now.", told),
        Gauge("pifleet_stacks_success", "Whether the last run refreshed and reconciled all.", {(): float(success)}),
        Gauge("pifleet_stacks_run_timestamp_seconds", "When the last run ended.", {(): round(now, 3)}),
    ]


def write(root: str, stacks: Iterable[Status], now: float, *, success: bool) -> None:
    """Write them where node-exporter looks. Where there is no such folder nobody asks; a disk that is full is told by others."""
    folder = root.rstrip("/") + exposition.FOLDER
    if os.path.isdir(folder):
        with suppress(OSError):
            exposition.write(f"{folder}/{FILE}", gauges(stacks, now, success=success))
