# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner, the worker and the broker killed in every step: it goes on by a retry or by another delivery, and nothing is done twice."""

from __future__ import annotations

import json
import os
import random

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import STEPS, FixRun

from tests.integration.fix_queue.conftest import Queued
from tests.integration.fix_runs.conftest import PROFILE
from tests.support.fix_queue import QUEUE, ended, until

#: of each queue, what is killed
VICTIMS = {"embedded": ("runner", "worker"), "celery": ("runner", "worker", "broker")}
ALL = [(kind, victim, step) for kind, victims in VICTIMS.items() for victim in victims for step in STEPS]
#: of each victim one step, the same every time
SAMPLE = [(kind, victim, random.Random(f"{kind} {victim}").choice(STEPS)) for kind, victims in VICTIMS.items() for victim in victims]
CASES = ALL if os.environ.get("PIFLEET_TEST_FULL") else SAMPLE


def finished(run: FixRun) -> dict[str, tuple[str, str]]:
    return {step.name: (step.started_at, step.ended_at) for step in run.steps if step.state in ("succeeded", "failed")}


@pytest.mark.parametrize(("kind", "victim", "step"), CASES, indirect=["kind"])
def test_killed(well: Queued, victim: str, step: str) -> None:
    well.profile(health={**PROFILE["health"], "samples": 6})
    well.repository.commit()
    files, image, others = well.files(), well.web()["Image"], well.others()
    taken_back = step == "rollback"
    well.office.start_workers()
    run = well.office.enqueue("bump greeting to 2.0" if taken_back else "bump greeting to 1.1")
    before = finished(well.office.at(run, step))

    if victim == "broker":
        assert well.office.broker
        well.office.broker.kill()
        well.office.broker.start()
    elif victim == "worker":
        started = well.office.kill_worker(run)
        # nothing that it started outlives it
        until(lambda: all(ended(pid) for pid in started), "what it started goes on", 30)
        if not well.office.broker:
            assert well.fix_runs.get(run.id).status == "failed"
            well.office.start_workers()
            well.office.retry(run)
    else:
        os.kill(well.office.child_of(run)[1], 9)
        left = well.office.reached(run, "failed")
        assert left.interrupted
        well.office.retry(run)

    last = well.office.reached(run, "rolled_back" if taken_back else "succeeded")
    assert {name: finished(last)[name] for name in before} == before
    assert well.others() == others
    if taken_back:
        assert (well.files(), well.web()["Image"], well.says()) == (files, image, "1.0 good")
    else:
        assert well.says() == "1.1 good"
        assert last.plan
        assert well.repository.git("rev-list", "--count", f"{last.plan.base}..HEAD") == "1"
    # each step has come to its end once
    told = "SELECT content FROM events WHERE kind IN ('fix_run.step', 'fix_run.failed')"
    with well.office.store.read() as db:
        kinds = db.exec_driver_sql(told).scalars().all()
    ends = [name for content in kinds for name, state in _steps(content).items() if state in ("succeeded", "failed")]
    assert sorted(ends) == sorted(set(ends))
    if well.office.broker:
        # and no message is left, nor comes again
        until(lambda: well.office.broker and well.office.broker.waiting(QUEUE) == 0, "a message is left")
        assert well.fix_runs.get(run.id) == last


def _steps(content: bytes) -> dict[str, str]:
    return dict(json.loads(content)["data"].get("steps", {}))
