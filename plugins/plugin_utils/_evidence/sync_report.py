# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person reads of the sync boundary."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.compare import Comparison
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.migration import Migrated
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Stranded
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.sync import Status, Synced
from ansible_collections.pifleet.ops.plugins.plugin_utils.preflight import UNSET
from rich.console import Console
from rich.table import Table

NEVER = "never"


def text(render: Callable[[Console], None], width: int = 140) -> str:
    """Return what *render* prints, without colours."""
    stream = io.StringIO()
    render(Console(file=stream, width=width, color_system=None))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def render_status(status: Status, console: Console) -> None:
    """Print identity, owner record, queues, delivery and orphans, then what is wrong, if anything is."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(status):
        table.add_row(name, value)
    console.print(table)
    status.result.render(console)


def _rows(status: Status) -> list[tuple[str, str]]:
    me, queue, result = status.foreground, status.active, status.result
    held = status.delivery
    return [
        ("identity", f"{me.team_or_user or UNSET} at {me.server_url or UNSET}; version {me.package_version}"),
        ("ledger", f"{status.active_path}; {status.unqueued} events not queued yet"),
        ("token", f"{status.token.state} {status.token.detail}".strip() if result.auth_required else "none needed"),
        ("service", _service(status)),
        ("outbox", f"{queue.event_count} events and {queue.body_upload_count} bodies wait, the oldest since {queue.oldest or '-'}"),
        ("", f"{queue.dead} dead letters, {queue.quarantined} quarantined"),
        (
            "legacy queue",
            f"{result.legacy_event_rows} events and {result.legacy_body_upload_rows} bodies, "
            f"{result.legacy_rows_for_scope} of them for this identity; {status.legacy_path}",
        ),
        *(("queued for", line) for line in _stranded_lines(status.stranded, status.foreground.team_or_user)),
        ("last success", held.last_success_at or NEVER),
        ("last attempt", f"{held.last_attempt_at or NEVER}{f': {held.last_error}' if held.last_error else ''}"),
        ("orphans", str(len(result.orphan_records))),
        ("boundary", "clean" if result.ok else "NOT clean"),
    ]


def _stranded_lines(stranded: Iterable[Stranded], team_or_user: str | None) -> list[str]:
    """Say of rows of other identities what mends it."""
    return [
        f"{other.scope}: {other.event_count} events and {other.body_upload_count} bodies, which are not sent: "
        + ("-e mode=adopt takes them over" if other.scope.startswith(f"{team_or_user}@") else "its owner and fleet are not these")
        for other in stranded
    ]


def _service(status: Status) -> str:
    record = status.owner_record
    if record is None:
        return status.owner_status
    where = f"pid {record.pid} since {record.started_at}, http://127.0.0.1:{record.port}"
    return f"{status.owner_status}: {where}, version {record.package_version}"


def migrated_text(done: Migrated) -> str:
    """Return what became of rows that were taken over."""
    taken, held = done.taken, done.quarantined
    return (
        f"{taken.event_rows} events and {taken.body_upload_rows} bodies taken over, "
        f"{held.event_rows} events and {held.body_upload_rows} bodies quarantined."
    )


def synced_text(done: Synced) -> str:
    """Return what a ``sync now`` did, in a few lines."""
    lines = [f"Legacy rows: {migrated_text(done.migrated)}"] if done.migrated else []
    sent = done.delivered
    lines.append(f"Queued {done.queued.events} events and {done.queued.bodies} bodies; sent {sent.events} events and {sent.bodies} bodies.")
    if done.queued.missing:
        lines.append(
            f"{done.queued.missing} bodies that events name are not in the ledger: quarantined; `playbooks/evidence_verify.yml` says more."
        )
    if sent.rejected:
        lines.append(f"The hub refused {sent.rejected} rows: they are tried again, and become dead letters in the end (-e mode=status).")
    if sent.quarantined:
        lines.append(f"{sent.quarantined} rows were damaged in the outbox, and the ledger has no other copy: quarantined (-e mode=status).")
    if done.stranded:
        rows = sum(other.event_count + other.body_upload_count for other in done.stranded)
        lines.append(f"{rows} rows are queued for another hub, owner or fleet and were not sent: `-e mode=status` says which.")
    if done.full:
        lines.append(str(done.full))
    return "\n".join(lines)


def comparison_text(found: Comparison) -> str:
    """Return how many records are equal, and name those that are not."""
    lines = [f"{kind}: {', '.join(f'{count} {finding}' for finding, count in counts.items())}" for kind, counts in found.counts.items()]
    return "\n".join([*lines, *(f"{finding}: {kind} {key}" for kind, finding, key in found.named)])
