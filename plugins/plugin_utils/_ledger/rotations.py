# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of rotations of secrets: each is an event, and the last one of its kind says when the next is due."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import append_event, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import open_run_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import chains, events
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store
from sqlalchemy import Connection, select

ROTATED, TAKEN_BACK = "secrets.rotated", "secrets.taken_back"
#: within which every secret is rotated
PERIOD = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Due:
    """When *what* was rotated last, None for never; *overdue*: whether that is more than PERIOD ago."""

    what: str
    last: str | None
    overdue: bool


class Rotations:
    """Raises LedgerError where the ledger cannot be used."""

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._now = now

    def record(self, process: Process, kind: str, data: Mapping[str, Any]) -> None:
        """Record a rotation of this process's open run, once for each ``rotation`` of *data*. Raises PifleetError where no run is open."""
        with self._store.write() as db:
            run_id = open_run_of(db, process)
            if run_id is None:
                raise PifleetError("No run is open in the ledger.", "Use playbooks/rotate_secrets.yml, which opens its record first.")
            if not any(seen["rotation"] == data["rotation"] for _at, seen in told(db, kind)):
                append_event(db, kind, data, run_id=run_id, now=self._now)


def due(store: Store, kinds: Iterable[str], now: Callable[[], datetime] = utc_now) -> tuple[Due, ...]:
    """Return for each of *kinds* when it was rotated last. Where there is no ledger yet, nothing ever was."""
    try:
        with store.read() as db:
            last = {str(data["what"]): at for at, data in told(db, ROTATED)}
    except LedgerError:
        last = {}
    return tuple(Due(what, last.get(what), _overdue(last.get(what), now())) for what in kinds)


def _overdue(at: str | None, now: datetime) -> bool:
    return at is None or now - datetime.fromisoformat(at.replace("Z", "+00:00")) > PERIOD


def told(db: Connection, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (time, data) of the events of *kind* of this ledger's own chain, oldest first."""
    wanted = select(events.c.at, events.c.content).join(chains).where(chains.c.own, events.c.kind == kind).order_by(events.c.seq)
    return [(row.at, json.loads(row.content)["data"]) for row in db.execute(wanted)]
