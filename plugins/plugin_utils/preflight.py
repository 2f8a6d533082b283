# SPDX-License-Identifier: GPL-3.0-or-later
"""The sync boundary: whether evidence may be queued and sent now, asked by everything that queues or sends, decided only here.

A preflight reads: the settings, the records of sync services, the ledger's queues, the token's file. It uses no network, signals no process
and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity as identities
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import owner, token
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Settings
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.ledgers import LedgerView, ledger_of, view_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.owner import Found, OwnerRecord
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process, is_gone

if TYPE_CHECKING:
    from rich.console import Console

UNSET = "<unset>"
#: lines that ``PreflightResult.render`` prints at most
MAX_LINES = 25
SYNC_NOW = "ansible-playbook playbooks/sync.yml"

MismatchField = Literal[
    "daemon_package_version",
    "daemon_executable_path",
    "daemon_source_path",
    "daemon_server_url",
    "daemon_team_or_user",
    "daemon_queue_db_path",
]
OrphanReason = Literal["dead_pid", "executable_gone", "other_version", "other_ledger", "other_identity", "not_the_owner", "unreadable"]

_PREFIX = "daemon_"
_SHOWN_ORPHANS = 4


@dataclass(frozen=True, slots=True)
class ForegroundIdentity:
    """Who is asking: this process, its code, and the identity it works for; *server_url* and *team_or_user* None where it has none."""

    package_version: str
    executable_path: str
    source_path: str
    server_url: str | None
    team_or_user: str | None
    queue_db_path: str
    pid: int


@dataclass(frozen=True, slots=True)
class OwnerMismatch:
    """One thing in which the running service differs from who is asking. Values are free of secrets; a missing one is ``<unset>``."""

    field: MismatchField
    foreground_value: str
    daemon_value: str
    remediation_hint: str


@dataclass(frozen=True, slots=True)
class OrphanRecord:
    """A service that left its record behind, or that works on for nobody. *record* None where its file holds none."""

    path: str
    reason: OrphanReason
    record: OwnerRecord | None

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "reason": self.reason, "record": self.record.to_dict() if self.record else None}


@dataclass(frozen=True, slots=True)
class PreflightResult:
    """*legacy_event_rows* and *legacy_body_upload_rows*: all that stands in the legacy queue; *legacy_rows_for_scope*: how many of these
    this identity would take over. *ok*: no mismatch, no orphan, none to take over, and a usable token where one is required.
    """

    ok: bool
    mismatches: tuple[OwnerMismatch, ...]
    orphan_records: tuple[OrphanRecord, ...]
    legacy_event_rows: int
    legacy_body_upload_rows: int
    legacy_rows_for_scope: int
    auth_present: bool
    auth_required: bool

    @property
    def only_legacy_rows(self) -> bool:
        """Whether nothing but legacy rows stands against it, which a migration takes over."""
        return bool(self.legacy_rows_for_scope) and not self.mismatches and not self.orphan_records and self._authenticated

    @property
    def _authenticated(self) -> bool:
        return self.auth_present or not self.auth_required

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON takes them, tokens and passwords masked."""
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "mismatches": [asdict(mismatch) for mismatch in self.mismatches],
            "orphan_records": [orphan.to_dict() for orphan in self.orphan_records],
        }

    def render(self, console: Console) -> None:
        """Say what is wrong and which command mends it, in at most 25 lines. Prints nothing when all is well."""
        from rich.text import Text

        for line in self._lines():
            console.print(Text(" ".join(line.splitlines())), no_wrap=True, overflow="ellipsis")

    def _lines(self) -> list[str]:
        if self.ok:
            return []
        problems = [*map(_mismatch_line, self.mismatches), *self._orphan_lines(), *self._other_lines()]
        return ["Evidence is neither queued nor sent: the sync boundary is not clean.", *problems, "What mends it:", *self._remedies()]

    def _orphan_lines(self) -> list[str]:
        lines = [_orphan_line(orphan) for orphan in self.orphan_records[:_SHOWN_ORPHANS]]
        more = len(self.orphan_records) - len(lines)
        return [*lines, f"  orphan_records: and {more} more"] if more else lines

    def _other_lines(self) -> list[str]:
        lines = []
        if self.legacy_rows_for_scope:
            lines.append(
                f"  legacy_rows_for_scope: {self.legacy_rows_for_scope} (legacy_event_rows: {self.legacy_event_rows}, "
                f"legacy_body_upload_rows: {self.legacy_body_upload_rows}) were queued before the fleet had an identity"
            )
        if not self._authenticated:
            lines.append("  auth_present: false, auth_required: true: no token that the hub would take")
        return lines

    def _remedies(self) -> list[str]:
        hints = dict.fromkeys(mismatch.remediation_hint for mismatch in self.mismatches)
        if self.orphan_records:
            hints[f"{owner.STOP}   # ends such services and removes their records"] = None
        if not self._authenticated:
            hints[f"{SYNC_NOW} -e mode=token -e token_from=FILE   # FILE: a new token of the hub's operator"] = None
        if self.legacy_rows_for_scope:
            hints[f"{SYNC_NOW}   # takes the legacy rows over, then sends"] = None
        return [f"  {hint}" for hint in hints]


def collect_foreground_identity(root: Path) -> ForegroundIdentity:
    """Return who this process is for the fleet in *root*. Raises SettingsError where ``evidence.yml`` cannot be used."""
    return foreground_of(identities.load(root))


def foreground_of(settings: Settings) -> ForegroundIdentity:
    """Return who this process is with the settings that it has read."""
    identity = settings.identity
    return ForegroundIdentity(
        package_version=origin.collection_version(),
        executable_path=identities.executable_path(),
        source_path=identities.source_path(),
        server_url=identity.hub_url if identity else None,
        team_or_user=identity.team_or_user if identity else None,
        queue_db_path=ledger_of(settings).name,
        pid=os.getpid(),
    )


def utc_now() -> datetime:
    return datetime.now(tz=timezone.utc)


def run_preflight(
    root: Path,
    *,
    settings: Settings | None = None,
    foreground: ForegroundIdentity | None = None,
    view: Callable[[Settings], LedgerView] = view_of,
    gone: Callable[[Process], bool] = is_gone,
    now: Callable[[], datetime] = utc_now,
) -> PreflightResult:
    """Return whether evidence of the fleet in *root* may be queued and sent now, and if not, why.

    *settings* and *foreground*: those of a caller that has read them already, such as a service that keeps what it began with. Raises
    SettingsError where ``evidence.yml`` cannot be used and LedgerError where the ledger cannot be read.
    """
    settings = settings or identities.load(root)
    asking = foreground or foreground_of(settings)
    seen = view(settings)
    judged = [(found, _orphan_reason(found, asking, gone)) for found in owner.read_all(settings.sync_dir)]
    orphans = tuple(OrphanRecord(str(found.path), reason, found.record) for found, reason in judged if reason)
    mismatches = tuple(m for found, reason in judged if found.record and not reason for m in _mismatches(found.record, asking))
    required = settings.identity is not None
    present = token.inspect(settings.token, now(), seen.state.refused_token).usable
    return PreflightResult(
        ok=not mismatches and not orphans and not seen.legacy_rows_for_scope and (present or not required),
        mismatches=mismatches,
        orphan_records=orphans,
        legacy_event_rows=seen.legacy_event_rows,
        legacy_body_upload_rows=seen.legacy_body_upload_rows,
        legacy_rows_for_scope=seen.legacy_rows_for_scope,
        auth_present=present,
        auth_required=required,
    )


def _orphan_reason(found: Found, asking: ForegroundIdentity, gone: Callable[[Process], bool]) -> OrphanReason | None:
    """Why nobody stands behind a record; None for the owner that lives, whatever it differs in."""
    record = found.record
    if record is None:
        return "unreadable"
    if gone(record.process):
        return "dead_pid"
    if not Path(record.executable_path).exists():
        return "executable_gone"
    if found.owner:
        return None
    if (record.server_url, record.team_or_user) != (asking.server_url, asking.team_or_user):
        return "other_identity"
    if record.queue_db_path != asking.queue_db_path:
        return "other_ledger"
    return "other_version" if record.package_version != asking.package_version else "not_the_owner"


def _mismatches(record: OwnerRecord, asking: ForegroundIdentity) -> Sequence[OwnerMismatch]:
    names: tuple[MismatchField, ...] = get_args(MismatchField)
    pairs = ((name, getattr(asking, name.removeprefix(_PREFIX)), getattr(record, name.removeprefix(_PREFIX))) for name in names)
    hint = f"{owner.STOP}   # ends the service (pid {record.pid}); its unit starts it again as it should be"
    return [OwnerMismatch(name, _shown(mine), _shown(its), hint) for name, mine, its in pairs if mine != its]


def _shown(value: str | None) -> str:
    return scrub(value) if value else UNSET


def _mismatch_line(mismatch: OwnerMismatch) -> str:
    return f"  {mismatch.field}: {mismatch.daemon_value}; this run has {mismatch.foreground_value}"


def _orphan_line(orphan: OrphanRecord) -> str:
    record = orphan.record
    who = (
        f"pid {record.pid} since {record.started_at} of {record.team_or_user or UNSET}, {record.package_version}" if record else orphan.path
    )
    return f"  orphan_records: {orphan.reason}, {who}"
