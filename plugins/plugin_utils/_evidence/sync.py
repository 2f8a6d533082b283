# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person or the service does at the sync boundary: sync now, status, compare, a new token, services ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.plugin_utils import preflight
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import gate, owner, token
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.compare import Comparison, Lists, compare
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.delivery import Delivered, Delivery, Hub
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import (
    FILE,
    LEGACY,
    Identity,
    Settings,
    SettingsError,
    executable_path,
    source_path,
)
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.ledgers import ledger_of, legacy_ledger_of, migration_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.migration import Migrated, Migration
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import (
    DeliveryState,
    Depths,
    Outbox,
    OutboxFullError,
    Queued,
    Stranded,
)
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import is_gone
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import NoLedgerError
from ansible_collections.pifleet.ops.plugins.plugin_utils.preflight import ForegroundIdentity, PreflightResult

#: seconds that a service has to end by itself
STOP_SECONDS = 15.0


class HubWithLists(Hub, Lists, Protocol):
    """What is delivered to, and compared with."""


Connect = Callable[[Settings], AbstractContextManager[HubWithLists]]


def connect(settings: Settings) -> AbstractContextManager[HubWithLists]:
    """Return the fleet's hub. Raises TokenError where there is no token to show it, and HubError where its certificates cannot be read."""
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.hub_client import HttpHub

    return HttpHub(identity_of(settings), token.read(settings.token, preflight.utc_now()), settings.ca_file)


def identity_of(settings: Settings) -> Identity:
    """Return the fleet's identity. Raises SettingsError where it has none yet."""
    if settings.identity is None:
        raise SettingsError(
            f"This fleet has no identity yet: {settings.root / FILE} has no hub_url.",
            "Name hub_url, owner and fleet there (docs/runbooks/sync.md).",
        )
    return settings.identity


@dataclass(frozen=True, slots=True)
class Synced:
    """What one ``sync now`` did."""

    migrated: Migrated | None
    queued: Queued
    delivered: Delivered
    full: OutboxFullError | None = None
    #: what stays queued for other identities
    stranded: tuple[Stranded, ...] = ()


def sync_now(settings: Settings, *, migrate: bool = True, connect: Connect = connect) -> Synced:
    """Take over legacy rows, then queue and send all that there is.

    Raises RefusedError, with nothing changed, where anything but legacy rows stands against it; SettingsError, TokenError, LedgerError.
    """
    identity = identity_of(settings)
    asked = preflight.run_preflight(settings.root, settings=settings)
    migrated = None
    if migrate and asked.only_legacy_rows:
        migrated = migration_of(settings).run(identity)
    gate.clear(settings.root, settings)
    with connect(settings) as hub:
        done = deliver(settings, hub)
    return replace(done, migrated=migrated, stranded=stranded(settings))


def stranded(settings: Settings) -> tuple[Stranded, ...]:
    """Return what is queued for other identities than the fleet's, such as the one with its hub before. Raises LedgerError."""
    try:
        return Outbox(ledger_of(settings)).stranded(settings.scope)
    except NoLedgerError:
        return ()


def adopt(settings: Settings) -> Migrated:
    """Take over rows that were queued for the same owner and fleet and another hub. The next sync sends them.

    Raises RefusedError, with nothing changed, where the boundary is not clean; SettingsError and LedgerError.
    """
    identity = identity_of(settings)
    gate.clear(settings.root, settings)
    return Migration(ledger_of(settings)).adopt(identity)


def deliver(
    settings: Settings,
    hub: Hub,
    foreground: ForegroundIdentity | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    now: Callable[[], datetime] = utc_now,
) -> Synced:
    """Queue and send until there is nothing left, or the hub is out of order. An outbox that was full is filled again as it empties.

    Raises RefusedError where the boundary is not clean (any more), and LedgerError.
    """
    with gate.outbox_of(settings, now) as outbox:
        with suppress(NoLedgerError):
            outbox.recount(settings.scope)
        return _deliver(settings, outbox, hub, foreground, stop)


def _deliver(settings: Settings, outbox: Outbox, hub: Hub, foreground: ForegroundIdentity | None, stop: Callable[[], bool]) -> Synced:
    queued, sent = Queued(), Delivered()
    while True:
        full = None
        try:
            added = outbox.enqueue_from_ledger(gate.clear(settings.root, settings, foreground))
            queued = Queued(queued.events + added.events, queued.bodies + added.bodies, queued.missing + added.missing)
        except OutboxFullError as error:
            full = error
        done = Delivery(outbox, hub, settings.scope, stop=stop).run()
        sent = sent.and_then(done)
        if full is None or done.error or stop() or not done.events + done.bodies:
            return Synced(None, queued, sent, full)


OwnerStatus = Literal["present", "absent", "orphan"]


@dataclass(frozen=True, slots=True)
class Status:
    """All that is to be known of the sync boundary, without asking the hub."""

    result: PreflightResult
    foreground: ForegroundIdentity
    owner_status: OwnerStatus
    owner_record: owner.OwnerRecord | None
    active_path: str
    active: Depths
    legacy_path: str
    legacy: Depths
    delivery: DeliveryState
    token: token.TokenState
    #: events of the ledger that are not queued yet
    unqueued: int
    #: what is queued for other identities, which no sync of this one sends
    stranded: tuple[Stranded, ...] = ()

    @property
    def exit_code(self) -> int:
        return 0 if self.result.ok else 2

    def to_dict(self) -> dict[str, Any]:
        """Return the preflight and what is around it, as JSON takes it; nothing secret is in it."""
        return {
            **self.result.to_dict(),
            "exit_code": self.exit_code,
            "foreground": asdict(self.foreground),
            "daemon_owner_record": {
                "status": self.owner_status,
                "record": self.owner_record.to_dict() if self.owner_record else None,
            },
            "active_queue": {
                "path": self.active_path,
                "event_count": self.active.event_count,
                "body_upload_count": self.active.body_upload_count,
                "dead_letter_count": self.active.dead,
                "quarantined_count": self.active.quarantined,
                "unqueued_event_count": self.unqueued,
                "oldest_queued_at": self.active.oldest,
            },
            "legacy_queue": {
                "path": self.legacy_path,
                "event_count": self.result.legacy_event_rows,
                "body_upload_count": self.result.legacy_body_upload_rows,
                "rows_in_scope": self.result.legacy_rows_for_scope,
            },
            "stranded_queues": [asdict(other) for other in self.stranded],
            "delivery": asdict(self.delivery),
            "token": {"state": self.token.state, "detail": self.token.detail},
        }


def status(settings: Settings, now: Callable[[], datetime] = preflight.utc_now) -> Status:
    """Look, and change nothing. Raises SettingsError and LedgerError."""
    result = preflight.run_preflight(settings.root, settings=settings, now=now)
    store, before = ledger_of(settings), legacy_ledger_of(settings)
    outbox = Outbox(store)
    try:
        active, legacy, delivery = outbox.depths(settings.scope), outbox.depths(LEGACY), outbox.state(settings.scope)
        unqueued = outbox.unqueued()
    except NoLedgerError:
        active = legacy = Depths(0, 0, 0, 0, None)
        delivery, unqueued = DeliveryState(), 0
    record, owner_status = _owner(settings, result)
    return Status(
        result=result,
        foreground=preflight.foreground_of(settings),
        owner_status=owner_status,
        owner_record=record,
        active_path=store.name,
        active=active,
        legacy_path=before.name if before else store.name,
        legacy=legacy,
        delivery=delivery,
        token=token.inspect(settings.token, now(), delivery.refused_token),
        unqueued=unqueued,
        stranded=stranded(settings),
    )


def _owner(settings: Settings, result: PreflightResult) -> tuple[owner.OwnerRecord | None, OwnerStatus]:
    found = next((f for f in owner.read_all(settings.sync_dir) if f.owner), None)
    if found is None:
        return None, "absent"
    return found.record, "orphan" if any(orphan.path == str(found.path) for orphan in result.orphan_records) else "present"


def compare_with_hub(settings: Settings, *, connect: Connect = connect) -> Comparison:
    """Compare the ledger with the hub, record by record. Raises SettingsError, TokenError, LedgerError, HubError and HubAuthError."""
    identity_of(settings)
    with connect(settings) as hub:
        return compare(ledger_of(settings), settings.scope, hub)


def retry_dead_letters(settings: Settings) -> int:
    """Let rows be sent again that the hub has refused too often, and return how many there are. Raises LedgerError."""
    return Outbox(ledger_of(settings)).revive(settings.scope)


def keep_token(settings: Settings, source: Path, now: Callable[[], datetime] = preflight.utc_now) -> Path:
    """Put the token in the file *source* where the fleet's settings expect it, with mode 0600, and return that path.

    Raises SettingsError where the settings name no file for it, and TokenError where *source* has no token that still holds.
    """
    if settings.token is None:
        raise SettingsError(f"{settings.root / FILE} names no token_file.", "Add it: where the token shall stand, outside of git.")
    if settings.token.key is not None:
        raise SettingsError(
            f"The token stands encrypted in {settings.token.path}.",
            f"Change it there: `sops {settings.token.path}`, key {settings.token.key}.",
        )
    try:
        text = (atomic_file.read_text(source) or "").strip()
    except OSError as error:
        raise token.TokenError(f"{source} cannot be read: {error.strerror}.", "Name a file with a token.") from error
    if not text or len(text.split()) != 1:
        raise token.TokenError(f"{source} holds no token.", "It takes one line: what `token add` of the hub has printed.")
    expires_at = token.expiry_of(text)
    if expires_at is not None and expires_at <= now():
        raise token.TokenError(f"The token in {source} expired at {expires_at:%Y-%m-%d %H:%M} UTC.", "Ask the hub's operator for another.")
    try:
        atomic_file.write_atomic(settings.token.path, f"{text}\n", 0o600, folder_mode=0o700)
    except OSError as error:
        raise token.TokenError(f"{settings.token.path} cannot be written: {error.strerror}.", "Correct token_file.") from error
    return settings.token.path


def stop_services(settings: Settings, *, seconds: float = STOP_SECONDS) -> list[str]:
    """End every sync service that has a record in this fleet and remove the records. Return what was done, a sentence for each.

    Raises OwnerError for one of another controller or another user.
    """
    done = []
    for found in owner.read_all(settings.sync_dir):
        record = found.record
        if record is None:
            done.append(f"removed {found.path}, which was no record")
        elif is_gone(record.process):
            done.append(f"removed the record of pid {record.pid}, which had ended")
        else:
            _end(record, seconds)
            done.append(f"ended pid {record.pid}, the service of {record.team_or_user} since {record.started_at}")
        owner.forget(found)
    return done


def _end(record: owner.OwnerRecord, seconds: float) -> None:
    if record.controller != os.uname().nodename:
        raise owner.OwnerError(
            f"The sync service with pid {record.pid} runs on {record.controller}.",
            f"End it there, or, where that controller is gone for good, remove {record.pid}'s record below .pifleet/sync.",
        )
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        try:
            os.kill(record.pid, number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise owner.OwnerError(f"The sync service with pid {record.pid} is another user's.", "End it as that user.") from error
        for _number in range(int(patience / 0.05)):
            if is_gone(record.process):
                return
            time.sleep(0.05)
    raise owner.OwnerError(f"The sync service with pid {record.pid} does not end.", "Look at it: it may hang in the kernel (state D).")


def service_command(settings: Settings) -> dict[str, Any]:
    """Return how the sync service of this fleet is run: its argument list, and what it needs as PYTHONPATH."""
    here = Path(__file__).absolute()
    collections = next((folder.parent for folder in here.parents if folder.name == "ansible_collections"), here.parents[6])
    module = "ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.service"
    return {
        "argv": [executable_path(), "-m", module, "--root", str(settings.root)],
        "python_path": str(collections),
        "source_path": source_path(),
    }
