# SPDX-License-Identifier: GPL-3.0-or-later
"""Stacks over HTTP: as the nodes told them, acknowledged by whom a token proves, refreshed by who may and by a signed webhook."""

from __future__ import annotations

import hashlib
import hmac
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.pifleet.ops.hub.plays import Played, TaskResult
from ansible_collections.pifleet.ops.plugins.action import stack_acknowledge
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.permissions import VALID, Permissions

from tests.support.hub_office import SECRET, HubFleet
from tests.unit.hub.test_hub import problem

DIGEST = "d" * 64
LOOK = "pifleet.ops.stack_info"


def stack(name: str, **changed: Any) -> dict[str, Any]:
    return {
        "name": name,
        "status": "drifted",
        "drift": [{"service": "web", "reason": "image", "detail": "another one"}],
        "awaiting_acknowledgement": True,
        "plan_digest": DIGEST,
        "policy": "acknowledge",
        **changed,
    }


def told(host: str, *stacks: dict[str, Any]) -> TaskResult:
    return TaskResult(host, LOOK, ok=True, at="", result={"stacks": list(stacks)})


def refresh(fleet: HubFleet, *results: TaskResult, ok: bool = True) -> None:
    fleet.player.answer = Played(ok=ok, results=list(results))
    assert fleet.client("operator").post("/api/refresh").status_code == 202
    fleet.refreshed("succeeded" if ok else "failed")


def test_nothing_is_known_before_the_first_refresh(fleet: HubFleet) -> None:
    client = fleet.client("viewer")
    assert client.get("/api/stacks").json() == {"items": [], "total": 0, "limit": 20, "offset": 0}
    assert client.get("/api/nodes").json() == {"items": [], "total": 0}
    assert client.get("/api/refresh-status").json()["state"] == "never"


def test_stacks_are_listed_as_the_nodes_told_them(fleet: HubFleet) -> None:
    refresh(fleet, told("pi-1", stack("shop"), stack("web", status="synced")), told("pi-2", stack("shop")))
    client = fleet.client("viewer")
    page = client.get("/api/stacks?limit=2").json()
    assert ([(s["node"], s["name"]) for s in page["items"]], page["total"]) == ([("pi-1", "shop"), ("pi-1", "web")], 3)
    assert page["items"][0]["policy"] == "acknowledge", "every field of stack_info"
    assert page["items"][0]["observed_at"]
    assert [s["node"] for s in client.get("/api/stacks?status=drifted&node=pi-2").json()["items"]] == ["pi-2"]
    assert client.get("/api/nodes").json()["items"][0]["stacks"] == {"drifted": 1, "synced": 1}
    assert fleet.player.played == [("stacks_status.yml", {})]
    assert client.get("/api/refresh-status").json()["requester"] == "alice"


def test_node_that_does_not_answer_keeps_what_was_seen(fleet: HubFleet) -> None:
    refresh(fleet, told("pi-1", stack("shop")))
    seen = fleet.client("viewer").get("/api/stacks").json()["items"]
    refresh(fleet, TaskResult("pi-1", LOOK, ok=False, at="", result={"msg": "no route to host"}), told("pi-2", stack("x")), ok=False)
    client = fleet.client("viewer")
    assert client.get("/api/stacks?node=pi-1").json()["items"] == seen
    assert [node["problem"] for node in client.get("/api/nodes").json()["items"]] == ["pi-1: no route to host", ""]
    assert client.get("/api/refresh-status").json()["problem"] == "pi-1: no route to host"


def test_refresh_that_is_wanted_again_meanwhile_is_done_once_more(fleet: HubFleet) -> None:
    fleet.player.go_on.clear()
    client = fleet.client("operator")
    client.post("/api/refresh")
    fleet.refreshed("running")
    for _ in range(5):
        assert client.post("/api/refresh").json()["state"] == "running"
    fleet.player.go_on.set()
    fleet.office.fleet._worker.submit(lambda: None).result(30)
    assert len(fleet.player.played) == 2


def acknowledge(fleet: HubFleet, name: str = "shop", **changed: Any) -> Any:
    return fleet.client("operator").post(f"/api/stacks/pi-1/{name}/acknowledgements", json={"plan_digest": DIGEST, **changed})


def test_acknowledgement_is_the_tokens_logins_and_is_carried_out(fleet: HubFleet) -> None:
    refresh(fleet, told("pi-1", stack("shop"), stack("group/deep")))
    for name in ("shop", "group/deep"):
        answer = acknowledge(fleet, name)
        assert answer.status_code == 202, answer.text
        event = answer.json()["id"]
        assert Permissions(fleet.world.store).requester_of(event, "pi-1", name, DIGEST) == "alice"
        fleet.office.fleet._worker.submit(lambda: None).result(30)
        variables = {"node": "pi-1", "stack": name, "plan_digest": DIGEST, "expires_in": "3600", "acknowledgement_request": event}
        assert fleet.player.played[-2:] == [("acknowledge.yml", variables), ("stacks_status.yml", {})]


def test_acknowledgement_that_does_not_fit_is_refused(fleet: HubFleet) -> None:
    refresh(fleet, told("pi-1", stack("shop"), stack("calm", awaiting_acknowledgement=False)))
    problem(acknowledge(fleet, "none"), 404, "stack_not_found")
    problem(acknowledge(fleet, "calm"), 409, "acknowledgement_not_applicable")
    problem(acknowledge(fleet, plan_digest="0" * 64), 409, "acknowledgement_not_applicable")
    problem(acknowledge(fleet, plan_digest="x"), 422, "invalid")
    problem(acknowledge(fleet, acknowledged_by="mallory"), 422, "invalid")
    assert len(fleet.player.played) == 1


def test_request_permits_nothing_else_and_not_for_ever(fleet: HubFleet) -> None:
    store = fleet.world.store
    event = Permissions(store).ask("pi-1", "shop", DIGEST, "alice")
    for wrong in (
        ("other", "pi-1", "shop", DIGEST),
        (event, "pi-2", "shop", DIGEST),
        (event, "pi-1", "x", DIGEST),
        (event, "pi-1", "shop", "0"),
    ):
        with pytest.raises(PifleetError, match="has no request"):
            Permissions(store).requester_of(*wrong)
    later = utc_now() + VALID + timedelta(seconds=1)
    with pytest.raises(PifleetError, match="too old"):
        Permissions(store, lambda: later).requester_of(event, "pi-1", "shop", DIGEST)


def signed(body: bytes, secret: bytes = SECRET) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()}


def test_webhook_with_its_signature_refreshes(fleet: HubFleet) -> None:
    client = fleet.client(None)
    for headers in (
        {},
        signed(b"{}", b"another secret here"),
        signed(b"{ }"),
        {"X-Hub-Signature-256": "sha256="},
        {"X-Hub-Signature-256": "x"},
    ):
        problem(client.post("/api/webhook", content=b"{}", headers=headers), 401, "signature_invalid")
    assert fleet.player.played == []
    assert client.post("/api/webhook", content=b"{}", headers=signed(b"{}")).status_code == 202
    fleet.refreshed()
    assert fleet.office.fleet.status().requester == "webhook"


def test_queue_says_how_it_is(fleet: HubFleet) -> None:
    assert fleet.client("viewer").get("/api/queue").json() == {"kind": "embedded", "ok": True, "pending": 0, "workers": 1, "problem": ""}


class Templar:
    def template(self, text: Any) -> Any:
        return text


def test_node_is_told_whom_the_token_proved(fleet: HubFleet) -> None:
    event = Permissions(fleet.world.store).ask("pi-1", "shop", DIGEST, "alice")
    action = stack_acknowledge.ActionModule.__new__(stack_acknowledge.ActionModule)
    action._templar = Templar()
    action._task = SimpleNamespace(args={"stack": "shop", "plan_digest": DIGEST})
    seen = {"fleet_root": str(fleet.root), "inventory_hostname": "pi-1", "acknowledgement_request": event}
    assert action._requester(seen) == "alice"
    assert action._requester({}) == origin.login()
    with pytest.raises(PifleetError, match="has no request"):
        action._requester({**seen, "inventory_hostname": "pi-2"})
