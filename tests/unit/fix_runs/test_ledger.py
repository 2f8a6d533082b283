# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FORWARD, Artifact, FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.profile import Fleet
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import since_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import fix_run_approvals, fix_run_steps, fix_runs

from tests.support.fix_runs import World


def decide(world: World, run: FixRun, who: str = "bob", decision: str = "approved", fleet: Fleet | None = None, digest: str = "") -> FixRun:
    return world.fix_runs.decide(world.mine, run.id, decision, digest or run.plan_digest, who, fleet or Fleet(), world.signer)


def waiting(world: World, requirement: str = "pre-run", **approval: Any) -> FixRun:
    run = world.analysed(requirement, **approval)
    if requirement == "pre-verify":
        for name in ("patch", "build", "restart"):
            world.step(run, name)
    run = world.fix_runs.begin(world.mine, run.id, "patch" if requirement == "pre-run" else "verify")
    assert run.status == "awaiting_approval"
    return run


def test_what_was_recorded_is_read_back(world: World) -> None:
    run = world.analysed()
    artifact = Artifact("build.log", "build_log", "build", "var/artifacts/x/build.log", "0" * 64, 3)
    changed = world.fix_runs.change(run.id, "fix_run.artifact", lambda found, _now: found, [artifact])
    assert world.fix_runs.get(run.id) == changed
    assert changed.artifacts == (artifact,)
    assert changed.plan == run.plan
    assert changed.id == "fix-000001-web"


def test_one_fix_run_of_a_service_at_a_time(world: World) -> None:
    first = world.create()
    with pytest.raises(PifleetError, match=f"{first.id} of web is pending"):
        world.create(world.another_run(2))
    assert world.create(world.another_run(3), "other").id == "fix-000002-other"


def test_a_dead_runners_fix_run_is_failed_and_can_be_retried(world: World) -> None:
    run = world.analysed()
    world.fix_runs.begin(world.mine, run.id, "patch")
    world.gone.add(1)
    seen = world.fix_runs.get(run.id)
    assert (seen.status, seen.interrupted) == ("failed", True)
    other = world.another_run(2)
    again = world.fix_runs.resume(other, run.id)
    assert (again.status, runner.due(again), again.step("patch").state) == ("running", "patch", "in_progress")
    for name in FORWARD[1:]:
        world.step(run, name, other)
    assert world.fix_runs.get(run.id).status == "succeeded"


def test_the_service_of_a_dead_runner_is_free(world: World) -> None:
    run = world.create()
    world.gone.add(1)
    new = world.create(world.another_run(2))
    assert new.id != run.id
    assert world.fix_runs.get(run.id).status == "failed"


def test_a_living_runners_fix_run_is_nobody_elses(world: World) -> None:
    run = world.analysed()
    with pytest.raises(PifleetError, match="Wait for its end"):
        world.fix_runs.resume(world.another_run(2), run.id)
    with pytest.raises(PifleetError, match="is not this run's"):
        world.fix_runs.begin(world.another_run(3), run.id, "patch")


def test_a_dead_runners_fix_run_is_found_and_counted_as_failed_before_anybody_marks_it(world: World) -> None:
    dead = [world.create(service=service) for service in ("api", "web")]
    world.fix_runs.begin(world.mine, dead[1].id, "analyze")
    alive = world.create(world.another_run(2), "mail")
    world.fail(world.create(service="shop"), "analyze")
    world.gone.add(1)

    def listed(status: str, limit: int = 20) -> tuple[list[str], int]:
        found, total = world.fix_runs.listed(status=status, limit=limit)
        assert {run.status for run in found} <= {status}
        return [run.service for run in found], total

    assert (listed("running"), listed("pending")) == (([], 0), (["mail"], 1))
    assert listed("failed") == (["shop", "web", "api"], 3)
    assert listed("failed", limit=2) == (["shop", "web"], 3)
    counted = {("api", "failed"): 1, ("web", "failed"): 1, ("shop", "failed"): 1, ("mail", "pending"): 1}
    assert world.fix_runs.tally().runs == counted
    # nothing was written for that, and what is written next says the same
    with world.store.read() as db:
        assert db.exec_driver_sql("SELECT status FROM fix_runs WHERE service = 'web'").scalar() == "running"
    world.fix_runs.mark_dead()
    assert (listed("failed"), world.fix_runs.tally().runs) == ((["shop", "web", "api"], 3), counted)
    assert world.fix_runs.get(alive.id).status == "pending"


# -- the queue --------------------------------------------------------------------------------------------------------------------------
def enqueue(world: World, service: str = "web", priority: str = "normal") -> FixRun:
    return world.fix_runs.create(None, service, "shop", "pi-1", "bump requests to 2.32.4", "token:alice", priority=priority)


def test_what_waits_in_the_queue_belongs_to_nobody_and_is_taken_once(world: World) -> None:
    run = enqueue(world)
    assert (run.status, run.run_id, runner.due(run)) == ("pending", "", "analyze")
    world.gone.add(1)
    world.fix_runs.mark_dead()
    assert world.fix_runs.get(run.id) == run
    with pytest.raises(PifleetError, match="is pending"):
        enqueue(world)
    other = world.another_run(2)
    assert world.fix_runs.take(other, run.id).status == "running"
    assert world.fix_runs.queued() == []
    with pytest.raises(PifleetError, match="waits for nobody"):
        world.fix_runs.take(world.another_run(3), run.id)
    for name in FORWARD:
        world.step(run, name, other)
    with pytest.raises(PifleetError, match="is succeeded"):
        world.fix_runs.take(other, run.id)


def test_high_comes_first_then_the_oldest(world: World) -> None:
    ids = [enqueue(world, f"s{number}", priority).id for number, priority in enumerate(("normal", "high", "normal", "high"))]
    assert [run.id for run in world.fix_runs.queued()] == [ids[1], ids[3], ids[0], ids[2]]
    assert world.fix_runs.get(ids[1]).priority == "high"


def test_a_dead_runners_fix_run_is_taken_where_it_stood(world: World) -> None:
    run = enqueue(world)
    world.fix_runs.take(world.mine, run.id, "message-1")
    world.step(run, "analyze")
    world.fix_runs.begin(world.mine, run.id, "patch")
    world.gone.add(1)
    # what another message began is not gone on with
    assert [world.fix_runs.standing(run.id, task) for task in ("", "message-1", "message-2")] == ["free", "free", "over"]
    other = world.another_run(2)
    again = world.fix_runs.take(other, run.id, "message-1")
    assert (again.status, runner.due(again), again.step("analyze").state) == ("running", "patch", "succeeded")
    assert world.fix_runs.begin(other, run.id, "patch").step("patch").detail["task_id"] == "message-1"


def test_one_that_ends_whoever_does_it_is_given_up_until_somebody_retries_it(world: World) -> None:
    run = enqueue(world)
    # twice nobody came as far as to take it, the third time it had begun
    assert [world.fix_runs.admit(run.id, "message-1", 3) for _time in range(3)] == ["free"] * 3
    world.fix_runs.take(world.mine, run.id, "message-1")
    world.step(run, "analyze")
    world.fix_runs.begin(world.mine, run.id, "patch")
    # while somebody is at it nothing is counted
    assert world.fix_runs.admit(run.id, "message-2", 3) == "busy"
    world.gone.add(1)
    assert [world.fix_runs.admit(run.id, "message-1", 3) for _time in range(2)] == ["over"] * 2
    left = world.fix_runs.get(run.id)
    assert (left.status, left.interrupted, left.step("patch").state) == ("failed", True, "in_progress")
    assert "begun 3 times" in left.reason
    with world.store.read() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM events WHERE kind = 'fix_run.given_up'").scalar() == 1
    again = world.fix_runs.requeue(run.id)
    assert (again.status, again.reason, runner.due(again)) == ("pending", "", "patch")
    assert [world.fix_runs.admit(run.id, "message-3", 3) for _time in range(4)] == ["free"] * 3 + ["over"]
    assert world.fix_runs.queued() == []


def test_a_runner_elsewhere_is_gone_where_its_message_comes_again(world: World) -> None:
    run = enqueue(world)
    world.fix_runs.take(world.mine, run.id, "message-1")
    other = world.another_run(2)
    assert [world.fix_runs.standing(run.id, task) for task in ("", "message-1", "message-2")] == ["busy", "free", "busy"]
    for task in ("", "message-2"):
        with pytest.raises(PifleetError, match="is running"):
            world.fix_runs.take(other, run.id, task)
    assert world.fix_runs.take(other, run.id, "message-1").run_id == world.runs.current(other)
    world.fix_runs.begin(other, run.id, "analyze")
    with pytest.raises(PifleetError, match="is not this run's"):
        world.fix_runs.begin(world.mine, run.id, "analyze")
    # who was taken for dead and is not has no say
    with pytest.raises(PifleetError, match="any more"):
        world.fix_runs.change(run.id, "fix_run.failed", lambda r, now: runner.fail(r, "analyze", "", {}, now), process=world.mine)
    assert world.fix_runs.get(run.id).step("analyze").state == "in_progress"


def test_what_could_not_be_begun_is_failed_and_can_be_retried(world: World) -> None:
    run = enqueue(world)
    given_up = world.fix_runs.give_up(run, "no such inventory")
    assert (given_up.status, given_up.reason) == ("failed", "interrupted: it could not be begun: no such inventory")
    again = world.fix_runs.requeue(run.id)
    world.fix_runs.take(world.mine, run.id)
    assert world.fix_runs.give_up(again, "").status == "running"
    # cut off, and asked for anew before who should have begun it has noticed
    world.fix_runs.begin(world.mine, run.id, "analyze")
    world.gone.add(1)
    world.fix_runs.requeue(run.id)
    assert world.fix_runs.give_up(again, "").status == "pending"


def test_a_retry_goes_into_the_queue(world: World) -> None:
    run = world.analysed()
    with pytest.raises(PifleetError, match="retry_not_allowed"):
        world.fix_runs.requeue(run.id)
    world.gone.add(1)
    waiting_now = world.fix_runs.requeue(run.id)
    assert (waiting_now.status, waiting_now.run_id, waiting_now.ended_at, runner.due(waiting_now)) == ("pending", "", "", "patch")
    assert [r.id for r in world.fix_runs.queued()] == [run.id]


def test_what_is_decided_without_a_process_goes_into_the_queue(world: World) -> None:
    run = waiting(world)
    given = world.fix_runs.decide(None, run.id, "approved", run.plan_digest, "bob", Fleet(), world.signer)
    assert (given.status, given.run_id, [r.id for r in world.fix_runs.queued()]) == ("pending", "", [run.id])
    other = world.another_run(2)
    world.fix_runs.take(other, run.id)
    assert world.fix_runs.begin(other, run.id, "patch").approvals[0].used_at
    world.fix_runs.change(run.id, "fix_run.failed", lambda r, now: runner.fail(r, "patch", "broken", {}, now))
    world.step(run, "rollback", other)
    again = waiting(world, "pre-verify")
    rejected = world.fix_runs.decide(None, again.id, "rejected", again.plan_digest, "bob", Fleet(), world.signer)
    assert (rejected.status, runner.due(rejected)) == ("pending", "rollback")
    world.fix_runs.take(other, again.id)
    assert world.step(again, "rollback", other).status == "rolled_back"


def test_an_approval_that_ends_in_the_queue_is_never_used(world: World) -> None:
    run = waiting(world, valid_for_minutes=5)
    world.fix_runs.decide(None, run.id, "approved", run.plan_digest, "bob", Fleet(), world.signer)
    world.moment += timedelta(minutes=5)
    world.fix_runs.take(world.mine, run.id)
    assert world.fix_runs.begin(world.mine, run.id, "patch").status == "expired"


# -- approvals --------------------------------------------------------------------------------------------------------------------------
def test_an_approval_lets_the_step_begin_and_is_used_up(world: World) -> None:
    run = waiting(world)
    decide(world, run)
    begun = world.fix_runs.begin(world.mine, run.id, "patch")
    assert (begun.status, begun.step("patch").state) == ("running", "in_progress")
    assert begun.approvals[0].used_at
    assert world.fix_runs.get(run.id).approvals == begun.approvals
    # what was rolled back begins anew, and asks anew
    world.fix_runs.change(run.id, "fix_run.failed", lambda r, now: runner.fail(r, "patch", "broken", {}, now))
    world.step(run, "rollback")
    world.fix_runs.resume(world.mine, run.id)
    again = world.fix_runs.begin(world.mine, run.id, "patch")
    assert again.status == "awaiting_approval"
    assert [runner.approval_status(one, "2025-01-02T03:04:05.000000Z") for one in (begun, again)] == ["granted", "awaiting"]
    decide(world, run)
    assert runner.approval_status(world.fix_runs.get(run.id), "2025-01-02T03:04:05.000000Z") == "granted"


def test_before_the_verification(world: World) -> None:
    run = waiting(world, "pre-verify")
    decide(world, run)
    assert world.step(run, "verify").status == "succeeded"
    other = waiting(world, "pre-verify")
    rejected = decide(world, other, decision="rejected")
    assert (rejected.status, runner.due(rejected)) == ("running", "rollback")


def test_nobody_approves_what_they_asked_for(world: World) -> None:
    run = waiting(world)
    with pytest.raises(PifleetError, match="cannot approve it"):
        decide(world, run, "alice")
    assert world.fix_runs.get(run.id).approvals == ()
    assert decide(world, run, "alice", fleet=Fleet(two_person=False)).approvals


def test_only_who_has_the_role_approves(world: World) -> None:
    run = waiting(world, approver_roles=["on-call"])
    with pytest.raises(PifleetError, match="none of the roles on-call"):
        decide(world, run, "bob", fleet=Fleet(roles={"on-call": ["carol"], "other": ["bob"]}))
    assert decide(world, run, "carol", fleet=Fleet(roles={"on-call": ["carol"]})).approvals


def test_another_plan_and_another_state_are_refused(world: World) -> None:
    run = waiting(world)
    for digest in ("0" * 64, "x"):
        with pytest.raises(PifleetError, match="Look at it"):
            decide(world, run, digest=digest)
    decide(world, run, decision="rejected")
    assert world.fix_runs.get(run.id).status == "rejected"
    for decision in ("approved", "rejected"):
        with pytest.raises(PifleetError, match="approval_not_applicable"):
            decide(world, run, decision=decision)


def test_an_expired_approval_is_never_used(world: World) -> None:
    run = waiting(world, valid_for_minutes=5)
    decide(world, run)
    world.moment += timedelta(minutes=5)
    assert runner.approval_status(world.fix_runs.get(run.id), world.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")) == "expired"
    ended = world.fix_runs.begin(world.mine, run.id, "patch")
    assert (ended.status, ended.step("patch").state) == ("expired", "skipped")
    with pytest.raises(PifleetError):
        world.fix_runs.begin(world.mine, run.id, "patch")


def tamper(world: World, table: Any, **values: Any) -> None:
    with world.store.write() as db:
        db.execute(sqlalchemy.update(table).values(**values))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("expires_at", "2099-01-01T00:00:00.000000Z"),
        ("approver", "carol"),
        ("given_at", "2025-01-01T00:00:00.000000Z"),
        ("plan_digest", "0" * 64),
        ("diff_sha256", "0" * 64),
        ("envelope", {"payload": "", "payloadType": "x", "signatures": []}),
    ],
)
def test_an_approval_that_was_edited_permits_nothing(world: World, column: str, value: Any) -> None:
    run = waiting(world)
    decide(world, run)
    tamper(world, fix_run_approvals, **{column: value})
    with pytest.raises(PifleetError, match="approval_invalid"):
        world.fix_runs.begin(world.mine, run.id, "patch")
    assert world.fix_runs.get(run.id).step("patch").state == "pending"


def test_a_used_approval_is_not_used_again(world: World) -> None:
    run = waiting(world)
    decide(world, run)
    world.fix_runs.begin(world.mine, run.id, "patch")
    # even where an intruder winds the step back
    with world.store.write() as db:
        db.execute(sqlalchemy.update(fix_run_steps).where(fix_run_steps.c.step == "patch").values(state="pending", started_at=None))
    assert world.fix_runs.begin(world.mine, run.id, "patch").status == "awaiting_approval"


def test_a_plan_that_changed_after_the_approval_is_refused(world: World) -> None:
    run = waiting(world)
    decide(world, run)
    plan = world.fix_runs.get(run.id).plan
    assert plan
    tamper(world, fix_runs, plan={**plan.as_table(), "node": "pi-2"})
    with pytest.raises(PifleetError, match="for another plan"):
        world.fix_runs.begin(world.mine, run.id, "patch")


# -- lists ------------------------------------------------------------------------------------------------------------------------------
def test_pages_and_filters(world: World) -> None:
    for number in range(5):
        run = world.create(service=f"s{number % 2}")
        world.fail(run, "analyze")
    found, total = world.fix_runs.listed(limit=2, offset=1)
    assert ([run.id for run in found], total) == (["fix-000004-s1", "fix-000003-s0"], 5)
    found, total = world.fix_runs.listed(service="s1")
    assert ([run.id for run in found], total) == (["fix-000004-s1", "fix-000002-s1"], 2)
    assert world.fix_runs.listed(status="succeeded") == ([], 0)
    assert world.fix_runs.listed(since=found[0].created_at)[1] == 2


@pytest.mark.parametrize(
    ("given", "moment"),
    [
        ("2025", "2025-01-01T00:00:00.000000Z"),
        ("2025-02", "2025-02-01T00:00:00.000000Z"),
        ("2025-01-02", "2025-01-02T00:00:00.000000Z"),
        ("2025-01-02T03:04", "2025-01-02T03:04:00.000000Z"),
        ("2025-01-02 03:04:05Z", "2025-01-02T03:04:05.000000Z"),
        ("2025-01-02T01:00:00+02:00", "2025-01-01T23:00:00.000000Z"),
        ("2025-01-02T03:04:05.000001Z", "2025-01-02T03:04:05.000001Z"),
    ],
)
def test_a_moment_is_given_as_iso_8601(given: str, moment: str) -> None:
    assert since_of(given) == moment


@pytest.mark.parametrize("given", ["yesterday", "30.11.2026", "2026-13-01", "1", "2026-1", "0001-01-01T00:00+14:00", "\0"])
def test_what_is_no_moment_is_refused_with_a_list_too(world: World, given: str) -> None:
    with pytest.raises(PifleetError, match="ISO 8601"):
        world.fix_runs.listed(since=given)


def test_ten_thousand_are_listed_in_the_time_that_is_promised(world: World) -> None:
    run = world.fail(world.create(), "analyze")
    with world.store.write() as db:
        row = dict(db.execute(sqlalchemy.select(fix_runs)).mappings().one())
        steps = [dict(step) for step in db.execute(sqlalchemy.select(fix_run_steps)).mappings()]
        ids = [f"fix-{seq:06d}-web" for seq in range(2, 10001)]
        db.execute(sqlalchemy.insert(fix_runs), [{**row, "id": i, "seq": seq} for seq, i in enumerate(ids, 2)])
        db.execute(sqlalchemy.insert(fix_run_steps), [{**step, "fix_run_id": i} for i in ids for step in steps])
    world.create(world.another_run(2), "api")
    world.gone.add(2)
    world.fix_runs.listed(limit=1)
    began = time.process_time()  # so that other work does not count
    found, total = world.fix_runs.listed(service="web", status="failed", limit=50, offset=5000)
    took = time.process_time() - began
    assert (len(found), total, len(found[0].steps)) == (50, 10000, 6)
    assert run.id == "fix-000001-web"
    assert took < 0.5, "ten times what is promised, for a machine that is busy"
