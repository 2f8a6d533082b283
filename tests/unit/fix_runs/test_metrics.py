# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import socket
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.hub.execution import Settings
from ansible_collections.pifleet.ops.hub.metrics import registry_of
from ansible_collections.pifleet.ops.plugins.module_utils._common import exposition
from ansible_collections.pifleet.ops.plugins.modules.fix_run_info import STATUSES
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import metrics, runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.artifacts import Artifacts
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FORWARD, OPEN, STEPS, Artifact, FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.profile import Fleet
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.text import run_seconds, seconds_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import FixRuns
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, event

from tests.support.fix_runs import World

BEGAN, ENDED = "2025-01-02T03:04:05.000000Z", "2025-01-02T03:04:07.250000Z"


def run() -> FixRun:
    fresh = FixRun("fix-000001-web", "web", "shop", "pi-1", "auto", "pending", "alice", "run", BEGAN, runner.fresh_steps())
    return runner.finish(runner.begin(fresh, "analyze", BEGAN), "analyze", "", {}, ENDED)


def test_what_has_ended_is_counted_and_timed_once() -> None:
    fresh = FixRun("fix-000001-web", "web", "shop", "pi-1", "auto", "pending", "alice", "run", BEGAN, runner.fresh_steps())
    begun = runner.begin(fresh, "analyze", BEGAN)
    assert metrics.of_change(fresh, begun) == []
    step = ["pifleet.fix_runs.web.analyze.succeeded:1|c", "pifleet.fix_runs.web.analyze.seconds:2250|ms"]
    assert metrics.of_change(begun, run()) == step
    assert metrics.of_change(run(), run()) == []
    failed = runner.fail(begun, "analyze", "broken", {}, ENDED)
    sent = metrics.of_change(begun, failed)
    assert sent[-2:] == ["pifleet.fix_runs.web.failed:1|c", "pifleet.fix_runs.web.seconds:2250|ms"]
    assert sent[:2] == ["pifleet.fix_runs.web.analyze.failed:1|c", "pifleet.fix_runs.web.analyze.seconds:2250|ms"]
    # a step that was left out took no time
    assert sent[2:-2] == [f"pifleet.fix_runs.web.{name}.skipped:1|c" for name in STEPS[1:]]


def every_ending(world: World) -> list[str]:
    """Let fix runs end in every way there is, each of another service, and return their statuses."""
    fix_runs = world.fix_runs

    def analysed(service: str, requirement: str = "none", process: Process | None = None, **approval: Any) -> FixRun:
        return world.plan(world.create(process, service), requirement, **approval)

    def waiting(service: str) -> FixRun:
        return fix_runs.begin(world.mine, analysed(service, "pre-run", valid_for_minutes=5).id, "patch")

    def decide(run: FixRun, decision: str) -> FixRun:
        return fix_runs.decide(world.mine, run.id, decision, run.plan_digest, "bob", Fleet(), world.signer)

    world.fail(world.create(service="failed"), "analyze")
    succeeded = analysed("succeeded")
    for name in FORWARD[1:]:
        world.step(succeeded, name)
    for service in ("rolled-back", "rollback-failed"):
        run = world.fail(world.step(analysed(service), "patch"), "build")
        (world.step if service == "rolled-back" else world.fail)(run, "rollback")
    decide(waiting("rejected"), "rejected")
    cancelled = waiting("cancelled")
    fix_runs.change(cancelled.id, "fix_run.cancelled", lambda found, now: runner.cancel(found, "alice", now))
    expired = decide(waiting("expired"), "approved")
    world.moment += timedelta(minutes=5)
    fix_runs.begin(world.mine, expired.id, "patch")
    # rejected where files were touched already: that step failed, and its rollback is due
    late = analysed("late", "pre-verify")
    for name in FORWARD[1:-1]:
        world.step(late, name)
    world.step(decide(fix_runs.begin(world.mine, late.id, "verify"), "rejected"), "rollback")
    # its process is gone; it could not be begun; it ends whoever does it
    gone = world.create(world.another_run(7), "interrupted")
    world.gone.add(7)
    queued = [fix_runs.create(None, service, "shop", "pi-1", "auto", "alice") for service in ("given-up", "worn-out")]
    fix_runs.give_up(queued[0], "no such inventory")
    fix_runs.admit(queued[1].id, "message-1", 0)
    fix_runs.mark_dead()
    assert fix_runs.get(gone.id).interrupted
    return sorted({run.status for run in fix_runs.listed(limit=100)[0]})


def test_what_a_server_of_statsd_gets_is_what_the_ledger_has(tmp_path: Path) -> None:
    world, lines = World(tmp_path / "ledger.db"), list[str]()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        settings = Settings(tmp_path, variables={"fix_runs_statsd_host": "127.0.0.1", "fix_runs_statsd_port": server.getsockname()[1]})
        world.fix_runs = FixRuns(world.store, world.now, gone=world.is_gone, told=settings.measure)
        assert every_ending(world) == sorted(status for status in STATUSES if status not in OPEN)
        metrics.send(["end:1|c"], "127.0.0.1", server.getsockname()[1])
        while lines[-1:] != ["end:1|c"]:
            lines += server.recv(2000).decode().split("\n")
    counted, timed = Counter[tuple[str, ...]](), dict[tuple[str, ...], float]()
    for line in lines[:-1]:
        name, value = line.removeprefix("pifleet.fix_runs.").split(":")
        words = tuple(name.split("."))
        if value.endswith("|ms"):
            timed[words[:-1]] = timed.get(words[:-1], 0) + int(value.removesuffix("|ms")) / 1000
        else:
            counted[words] += int(value.removesuffix("|c"))
    found = world.fix_runs.tally()
    over = {what: count for what, count in found.steps.items() if what[2] in ("succeeded", "failed", "skipped")}
    assert counted == {**found.runs, **over}
    assert timed == {**{(service,): seconds for (service, _status), seconds in found.took.items()}, **found.seconds}
    assert len(found.took) == len(found.runs)


def test_the_figures_of_one_that_is_over_are_its_artifact(tmp_path: Path) -> None:
    world = World(tmp_path / "ledger.db")
    run = world.fail(world.step(world.analysed(), "patch"), "build")
    world.fix_runs.begin(world.mine, run.id, "rollback")
    artifacts = Artifacts(tmp_path, "var/artifacts")
    log = artifacts.write(run.id, "rollback.log", "rollback", "taken back\n")

    def keep(found: FixRun) -> list[Artifact]:
        return [artifacts.write(found.id, metrics.REPORT, "rollback", metrics.report(found))]

    ended = world.fix_runs.change(
        run.id, "fix_run.step", lambda found, now: runner.finish(found, "rollback", "", {}, now), [log], keep=keep
    )
    assert [(a.name, a.type) for a in ended.artifacts] == [("metrics.json", "metrics"), ("rollback.log", "rollback_log")]
    assert ended == world.fix_runs.get(run.id)
    told = json.loads(artifacts.read(ended.artifacts[0]))
    assert (told["status"], told["seconds"], told["artifacts"]) == ("rolled_back", run_seconds(ended), {"rollback.log": 11})
    assert told["steps"]["build"] == {"state": "failed", "seconds": seconds_of(ended.step("build"))}
    assert told["steps"]["verify"] == {"state": "skipped", "seconds": None}
    with world.store.read() as db:
        (event_of_the_end,) = db.exec_driver_sql("SELECT content FROM events ORDER BY seq DESC LIMIT 1").one()
    assert json.loads(event_of_the_end)["data"]["artifacts"] == {a.name: a.checksum for a in ended.artifacts}


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
        "pifleet_fix_runs", "pifleet_fix_run_steps", "pifleet_fix_run_step_seconds", "pifleet_fix_run_seconds",
    }  # fmt: skip
    world.fail(world.step(world.analysed(), "patch"), "build")
    world.create(world.another_run(2), "api")
    ended = world.fail(world.create(world.mine, "mail"), "analyze")
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
    assert f'pifleet_fix_run_seconds{{service="mail",status="failed"}} {run_seconds(ended)}' in text
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
