# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds the stack of a fix run at the revision that verified: no reconciliation works on it, and no refresh changes its files."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._fix_host.hold import STACKS_STATE
from ansible_collections.pifleet.ops.plugins.module_utils._fix_host.service import Place
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import labels, state
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.local import NodeClock
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.locks import Lock


def pin(place: Place, revision: str, folder: str = STACKS_STATE) -> bool:
    """Hold the stack at *revision*, or let go of it where that is empty; whether that was still to be done."""
    lock = Lock(folder, place.project, labels.STACKS, NodeClock())
    lock.acquire(60.0)
    try:
        record = state.load_one(folder, place.project, labels.STACKS)
        if record is None:
            if not revision:
                return False
            raise PifleetError(
                f"Nothing is known on the node of the stack {place.stack}, which was to be pinned.", "Run playbooks/stacks.yml."
            )
        if record.pinned != revision:
            state.save(folder, replace(record, pinned=revision))
        return record.pinned != revision
    finally:
        lock.release()
