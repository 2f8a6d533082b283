# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ledger says of the fleet, as figures: a file of the controller for node-exporter, which ``textfile`` of evidence.yml names."""

from __future__ import annotations

from datetime import datetime

from ansible_collections.pifleet.ops.plugins.module_utils._common import exposition
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.exposition import Gauge, Labels
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Settings
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Outbox
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.alert_tests import due
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import OPEN
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import rebuilds
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from sqlalchemy import select

#: of a rebuild that was given none: docs/runbooks/rebuild-node.md
BUDGET_MINUTES = 60.0


def publish(settings: Settings, store: Store) -> str:
    """Write the figures where the fleet asks for them. Return why they could not be written, empty where they were or nobody asks."""
    if settings.textfile is None:
        return ""
    try:
        exposition.write(settings.textfile, gauges(settings, store))
    except (OSError, PifleetError) as error:
        why = error.strerror or error if isinstance(error, OSError) else error
        return f"{settings.textfile} cannot be written: {why}. Figures of the outbox, of rebuilds and of tests of alerts are old there."
    return ""


def gauges(settings: Settings, store: Store) -> list[Gauge]:
    """Return the figures. Raises LedgerError."""
    waiting = Outbox(store).depths(settings.scope)
    tested: dict[Labels, float] = {(("severity", one.severity),): _seconds(one.last) for one in due(store)}
    return [
        Gauge("pifleet_outbox_rows", "Rows that wait for the hub.", {(): waiting.event_count + waiting.body_upload_count}),
        Gauge("pifleet_outbox_dead_rows", "Rows that the hub refused for good.", {(): waiting.dead}),
        # without a hub nothing is to be sent
        Gauge(
            "pifleet_outbox_oldest_timestamp_seconds",
            "Since when the oldest row waits, 0 where none does.",
            {(): _seconds(waiting.oldest) if settings.identity else 0},
        ),
        *_rebuilds(store),
        Gauge("pifleet_alert_test_timestamp_seconds", "When alerts were tested last with success, 0 for never.", tested),
    ]


def _rebuilds(store: Store) -> list[Gauge]:
    """The newest rebuild of each node."""
    started: dict[Labels, float] = {}
    ended: dict[Labels, float] = {}
    took: dict[Labels, float] = {}
    budget: dict[Labels, float] = {}
    with store.read() as db:
        newest = {row.node: row for row in db.execute(select(rebuilds).order_by(rebuilds.c.started_at))}
    for node, row in newest.items():
        labels = (("node", node),)
        began, end = _seconds(row.started_at), _seconds(row.ended_at)
        started[labels] = began if row.status in OPEN else 0
        budget[labels] = 60 * (row.budget_minutes or BUDGET_MINUTES)
        if row.status == "succeeded":
            ended[labels], took[labels] = end, round(end - began, 1)
    return [
        Gauge("pifleet_rebuild_started_timestamp_seconds", "When the rebuild that is under way began, 0 where none is.", started),
        Gauge("pifleet_rebuild_ended_timestamp_seconds", "When the last one ended.", ended),
        Gauge("pifleet_rebuild_seconds", "How long the last one took.", took),
        Gauge("pifleet_rebuild_budget_seconds", "How long it may take.", budget),
    ]


def _seconds(at: str | None) -> float:
    return datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp() if at else 0
