# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.hub.metrics import registry_of
from ansible_collections.pifleet.ops.plugins.module_utils._common import exposition
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import metrics, runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.text import seconds_of
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, event

from tests.support.fix_runs import World

BEGAN, ENDED = "2025-01-02T03:04:05.000000Z", "2025-01-02T03:04:07.250000Z"


def run() -> FixRun:
    fresh = FixRun("fix-000001-web", "web", "shop", "pi-1", "auto", "pending", "alice", "run", BEGAN, runner.fresh_steps())
    return runner.finish(runner.begin(fresh, "analyze", BEGAN), "analyze", "", {}, ENDED)


def test_what_is_sent_is_what_is_recorded() -> None:
    assert metrics.of_step(run(), "analyze") == [
        "pifleet.fix_runs.web.analyze.succeeded:1|c",
        "pifleet.fix_runs.web.analyze.seconds:2250|ms",
    ]
    assert metrics.of_step(run(), "patch") == ["pifleet.fix_runs.web.patch.pending:1|c"]
    assert metrics.of_run(run()) == ["pifleet.fix_runs.web.running:1|c"]


def test_it_arrives() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        metrics.send(["a:1|c", "b:2|ms"], "127.0.0.1", server.getsockname()[1])
        assert server.recv(2000) == b"a:1|c\nb:2|ms"
        metrics.send([f"{'x' * 100}{n}:1|c" for n in range(30)], "127.0.0.1", server.getsockname()[1])
        assert len(server.recv(2000)) <= 1400


@pytest.mark.parametrize(("host", "port"), [("", 8125), ("127.0.0.1", 1), ("nobody.invalid", 8125), ("127.0.0.1", 99999999), ("\udcff", 1)])
def test_a_dead_host_costs_nothing(host: str, port: int) -> None:
    began = time.monotonic()
    metrics.send(["a:1|c"] * 100, host, port)
    assert time.monotonic() - began < 2


def families(text: str) -> dict[str, set[tuple[str, tuple[tuple[str, str], ...], float]]]:
    return {
        family.name: {(family.type, tuple(sorted(sample.labels.items())), sample.value) for sample in family.samples}
        for family in text_string_to_metric_families(text)
    }


def test_the_file_for_prometheus_has_what_the_ledger_has_and_the_hub_shows(tmp_path: Path) -> None:
    world = World(tmp_path / "ledger.db")
    assert set(families(exposition.text(metrics.gauges(world.fix_runs.tally())))) == {
        "pifleet_fix_runs", "pifleet_fix_run_steps", "pifleet_fix_run_step_seconds",
    }  # fmt: skip
    world.fail(world.step(world.analysed(), "patch"), "build")
    world.create(world.another_run(2), "api")
    metrics.write(tmp_path / "folder/pifleet.prom", world.fix_runs.tally())
    text = (tmp_path / "folder/pifleet.prom").read_text()
    assert families(text) == families(generate_latest(registry_of(world.fix_runs)).decode())
    # past all that counts: the fix runs themselves
    found = world.fix_runs.listed()[0]
    for one in found:
        assert f'pifleet_fix_runs{{service="{one.service}",status="{one.status}"}} 1' in text
    assert 'pifleet_fix_run_steps{service="web",step="build",state="failed"} 1' in text
    took = next(seconds_of(one.step("build")) for one in found if one.service == "web")
    assert f'pifleet_fix_run_step_seconds{{service="web",step="build"}} {took}' in text
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["pifleet.prom"]


def test_the_figures_of_ten_thousand_are_added_up_where_they_are(tmp_path: Path) -> None:
    world, many = World(tmp_path / "ledger.db"), 10_000
    world.fill(many)
    first = world.fix_runs.listed(limit=1, offset=many - 1)[0][0]
    asked: list[tuple[str, object]] = []

    def listen(_connection: object, _cursor: object, statement: str, parameters: object, *_more: object) -> None:
        asked.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        found = world.fix_runs.tally()
    finally:
        event.remove(Engine, "before_cursor_execute", listen)
    with world.store.read() as db:
        assert sum(len(db.exec_driver_sql(words, values).all()) for words, values in asked if words.startswith("SELECT")) < 100
    assert found.runs == {("web", "running"): 1, ("web", "succeeded"): many - 1}
    assert found.steps["web", "analyze", "succeeded"] == found.steps["web", "patch", "pending"] == many
    assert found.seconds == {("web", "analyze"): pytest.approx(many * (seconds_of(first.step("analyze")) or 0.0))}
