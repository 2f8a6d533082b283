# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of tests of alerts: each is an event with its report, and the last one that passed says when the next is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import add_body, append_event, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rotations import told
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import open_run_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store
from sqlalchemy import Connection

TESTED = "alert.tested"
#: within which the route of each of these severities is tested
PERIOD = timedelta(days=30)
SEVERITIES = ("critical",)
REPORT = "alert-test.md"


@dataclass(frozen=True, slots=True)
class Due:
    """When alerts of *severity* were tested last with success, None for never; *overdue*: whether that is more than PERIOD ago."""

    severity: str
    last: str | None
    overdue: bool


class AlertTests:
    """Raises LedgerError where the ledger cannot be used."""

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._now = now

    def refuse_without_run(self, process: Process) -> None:
        """Raise PifleetError where *process* has no open run: not after the alert was fired."""
        with self._store.write() as db:
            _run_of(db, process)

    def record(self, process: Process, data: Mapping[str, Any], report: bytes) -> None:
        """Record a test of this process's open run. *data*: with ``severity`` and ``error``, empty where it passed."""
        with self._store.write() as db:
            body = add_body(db, REPORT, "text/markdown", report)
            append_event(db, TESTED, data, run_id=_run_of(db, process), bodies=(body,), now=self._now)


def due(store: Store, now: Callable[[], datetime] = utc_now) -> tuple[Due, ...]:
    """Return when each severity is due. Where there is no ledger yet, nothing was ever tested."""
    try:
        with store.read() as db:
            passed = {str(data["severity"]): at for at, data in told(db, TESTED) if not data["error"]}
    except LedgerError:
        passed = {}
    return tuple(Due(one, passed.get(one), _overdue(passed.get(one), now())) for one in SEVERITIES)


def _overdue(at: str | None, now: datetime) -> bool:
    return at is None or now - datetime.fromisoformat(at.replace("Z", "+00:00")) > PERIOD


def _run_of(db: Connection, process: Process) -> str:
    run_id = open_run_of(db, process)
    if run_id is None:
        raise PifleetError("No run is open in the ledger.", "Use playbooks/alert_test.yml, which opens its record first.")
    return run_id
