# SPDX-License-Identifier: GPL-3.0-or-later
"""The one gate to the outbox: the preflight is asked, and only its consent lets rows be queued or sent.

What is refused stays in the ledger, and is queued once the boundary is clean.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import preflight
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Settings
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.ledgers import ledger_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Clearance, Outbox, Queued
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils.preflight import ForegroundIdentity, PreflightResult


class RefusedError(PifleetError):
    """The sync boundary is not clean. *result* says why; the text is what ``PreflightResult.render`` shows."""

    def __init__(self, result: PreflightResult) -> None:
        super().__init__(text_of(result))
        self.result = result


def text_of(result: PreflightResult, width: int = 160) -> str:
    """Return what a refused preflight says, without colours."""
    # here, where something is wrong: each run of ansible-playbook imports this file
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None)
    result.render(console)
    shown: str = console.file.getvalue()  # type: ignore[attr-defined]
    return shown.rstrip("\n")


def clear(
    root: Path,
    settings: Settings,
    foreground: ForegroundIdentity | None = None,
    ask: Callable[..., PreflightResult] = preflight.run_preflight,
) -> Clearance:
    """Return the consent to queue and send rows of the fleet in *root*. Raises RefusedError, SettingsError and LedgerError."""
    result = ask(root, settings=settings, foreground=foreground)
    if not result.ok:
        raise RefusedError(result)
    return Clearance(settings.scope)


@contextmanager
def outbox_of(settings: Settings, now: Callable[[], datetime] = utc_now) -> Iterator[Outbox]:
    """Open the outbox in the fleet's ledger, for several transactions."""
    store = ledger_of(settings)
    with store.session():
        yield Outbox(store, limit=settings.limit, attempts=settings.attempts, now=now)


def queue_evidence(root: Path) -> Queued:
    """Queue all evidence of the ledger that was not queued yet. What every producer calls after it has written to the ledger.

    Raises RefusedError where the boundary is not clean, OutboxFullError where there is no more room, SettingsError and LedgerError. The
    evidence stays in the ledger then, and the next call queues it.
    """
    settings = identity.load(root)
    allowed = clear(root, settings)
    with outbox_of(settings) as outbox:
        return outbox.enqueue_from_ledger(allowed)
