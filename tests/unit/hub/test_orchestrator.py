# SPDX-License-Identifier: GPL-3.0-or-later
"""Fix runs over HTTP: what is listed and shown, and to whom."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.pifleet.ops.hub import cli
from ansible_collections.pifleet.ops.hub import fleet as hub_fleet
from ansible_collections.pifleet.ops.hub.links import VALID
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import Role
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FixRun

from tests.support.hub_office import HubFleet
from tests.unit.hub.test_fleet import read
from tests.unit.hub.test_hub import problem

#: by path, or by method and path: who is let in; None: whoever comes
OPEN_TO: dict[str, set[Role] | None] = {
    "/healthz": None,
    "/v1/events": {"sync"},
    "/v1/bodies": {"sync"},
    "/v1/bodies/{sha256}": {"sync"},
    "/orchestrator/runs": {"viewer", "operator", "approver"},
    "/orchestrator/runs/{run_id}": {"viewer", "operator", "approver"},
    "/orchestrator/runs/{run_id}/artifacts": {"viewer", "operator", "approver"},
    "/api/events": {"viewer", "operator", "approver"},
    "/api/releases": {"viewer", "operator", "approver"},
    "/api/stacks": {"viewer", "operator", "approver"},
    "/api/nodes": {"viewer", "operator", "approver"},
    "/api/queue": {"viewer", "operator", "approver"},
    "/api/refresh-status": {"viewer", "operator", "approver"},
    "/api/refresh": {"operator"},
    "/api/stacks/{node}/{name}/acknowledgements": {"operator"},
    # its signature proves it: nobody's token does
    "/api/webhook": set(),
    "/metrics": {"viewer", "operator", "approver"},
    "POST /orchestrator/runs": {"operator"},
    "/orchestrator/runs/{run_id}/retry": {"operator"},
    "/orchestrator/runs/{run_id}/approvals": {"approver"},
    "/orchestrator/approvals": {"approver"},
    # its link proves itself
    "/orchestrator/runs/{run_id}/artifacts/{name}": None,
}


def with_artifact(fleet: HubFleet, text: str = "built\n") -> FixRun:
    run = fleet.world.analysed()
    kept = fleet.office.desk.keep(run, "build.log", "build", text)
    return fleet.world.fix_runs.change(run.id, "fix_run.artifact", lambda found, _now: found, [kept])


def test_every_path_lets_in_exactly_its_roles(fleet: HubFleet) -> None:
    paths = fleet.app.openapi()["paths"]
    assert set(paths) == {of.split()[-1] for of in OPEN_TO}, "say here who may use the new path"
    clients: dict[Role | None, Any] = {role: fleet.client(role) for role in (None, *fleet.tokens)}
    for template, methods in paths.items():
        path = template.format(run_id="fix-000001-web", name="build.log", sha256="0" * 64, node="pi-1")
        for method in methods:
            let_in = OPEN_TO.get(f"{method.upper()} {template}", OPEN_TO[template])
            for role, client in clients.items():
                # no number of an event, so that the stream without end does not begin
                status = client.request(method, path, headers={"Last-Event-ID": "none"}).status_code
                refused = 401 if role is None or template == "/api/webhook" else 403
                assert (status == refused) == (let_in is not None and role not in let_in), (method, path, role, status)


def test_list_has_filters_and_pages(fleet: HubFleet) -> None:
    world, client = fleet.world, fleet.client("viewer")
    for pid, service in enumerate(("web", "api", "mail"), 2):
        world.create(world.another_run(pid), service)
    world.gone.add(3)
    page = client.get("/orchestrator/runs?limit=2").json()
    assert ([r["service"] for r in page["items"]], page["total"], page["limit"], page["offset"]) == (["mail", "api"], 3, 2, 0)
    assert [r["service"] for r in client.get("/orchestrator/runs?limit=2&offset=2").json()["items"]] == ["web"]
    only = client.get("/orchestrator/runs?service=api").json()
    assert (only["total"], only["items"][0]["id"]) == (1, "fix-000002-api")
    assert client.get("/orchestrator/runs?status=succeeded").json()["items"] == []
    assert client.get("/orchestrator/runs?since=2999").json()["total"] == 0
    # before it in another zone
    assert client.get("/orchestrator/runs", params={"since": "2025-01-02T04:04+01:00"}).json()["total"] == 3
    assert client.get("/orchestrator/runs", params={"since": "2025-01-02T03:04-01:00"}).json()["total"] == 0
    assert client.get("/orchestrator/runs").json()["limit"] == 20


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "offset=-1", "status=odd", "service=" + "x" * 64, "since=yesterday", "since=2025-13"]
)
def test_question_that_is_none_is_refused(fleet: HubFleet, query: str) -> None:
    problem(fleet.client("viewer").get(f"/orchestrator/runs?{query}"), 422, "invalid")


def test_summary_says_whether_an_approval_is_awaited(fleet: HubFleet) -> None:
    run = fleet.world.analysed("pre-run")
    fleet.world.fix_runs.begin(fleet.world.mine, run.id, "patch")
    shown = fleet.client("viewer").get("/orchestrator/runs").json()["items"][0]
    assert (shown["status"], shown["approval_required"], shown["approval_status"]) == ("awaiting_approval", True, "awaiting")
    assert shown["plan_digest"] == run.plan_digest


def test_detail_has_plan_steps_and_artifacts(fleet: HubFleet) -> None:
    run = with_artifact(fleet)
    shown = fleet.client("viewer").get(f"/orchestrator/runs/{run.id}").json()
    assert (shown["id"], shown["plan"]["summary"], shown["approval_status"]) == (run.id, shown["summary"], "not_required")
    assert [step["name"] for step in shown["steps"]] == ["analyze", "patch", "build", "restart", "verify", "rollback"]
    assert shown["steps"][0]["state"] == "succeeded"
    assert shown["steps"][0]["seconds"] > 0
    assert shown["steps"][2]["artifacts"] == ["build.log"]
    assert {step["task_id"] for step in shown["steps"]} == {""}


def test_step_has_the_message_that_it_was_done_for(fleet: HubFleet) -> None:
    run = fleet.office.fix_runs.create(None, "web", "shop", "pi-1", "auto", "alice")
    fleet.world.fix_runs.take(fleet.world.mine, run.id, "message-1")
    fleet.world.step(run, "analyze")
    shown = fleet.client("viewer").get(f"/orchestrator/runs/{run.id}").json()
    assert [step["task_id"] for step in shown["steps"]] == ["message-1", "", "", "", "", ""]


def test_unknown_run_is_said(fleet: HubFleet) -> None:
    for path in ("fix-000009-web", "fix-000009-web/artifacts"):
        problem(fleet.client("viewer").get(f"/orchestrator/runs/{path}"), 404, "run_not_found")


def test_artifact_is_read_by_a_link_that_expires(fleet: HubFleet) -> None:
    run = with_artifact(fleet)
    listed = fleet.client("viewer").get(f"/orchestrator/runs/{run.id}/artifacts").json()
    assert listed["total"] == 1
    one = listed["items"][0]
    assert (one["name"], one["type"], one["checksum"], one["size_bytes"]) == ("build.log", "build_log", run.artifacts[0].checksum, 6)
    nobody = fleet.client(None)
    got = nobody.get(one["url"])
    assert (got.status_code, got.text, got.headers["content-type"]) == (200, "built\n", "text/plain; charset=utf-8")
    problem(nobody.get(one["url"][:-1] + ("0" if one["url"][-1] != "0" else "1")), 403, "link_invalid")
    problem(nobody.get(one["url"].replace("build.log", "patch.diff")), 403, "link_invalid")
    problem(nobody.get(one["url"].split("?")[0]), 422, "invalid")
    now = fleet.office.links._now()
    fleet.office.links._now = lambda: now + VALID  # type: ignore[method-assign]
    problem(nobody.get(one["url"]), 403, "link_invalid")


def test_planted_secret_is_in_no_answer(fleet: HubFleet) -> None:
    secrets = ("ghp_0123456789abcdefghijklmnopqrstuvwxyzAB", "Winter in Bern")
    fleet.secrets.append(secrets[1])
    desk, fix_runs = fleet.office.asking(), fleet.world.fix_runs
    run = fleet.world.step(fleet.world.analysed(), "patch")
    fix_runs.begin(fleet.world.mine, run.id, "build")
    said = f"Step 1\ncurl -H 'X: {secrets[0]}'\n{secrets[1]}\n"
    kept = desk.keep(run, "build.log", "build", said)
    fix_runs.change(run.id, "fix_run.failed", lambda found, now: runner.fail(found, "build", desk.told(said), {}, now), [kept])
    fleet.world.step(run, "rollback")
    operator, viewer = fleet.client("operator"), fleet.client("viewer")
    answers = [
        operator.post("/orchestrator/runs", json={"target_service": "web", "instruction": f"set env GREETING={secret}"})
        for secret in secrets
    ]
    assert [answer.status_code for answer in answers] == [400, 400]
    links = viewer.get(f"/orchestrator/runs/{run.id}/artifacts").json()["items"]
    paths = [path for path, does in fleet.app.openapi()["paths"].items() if "get" in does and path != "/api/events"]
    filled = [path.format(run_id=run.id, name=kept.name, sha256="0" * 64) for path in paths]
    answers += [viewer.get(path) for path in [*filled, *(link["url"] for link in links), "/", "/openapi.json"]]
    texts = [answer.text for answer in answers] + read(fleet, 0, hub_fleet._now(fleet.office))
    assert sum("Step 1" in text for text in texts) >= 3, "the log, the step's message in the detail and in the events"
    assert not [text for text in texts if any(secret in text for secret in secrets)]


def test_artifact_that_was_changed_or_is_gone_is_not_handed_out(fleet: HubFleet) -> None:
    run = with_artifact(fleet)
    url = fleet.client("viewer").get(f"/orchestrator/runs/{run.id}/artifacts").json()["items"][0]["url"]
    path = fleet.root / run.artifacts[0].path
    path.write_text("other\n")
    problem(fleet.client(None).get(url), 410, "artifact_unusable")
    path.unlink()
    problem(fleet.client(None).get(url), 410, "artifact_unusable")


def test_token_of_a_person_carries_their_login(fleet: HubFleet, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--fleet-root", str(fleet.root), "token", "add"]
    assert cli.main([*words, "carol-laptop", "--role", "approver", "--login", "carol"]) == 0
    found = fleet.app.state.tokens.caller_of(capsys.readouterr().out.strip())
    assert (found.name, found.role, found.login) == ("carol-laptop", "approver", "carol")
    for wrong in (["--role", "viewer"], ["--role", "viewer", "--login", "a b"], ["--login", "x"], ["--role", "viewer", "--owner", "x"]):
        assert cli.main([*words, "other", *wrong]) == 2
    assert cli.main(["--fleet-root", str(fleet.root / "none"), "token", "list"]) == 2
