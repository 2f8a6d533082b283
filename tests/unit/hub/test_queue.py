# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue of fix runs, with something quick in the place of a playbook; tests/integration/fix_queue has the real ones on nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.hub import cli, worker
from ansible_collections.pifleet.ops.hub.execution import Settings, execute
from ansible_collections.pifleet.ops.hub.queue import Embedded, open_queue
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FORWARD, FixRun

from tests.support.fix_runs import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "ledger.db")


class Quick:
    """Takes a fix run and ends it; the queue's own processes are not of its world, so nobody counts as gone."""

    def __init__(self, world: World, *steps: str) -> None:
        self.world, self.steps, self.done = world, steps or FORWARD, list[tuple[str, str]]()

    def __call__(self, run_id: str, task_id: str) -> str:
        self.done.append((run_id, task_id))
        run = self.world.fix_runs.take(self.world.mine, run_id, task_id)
        for name in self.steps:
            self.world.step(run, name)
        return "done"


def enqueue(world: World, service: str = "web", priority: str = "normal") -> FixRun:
    return world.fix_runs.create(None, service, "shop", "pi-1", "bump requests to 2.32.4", "token:alice", priority=priority)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_at_a_time_high_first_and_what_waited_before_it_began(world: World) -> None:
    waiting = [enqueue(world, f"s{number}", priority) for number, priority in enumerate(("normal", "high", "normal"))]
    play = Quick(world)
    queue = Embedded(world.store, play)
    assert not queue.health().ok
    queue.start()
    until(lambda: len(play.done) == 3 and not queue.health().pending)
    assert [run_id for run_id, _task in play.done] == [waiting[n].id for n in (1, 0, 2)]
    later = enqueue(world, "later")
    queue.submit(later.id, priority="high")
    until(lambda: world.fix_runs.get(later.id).status == "succeeded")
    assert (queue.health().kind, queue.health().ok, queue.health().workers) == ("embedded", True, 1)
    queue.stop()


def test_one_that_cannot_be_begun_does_not_hold_up_the_others(world: World) -> None:
    bad, good = enqueue(world, "bad"), enqueue(world, "good")
    quick = Quick(world)

    def play(run_id: str, task_id: str) -> str:
        return "no such inventory: TOKEN=ghp_0123456789abcdefghijklmnopqrstuvwxyzAB" if run_id == bad.id else quick(run_id, task_id)

    queue = Embedded(world.store, play)
    queue.start()
    until(lambda: world.fix_runs.get(good.id).status == "succeeded")
    queue.stop()
    left = world.fix_runs.get(bad.id)
    assert (left.status, left.interrupted, "no such inventory" in left.reason, "ghp_" in left.reason) == ("failed", True, True, False)


def test_a_message_that_comes_again_finds_nothing_to_do(world: World) -> None:
    run, play = enqueue(world), Quick(world)
    assert execute(world.store, play, run.id, "message-1")
    assert execute(world.store, play, run.id, "message-1")
    assert play.done == [(run.id, "message-1")]
    assert [step.detail["task_id"] for step in world.fix_runs.get(run.id).steps[:5]] == ["message-1"] * 5


@pytest.mark.parametrize("message", ["", "message-1"])
def test_one_whose_worker_dies_each_time_is_begun_three_times(world: World, message: str) -> None:
    run, begun = enqueue(world), list[str]()

    def play(run_id: str, task_id: str) -> str:
        begun.append(run_id)
        raise KeyboardInterrupt  # nothing after it is done any more, as after a kill

    for _time in range(3):
        with pytest.raises(KeyboardInterrupt):
            execute(world.store, play, run.id, message)
    assert execute(world.store, play, run.id, message)
    left = world.fix_runs.get(run.id)
    assert (len(begun), left.status, "retry" in left.reason, world.fix_runs.queued()) == (3, "failed", True, [])


def test_what_somebody_is_at_is_left_to_them_and_looked_at_again(world: World) -> None:
    run, play = enqueue(world), Quick(world)
    world.fix_runs.take(world.mine, run.id, "message-1")
    assert not execute(world.store, play, run.id, "message-2")
    assert play.done == []


def test_what_waits_for_an_approval_holds_no_message(world: World) -> None:
    run = enqueue(world)

    def play(run_id: str, task_id: str) -> str:
        world.fix_runs.take(world.mine, run_id, task_id)
        with_plan = world.plan(run, "pre-run")
        assert with_plan.status == "running"
        assert world.fix_runs.begin(world.mine, run_id, "patch").status == "awaiting_approval"
        return ""

    assert execute(world.store, play, run.id, "message-1")
    assert world.fix_runs.get(run.id).status == "awaiting_approval"


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "fix_runs.yml").write_text("{}\n")
    given = {
        "FIX_RUNS_FLEET_ROOT": str(tmp_path),
        "FIX_RUNS_INVENTORY": "/a:/b",
        "FIX_RUNS_BROKER_URL": "amqp://broker//",
        "FIX_RUNS_QUEUE": "mine",
        "FIX_RUNS_STATSD_HOST": "statsd",
        "FIX_RUNS_STATSD_PORT": "9125",
    }
    found = Settings.of(given)
    assert (found.root, found.inventory, found.queue) == (tmp_path, ("/a", "/b"), "mine")
    assert found.variables == {"fix_runs_statsd_host": "statsd", "fix_runs_statsd_port": 9125}
    app = worker.made_app(found)
    assert (app.conf.task_acks_late, app.conf.task_reject_on_worker_lost) == (True, True)
    assert [queue.name for queue in app.conf.task_queues] == ["mine"]
    assert open_queue(Settings.of({}, tmp_path), found.store()).health().kind == "embedded"
    for name, value in (("FIX_RUNS_STATSD_PORT", "0"), ("FIX_RUNS_BROKER_URL", "http://x"), ("FIX_RUNS_BROKER_URL", "broker")):
        with pytest.raises(PifleetError, match=name):
            Settings.of({**given, name: value})


def test_a_broker_needs_a_ledger_that_all_workers_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fix_runs.yml").write_text("{}\n")
    given = {"FIX_RUNS_FLEET_ROOT": str(tmp_path), "FIX_RUNS_BROKER_URL": "amqp://broker//"}
    settings = Settings.of(given)
    for begin in (lambda: open_queue(settings, settings.store()), lambda: worker.worker_app(settings)):
        with pytest.raises(PifleetError, match=r"ledger.db.*Put `ledger_url: postgresql://"):
            begin()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="ledger_url"):
        worker.app  # noqa: B018  as Celery's command line asks for it
    assert cli.main(["--fleet-root", str(tmp_path), "serve", "--port", "0"]) == 2
    (tmp_path / "evidence.yml").write_text("ledger_url: postgresql://pifleet@127.0.0.1:1/ledger\n")
    shared = Settings.of(given)
    assert worker.worker_app(shared).tasks[worker.NAME]
    assert type(open_queue(shared, shared.store())).__name__ == "Brokered"


@pytest.mark.parametrize(("url", "numbers"), [("amqp://x", (0, 9)), ("redis://x", (9, 0))])
def test_the_brokers_count_priorities_the_other_way_round(url: str, numbers: tuple[int, int]) -> None:
    assert (worker.number_of(url, "normal"), worker.number_of(url, "high")) == numbers
