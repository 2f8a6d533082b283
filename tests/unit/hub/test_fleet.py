# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet over HTTP: releases, events as they happen, figures."""

from __future__ import annotations

import asyncio
from typing import Any

from ansible_collections.pifleet.ops.hub import fleet as hub_fleet
from ansible_collections.pifleet.ops.plugins.module_utils._common import exposition
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import metrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.hub_office import HubFleet
from tests.unit.hub.test_hub import problem

QUEUE = (("up", 1), ("pending", 0), ("workers", 1))


class Reader:
    """A connection that ends when the reader has what it wants."""

    def __init__(self) -> None:
        self.gone = False

    async def is_disconnected(self) -> bool:
        return self.gone


def read(fleet: HubFleet, after: int, wanted: int) -> list[str]:
    """Follow events until *wanted* have come."""
    reader = Reader()

    async def follow() -> list[str]:
        got = []
        async for part in hub_fleet._stream(reader, fleet.office, after):  # type: ignore[arg-type]
            if not part.startswith(":"):
                got.append(part)
            reader.gone = len(got) >= wanted
        return got

    return asyncio.run(asyncio.wait_for(follow(), 20))


def test_events_are_sent_from_where_a_reader_stopped(fleet: HubFleet) -> None:
    run = fleet.world.create()
    last = hub_fleet._now(fleet.office)
    got = read(fleet, last - 1, 1)
    assert got[0].startswith(f"id: {last}\nevent: fix_run.created\ndata: ")
    assert got[0].endswith("\n\n")
    assert f'"fix_run":"{run.id}"' in got[0]
    assert len(read(fleet, 0, last)) == last


def test_events_begin_with_now_and_refuse_a_number_that_is_none(fleet: HubFleet) -> None:
    problem(fleet.client("viewer").get("/api/events", headers={"Last-Event-ID": "x"}), 422, "invalid")


def test_figures_are_the_ledgers(fleet: HubFleet) -> None:
    world = fleet.world
    world.step(world.analysed(), "patch")
    world.create(world.another_run(2), "api")
    shown = {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(fleet.client("viewer").get("/metrics").text)
        for sample in family.samples
    }
    assert shown["pifleet_fix_runs", frozenset(("web", "running"))] == 1
    assert shown["pifleet_fix_runs", frozenset(("api", "pending"))] == 1
    assert shown["pifleet_fix_run_steps", frozenset(("web", "patch", "succeeded"))] == 1
    assert shown["pifleet_fix_run_steps", frozenset(("api", "patch", "pending"))] == 1
    with world.store.read() as db:
        began, ended = db.exec_driver_sql(
            "SELECT started_at, ended_at FROM fix_run_steps WHERE step = 'patch' AND state = 'succeeded'"
        ).one()
    assert shown["pifleet_fix_run_step_seconds", frozenset(("web", "patch"))] == float(ended[17:26]) - float(began[17:26])


def test_releases_come_in_pages(fleet: HubFleet) -> None:
    answer: Any = fleet.client("viewer").get("/api/releases?environment=none")
    assert answer.json() == {"items": [], "total": 0, "limit": 20, "offset": 0}


def test_queue_works_as_long_as_the_hub_serves(fleet: HubFleet) -> None:
    with fleet.client("viewer"):
        assert fleet.queue.works
    assert not fleet.queue.works


def samples(text: str) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    families = text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items()), one.value) for family in families for one in family.samples}


def test_figures_are_those_of_the_file_for_node_exporter_and_of_the_queue(fleet: HubFleet) -> None:
    fleet.world.step(fleet.world.analysed(), "patch")
    shown = samples(fleet.client("viewer").get("/metrics").text)
    kept = samples(exposition.text(metrics.gauges(fleet.office.fix_runs.tally())))
    assert kept
    assert {(name, value) for name, _labels, value in shown - kept} == {(f"pifleet_queue_{name}", value) for name, value in QUEUE}
    assert kept <= shown
