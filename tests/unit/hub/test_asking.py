# SPDX-License-Identifier: GPL-3.0-or-later
"""Fix runs over HTTP: what is asked for, approved and retried is recorded, handed to the queue, or refused with its reason."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.hub.known import KnownSecrets
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.desk import Desk
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FixRun
from sqlalchemy import text

from tests.support.fix_runs import PROFILE, REQUIREMENTS
from tests.support.hub_office import HubFleet
from tests.unit.hub.test_hub import problem

ASKED = {"target_service": "web", "instruction": "bump requests to 2.32.4"}
DIFF = f"""\
--- a/stacks/shop/web/requirements.txt
+++ b/stacks/shop/web/requirements.txt
@@ -1,2 +1,2 @@
-{REQUIREMENTS.splitlines()[0]}
+flask==3.0.1
 {REQUIREMENTS.splitlines()[1]}
"""


def ask(fleet: HubFleet, role: Any = "operator", **changed: Any) -> Any:
    return fleet.client(role).post("/orchestrator/runs", json={**ASKED, **changed})


def events(fleet: HubFleet) -> int:
    with fleet.world.store.read() as db:
        return int(db.execute(text("SELECT count(*) FROM events")).scalar_one())


def waiting(fleet: HubFleet) -> FixRun:
    run = fleet.world.analysed("pre-run")
    return fleet.world.fix_runs.begin(fleet.world.mine, run.id, "patch")


def test_what_is_asked_for_is_recorded_and_handed_to_the_queue(fleet: HubFleet) -> None:
    answer = ask(fleet, priority="high")
    assert answer.status_code == 202
    made = answer.json()
    assert (made["status"], made["requester"], made["service"], made["node"]) == ("pending", "alice", "web", "pi-1")
    assert (made["approval_required"], made["approval_status"]) == (False, "not_required")
    assert fleet.client("viewer").get(answer.headers["location"]).json()["id"] == made["id"]
    assert fleet.queue.told == [(made["id"], "high")]
    assert [run.id for run in fleet.office.fix_runs.queued()] == [made["id"]]


def test_who_asks_is_the_tokens_login_and_no_field(fleet: HubFleet) -> None:
    problem(ask(fleet, requester="mallory"), 422, "invalid")
    assert ask(fleet).json()["requester"] == "alice"


@pytest.mark.parametrize(
    ("changed", "status", "kind"),
    [
        ({"target_service": "none"}, 400, "unknown_service"),
        ({"target_service": "../web"}, 400, "unknown_service"),
        ({"instruction": "make it work"}, 400, "invalid_instruction"),
        ({"instruction": "bump requests to 2.32.4; rm -rf /"}, 400, "invalid_instruction"),
        ({"instruction": "bump requests to 2.32.4 and check reboot"}, 400, "invalid_instruction"),
        ({"instruction": "bump requests to 2.32.4 in ../other/requirements.txt"}, 400, "invalid_instruction"),
        ({"instruction": "apply diff /etc/passwd"}, 400, "invalid_instruction"),
        ({"instruction": "apply diff x.diff", "diff": DIFF.replace("/web/", "/../other/")}, 400, "invalid_instruction"),
        ({"instruction": "set env TOKEN=AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ"}, 400, "invalid_instruction"),
        ({"approval_token": "apr-1"}, 409, "approval_not_applicable"),
        ({"approval_token": "apr-1", "target_service": "protected"}, 409, "approval_invalid"),
        ({"priority": "urgent"}, 422, "invalid"),
        ({"instruction": 7}, 422, "invalid"),
        ({"target_service": None}, 422, "invalid"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_recorded(fleet: HubFleet, changed: dict[str, Any], status: int, kind: str) -> None:
    before = events(fleet)
    problem(ask(fleet, **changed), status, kind)
    assert (events(fleet), fleet.queue.told) == (before, [])


def test_what_is_not_committed_and_a_service_that_is_busy_are_said(fleet: HubFleet) -> None:
    fleet.repository.write("stacks/shop/new.txt", "x\n")
    problem(ask(fleet), 409, "checkout_dirty")
    (fleet.root / "stacks/shop/new.txt").unlink()
    assert ask(fleet).status_code == 202
    problem(ask(fleet), 409, "service_busy")


KNOWN = "Winter in Bern"


def kept_in(fleet: HubFleet, wanted: str) -> list[Path]:
    """The files of ledger and artifacts that hold *wanted*."""
    files = [path for folder in (".pifleet", "var") for path in (fleet.root / folder).rglob("*") if path.is_file()]
    return [path for path in files if wanted.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "changed",
    [
        {"instruction": f"set env GREETING={KNOWN}"},
        {"instruction": "apply diff x.diff", "diff": DIFF.replace("flask==3.0.1", f"flask==3.0.1  # {KNOWN}")},
    ],
)
def test_known_secret_without_the_shape_of_one_is_refused_and_kept_nowhere(fleet: HubFleet, changed: dict[str, Any]) -> None:
    fleet.secrets.append(KNOWN)
    before = events(fleet)
    problem(ask(fleet, **changed), 400, "invalid_instruction")
    assert (events(fleet), fleet.queue.told) == (before, [])
    assert kept_in(fleet, KNOWN) == []
    # what is no secret any more is
    fleet.secrets.clear()
    assert ask(fleet, **changed).status_code == 202
    assert kept_in(fleet, KNOWN)


def test_secrets_that_cannot_be_known_are_no_reason_to_record_them(fleet: HubFleet) -> None:
    before = events(fleet)
    broken = KnownSecrets(fleet.root, (str(fleet.root / "none.yml"),))
    fleet.app.state.office = replace(fleet.office, asking=lambda: Desk(fleet.root, "stacks", broken()))
    answer = ask(fleet)
    problem(answer, 503, "unavailable")
    assert "inventory cannot be read" in answer.json()["detail"]
    assert events(fleet) == before


def test_secrets_are_those_of_the_inventory(tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(
        f"""
all:
  vars: {{shop_password: {KNOWN}, has_token: "yes", greeting: hello, count_key: 7, other_token: "{{{{ nowhere }}}}"}}
  hosts: {{pi-1: {{}}, pi-2: {{own_token: of-pi-2}}}}
"""
    )
    known = KnownSecrets(tmp_path, (str(inventory),))
    assert known() == (KNOWN, "of-pi-2")
    # many requests at once are one look
    inventory.unlink()
    assert known() == (KNOWN, "of-pi-2")
    known._until = 0
    with pytest.raises(PifleetError, match="inventory cannot be read"):
        known()


def test_diff_comes_with_the_request(fleet: HubFleet) -> None:
    made = ask(fleet, instruction="apply diff fix.diff", diff=DIFF)
    assert made.status_code == 202, made.text
    run = fleet.office.fix_runs.get(made.json()["id"])
    assert fleet.office.desk.artifacts().read(run.artifacts[0]) == DIFF


PROTECTED = {"target_service": "protected"}


def ahead(fleet: HubFleet, digest: str = "d" * 64, service: str = "protected", role: Any = "approver") -> Any:
    return fleet.client(role).post("/orchestrator/approvals", json={"target_service": service, "plan_digest": digest})


def token(fleet: HubFleet, digest: str = "d" * 64, service: str = "protected") -> str:
    answer = ahead(fleet, digest, service)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["approval_token"])


def analysed(fleet: HubFleet, run_id: str) -> FixRun:
    """Take it, and make its plan."""
    taken = fleet.world.fix_runs.take(fleet.world.mine, run_id)
    fleet.world.plan(taken, "pre-run")
    return fleet.world.fix_runs.begin(fleet.world.mine, run_id, "patch")


def test_approval_that_was_given_ahead_permits_its_plan_and_is_used_up_by_it(fleet: HubFleet) -> None:
    # the plan is known before: as --check shows it, here of an earlier fix run that was rejected
    earlier = waiting(fleet)
    assert decide(fleet, earlier, decision="rejected").status_code == 201
    given = token(fleet, earlier.plan_digest)
    made = ask(fleet, **PROTECTED, approval_token=given)
    assert made.status_code == 202, made.text
    run = analysed(fleet, made.json()["id"])
    assert (run.status, run.step("patch").state, run.plan_digest) == ("running", "in_progress", earlier.plan_digest)
    (approval,) = run.approvals
    assert (approval.approver, approval.fix_run_id, bool(approval.used_at)) == ("bob", run.id, True)
    # no other fix run can have it
    fleet.world.fix_runs.change(run.id, "fix_run.failed", lambda r, now: runner.interrupt(r, now))
    problem(ask(fleet, **PROTECTED, approval_token=given), 409, "approval_invalid")


def test_approval_that_was_given_ahead_for_another_plan_permits_nothing(fleet: HubFleet) -> None:
    made = ask(fleet, **PROTECTED, approval_token=token(fleet))
    run = analysed(fleet, made.json()["id"])
    assert (run.status, run.step("patch").state) == ("awaiting_approval", "pending")
    shown = fleet.client("viewer").get(f"/orchestrator/runs/{run.id}").json()
    assert (shown["approval_required"], shown["approval_status"]) == (True, "awaiting")
    assert decide(fleet, run).status_code == 201
    assert [bool(a.used_at) for a in analysed_again(fleet, run).approvals] == [False, True]


def analysed_again(fleet: HubFleet, run: FixRun) -> FixRun:
    fleet.world.fix_runs.take(fleet.world.mine, run.id)
    return fleet.world.fix_runs.begin(fleet.world.mine, run.id, "patch")


def test_approval_ahead_that_does_not_fit_is_refused_and_nothing_is_recorded(fleet: HubFleet) -> None:
    fix_runs, signer = fleet.office.fix_runs, fleet.office.signer()
    good = token(fleet)
    envelope = json.loads(base64.urlsafe_b64decode(good))
    forged = {**envelope, "payload": base64.b64encode(base64.b64decode(envelope["payload"]).replace(b"bob", b"eve")).decode()}
    # an approval of a fix run is signed with the same key
    run = waiting(fleet)
    decide(fleet, run, decision="rejected")
    of_a_run = fleet.office.fix_runs.get(run.id).approvals[0].envelope
    wrong = [
        *("", "apr-1", "\N{SNOWMAN}", good[:-8]),
        *(base64.urlsafe_b64encode(json.dumps(one).encode()).decode() for one in (forged, of_a_run, [], {})),
        token(fleet, service="web"),
        fix_runs.approve_ahead("protected", "d" * 64, "alice", 30, signer)[0],
        fix_runs.approve_ahead("protected", "d" * 64, "bob", 0, signer)[0],
    ]
    before = events(fleet)
    for one in wrong:
        problem(ask(fleet, **PROTECTED, approval_token=one), 409, "approval_invalid")
    problem(ask(fleet, approval_token=good), 409, "approval_not_applicable")
    assert (events(fleet), fleet.queue.told) == (before, [])
    fleet.repository.write_yaml(
        "fix_profiles/protected.yml", {**PROFILE, "approval": {"requirement": "pre-run", "approver_roles": ["on-call"]}}
    )
    fleet.repository.commit()
    problem(ask(fleet, **PROTECTED, approval_token=good), 409, "approval_invalid")
    problem(ahead(fleet, service="none"), 400, "unknown_service")
    problem(ahead(fleet, digest="x"), 422, "invalid")
    problem(ahead(fleet, role="operator"), 403, "forbidden")


def decide(fleet: HubFleet, run: FixRun, role: Any = "approver", **changed: Any) -> Any:
    body = {"decision": "approved", "plan_digest": run.plan_digest, **changed}
    return fleet.client(role).post(f"/orchestrator/runs/{run.id}/approvals", json=body)


def test_approval_is_the_tokens_logins_and_goes_to_the_queue(fleet: HubFleet) -> None:
    run = waiting(fleet)
    answer = decide(fleet, run)
    assert answer.status_code == 201, answer.text
    shown = answer.json()
    assert (shown["approval_status"], shown["approvals"][0]["approver"], shown["approvals"][0]["plan_digest"]) == (
        "granted",
        "bob",
        run.plan_digest,
    )
    assert fleet.queue.told == [(run.id, "normal")]
    problem(decide(fleet, run), 409, "approval_not_applicable")
    worker = fleet.world.another_run(9)
    fleet.world.fix_runs.take(worker, run.id)
    assert fleet.world.fix_runs.begin(worker, run.id, "patch").step("patch").state == "in_progress"


def test_rejection_ends_it(fleet: HubFleet) -> None:
    answer = decide(fleet, waiting(fleet), decision="rejected")
    assert (answer.status_code, answer.json()["status"], fleet.queue.told) == (201, "rejected", [])


@pytest.mark.parametrize(
    ("prepare", "kind"),
    [
        (lambda fleet: (waiting(fleet), {"plan_digest": "0" * 64}), "approval_invalid"),
        (lambda fleet: (fleet.world.analysed(), {}), "approval_not_applicable"),
    ],
)
def test_decision_that_does_not_fit_is_refused(
    fleet: HubFleet, prepare: Callable[[HubFleet], tuple[FixRun, dict[str, str]]], kind: str
) -> None:
    run, changed = prepare(fleet)
    problem(decide(fleet, run, **changed), 409, kind)
    assert fleet.office.fix_runs.get(run.id).approvals == ()


def test_nobody_approves_what_they_asked_for(fleet: HubFleet) -> None:
    run = waiting(fleet)
    with fleet.world.store.write() as db:
        db.execute(text("UPDATE api_tokens SET source = 'alice' WHERE role = 'approver'"))
    problem(decide(fleet, run), 409, "approval_invalid")
    fleet.repository.write("fix_runs.yml", "two_person: false\n")
    fleet.repository.commit()
    assert decide(fleet, run).status_code == 201


def test_retry_goes_to_the_queue_where_it_stood(fleet: HubFleet) -> None:
    world = fleet.world
    run = world.analysed()
    world.fix_runs.begin(world.mine, run.id, "patch")
    path = f"/orchestrator/runs/{run.id}/retry"
    client = fleet.client("operator")
    problem(client.post(path), 409, "retry_not_allowed")
    world.gone.add(1)
    fleet.office.fix_runs._gone = world.is_gone
    for step in ("deploy", "restart"):
        problem(client.post(path, json={"from_step": step}), 400, "invalid_resume_step")
    answer = client.post(path)
    assert (answer.status_code, answer.json()["status"], fleet.queue.told) == (202, "pending", [(run.id, "normal")])
    problem(client.post(path), 409, "retry_not_allowed")
    problem(client.post("/orchestrator/runs/fix-000009-web/retry"), 404, "run_not_found")


def test_retry_goes_on_from_a_step_that_was_done_already(fleet: HubFleet) -> None:
    world = fleet.world
    run = world.step(world.step(world.analysed(), "patch"), "build")
    world.gone.add(1)
    fleet.office.fix_runs._gone = world.is_gone
    answer = fleet.client("operator").post(f"/orchestrator/runs/{run.id}/retry", json={"from_step": "build"})
    assert (answer.status_code, answer.json()["status"], fleet.queue.told) == (202, "pending", [(run.id, "normal")])
    shown = fleet.client("viewer").get(f"/orchestrator/runs/{run.id}").json()
    assert [step["state"] for step in shown["steps"]] == ["succeeded"] * 2 + ["pending"] * 4
    # whoever takes it begins there
    worker = world.another_run(9)
    world.fix_runs.take(worker, run.id)
    for name in ("build", "restart", "verify"):
        world.step(run, name, worker)
    assert fleet.client("viewer").get(f"/orchestrator/runs/{run.id}").json()["status"] == "succeeded"


def test_fresh_retry_is_another_fix_run(fleet: HubFleet) -> None:
    world = fleet.world
    run = world.analysed()
    path = f"/orchestrator/runs/{run.id}/retry"
    client = fleet.client("operator")
    problem(client.post(path, json={"fresh": True, "from_step": "patch"}), 400, "invalid_resume_step")
    world.gone.add(1)
    fleet.office.fix_runs._gone = world.is_gone
    again = client.post(path, json={"fresh": True})
    assert (again.status_code, again.json()["parent_id"]) == (202, run.id)
    assert again.json()["id"] != run.id
