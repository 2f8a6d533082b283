# SPDX-License-Identifier: GPL-3.0-or-later
"""A fix run that is asked for over HTTP is done by the queue as by a command: that service alone, on record, with who asked for it."""

from __future__ import annotations

import pytest

from tests.integration.fix_queue.conftest import Queued
from tests.integration.fix_runs.conftest import NODE
from tests.support.fix_queue import QUEUE, until
from tests.support.fleet import ROOT


@pytest.mark.parametrize("kind", ["embedded", "celery", "redis"], indirect=True)
def test_repaired_by_the_queue(well: Queued) -> None:
    # somebody took the line out
    well.change("web/requirements.txt", "# nothing\n")
    well.deploy(rc=2)
    others = well.others()
    # asked for by a hub that died of it, before anybody was told; and again over HTTP
    run = well.fix_runs.create(None, "web", "shop", NODE, "add greeting 1.0", "alice", priority="high")
    assert (run.status, [r.id for r in well.fix_runs.queued()]) == ("pending", [run.id])
    well.office.start_workers()
    ended = well.office.reached(run, "succeeded")
    assert (well.says(), well.others()) == ("1.0 good", others)
    assert (ended.requester, ended.priority, well.states()) == ("alice", "high", "succeeded " * 5 + "skipped")
    assert {a.name for a in ended.artifacts} == {
        "analyze.json", "plan.json", "patch.diff", "build.log", "restart.log", "verify.log", "metrics.json",
    }  # fmt: skip
    tasks = {step.detail.get("task_id") for step in ended.steps[:5]}
    assert len(tasks) == 1
    assert bool(tasks.pop()) == bool(well.office.broker)
    again = well.office.reached(well.office.enqueue("bump greeting to 1.1"), "succeeded")
    assert (again.id, well.says()) == ("fix-000002-web", "1.1 good")
    # what ansible-runner keeps, which may hold secrets, is gone
    until(lambda: not list((well.repository.root / ".pifleet/queue").iterdir()), "files of ansible-runner stay")
    health = well.office.health()
    assert (health["ok"], health["pending"], health["workers"]) == (True, 0, 2 if well.office.broker else 1)


def test_no_message_waits_for_an_approval(well: Queued) -> None:
    well.profile(approval={"requirement": "pre-run"})
    well.repository.commit()
    well.office.start_workers()
    before = well.everything()
    run = well.office.reached(well.office.enqueue("bump greeting to 1.1"), "awaiting_approval")
    assert well.everything() == before
    if well.office.broker:
        # neither in the queue nor with a worker, which would wait for it, and it be delivered again when all of them are gone
        well.office.end()
        assert well.office.broker.waiting(QUEUE) == 0
        well.office.start_workers()
    well.office.decide(run, "approved")
    ended = well.office.reached(run, "succeeded")
    assert (well.says(), ended.approvals[0].approver, bool(ended.approvals[0].used_at)) == ("1.1 good", "bob", True)


def test_rejected_after_the_restart(well: Queued) -> None:
    well.profile(approval={"requirement": "pre-verify"})
    well.repository.commit()
    files, image, others = well.files(), well.web()["Image"], well.others()
    well.office.start_workers()
    run = well.office.reached(well.office.enqueue("bump greeting to 1.1"), "awaiting_approval")
    assert well.says() == "1.1 good"
    well.office.decide(run, "rejected")
    well.office.reached(run, "rolled_back")
    assert (well.files(), well.web()["Image"], well.others(), well.says()) == (files, image, others, "1.0 good")


def test_the_inventory_is_wrong(well: Queued) -> None:
    well.office.environment["FIX_RUNS_INVENTORY"] = str(ROOT / "inventory/nothing")
    well.office.start_workers()
    # whose secrets are not known
    refused = well.office.answer("operator", "POST", "/orchestrator/runs", target_service="web", instruction="bump greeting to 1.1")
    assert (refused.status_code, well.fix_runs.listed()[1]) == (503, 0)
    assert "The inventory cannot be read" in refused.json()["detail"]
    # one that was asked for before the inventory became wrong
    run = well.office.reached(well.fix_runs.create(None, "web", "shop", NODE, "bump greeting to 1.1", "alice"), "failed")
    assert run.reason.startswith("interrupted: it could not be begun")
    assert run.interrupted
