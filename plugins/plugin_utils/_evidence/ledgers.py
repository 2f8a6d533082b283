# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ledgers a fleet has: the one in use, and perhaps one before it; and what a preflight wants to know of both."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Settings
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.migration import Migration
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import DeliveryState, state_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import NoLedgerError, Store


@dataclass(frozen=True, slots=True)
class LedgerView:
    """What stands in the legacy queue, how much of it is for the fleet's identity, and how its delivery went last."""

    legacy_event_rows: int
    legacy_body_upload_rows: int
    legacy_rows_for_scope: int
    state: DeliveryState


def ledger_of(settings: Settings) -> Store:
    """Return the ledger in use. Raises LedgerError for a URL that names none."""
    if settings.ledger_url is None:
        return Store(settings.default_ledger, quarantine=True)
    return Store(settings.ledger_url, settings.default_ledger.parent)


def legacy_ledger_of(settings: Settings) -> Store | None:
    """Return the ledger before the one in use: as named, or the fleet's file where the ledger in use is elsewhere. None: there is none."""
    path = settings.legacy_ledger or settings.default_ledger
    if not path.exists() or Store(path).name == ledger_of(settings).name:
        return None
    return Store(path)


def migration_of(settings: Settings) -> Migration:
    """Return the migration of the fleet's legacy rows."""
    return Migration(ledger_of(settings), legacy_ledger_of(settings))


def view_of(settings: Settings) -> LedgerView:
    """Look at the fleet's ledgers. Raises LedgerError where one cannot be read."""
    migration = migration_of(settings)
    standing = migration.standing()
    ours = migration.detect_legacy_rows(settings.identity).total_rows if settings.identity else 0
    try:
        with ledger_of(settings).read() as db:
            state = state_of(db, settings.scope)
    except NoLedgerError:
        state = DeliveryState()
    return LedgerView(standing.event_rows, standing.body_upload_rows, ours, state)
