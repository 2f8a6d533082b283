# SPDX-License-Identifier: GPL-3.0-or-later
"""Runner, worker and broker are killed under a fix run: it goes on by another delivery or a retry, once, and nothing stays running.

Its one step never ends well here; on nodes, through all steps: tests/integration/fix_queue.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.fix_queue import QUEUE, QueueOffice, ended, until
from tests.support.redis import RedisBroker


def taken(office: QueueOffice) -> list[str]:
    """The message of each time that a fix run was taken."""
    with office.store.read() as db:
        told = db.exec_driver_sql("SELECT content FROM events WHERE kind = 'fix_run.taken' ORDER BY seq").scalars().all()
    return [json.loads(content)["data"]["task"] for content in told]


@pytest.mark.parametrize(
    ("kind", "victim"),
    [
        *(("embedded", victim) for victim in ("runner", "worker")),
        *((kind, victim) for kind in ("celery", "redis") for victim in ("runner", "worker", "broker")),
    ],
)
def test_killed(office: QueueOffice, victim: str) -> None:
    office.start_workers()
    run = office.enqueue("bump requests to 2.32.4", "high")
    first = office.at(run, "analyze")
    assert first.requester == "alice"
    times = 1
    if victim == "broker":
        assert office.broker
        office.broker.kill()
        office.broker.start()
    elif victim == "worker":
        times = 2
        started = office.kill_worker(run)
        # nothing that it started outlives it
        until(lambda: all(ended(pid) for pid in started), "what it started goes on", 60)
        if not office.broker:
            left = office.fix_runs.get(run.id)
            assert (left.status, left.interrupted) == ("failed", True)
            office.start_workers()
            office.retry(run)
    else:
        times = 2
        os.kill(office.child_of(run)[1], 9)
        assert office.reached(run, "failed").interrupted
        office.retry(run)
    last = until(lambda: (now := office.fix_runs.get(run.id)).ended_at and not now.interrupted and now, "it does not end")
    assert (last.status, "unreachable" in last.reason) == ("failed", True)
    messages = taken(office)
    assert len(messages) == times
    if office.broker:
        # a message that is delivered again is the same one; a retry is another
        assert len(set(messages)) == (2 if victim == "runner" else 1)
        assert last.step("analyze").detail["task_id"] == messages[-1]
        # no message is left, nor does one come again
        until(lambda: office.broker and office.broker.waiting(QUEUE) == 0, "a message is left")
        assert office.fix_runs.get(run.id) == last
    if isinstance(office.broker, RedisBroker):
        until(lambda: isinstance(office.broker, RedisBroker) and not office.broker.held(), "a worker holds a message")
    # what ansible-runner keeps, which may hold secrets, is gone
    until(lambda: not list((office.root / ".pifleet/queue").iterdir()), "files of ansible-runner stay")


@pytest.mark.parametrize("kind", ["celery"])
def test_one_that_ends_its_worker_each_time_is_not_delivered_for_ever(office: QueueOffice, kind: str) -> None:
    del kind
    office.start_workers()
    run = office.enqueue("bump requests to 2.32.4")
    seen = set[int]()
    for times in range(3):
        # the first time before it is taken, then under way
        until(lambda times=times: len(taken(office)) == times, "it is not taken")
        runner = until(lambda: (pid := office.child_of(run)[1]) not in seen and pid, "it is not delivered again")
        seen.add(runner)
        # a process of Celery's pool, which Celery replaces by itself
        os.kill(int(Path(f"/proc/{runner}/stat").read_text().rpartition(")")[2].split()[1]), 9)
    left = until(lambda: "begun 3 times" in (now := office.fix_runs.get(run.id)).reason and now, "it is not given up")
    assert (left.status, left.interrupted) == ("failed", True)
    until(lambda: office.broker and office.broker.waiting(QUEUE) == 0, "a message is left")
    messages = taken(office)
    assert (len(messages), len(set(messages))) == (2, 1)
    # the workers are well, and it goes on when somebody wants that
    office.retry(run)
    last = until(lambda: "unreachable" in (now := office.fix_runs.get(run.id)).reason and now, "it does not end")
    assert (last.status, last.interrupted) == ("failed", False)
    assert office.health()["workers"] == 2


@pytest.mark.parametrize("kind", ["embedded", "celery"])
def test_what_waited_before_the_hub_began(office: QueueOffice, kind: str) -> None:
    del kind
    run = office.fix_runs.create(None, "web", "shop", "pi-1", "bump requests to 2.32.4", "alice")
    office.start_workers()
    assert "unreachable" in office.reached(run, "failed").reason
    health = office.health()
    assert (health["ok"], health["pending"], health["workers"]) == (True, 0, 2 if office.broker else 1)
