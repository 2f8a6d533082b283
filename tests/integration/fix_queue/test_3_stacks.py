# SPDX-License-Identifier: GPL-3.0-or-later
"""Stacks over HTTP on real nodes: looked at, refreshed, and a plan acknowledged, which is then carried out, by whom a token proves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.fix_queue.conftest import Queued
from tests.integration.fix_runs.conftest import NEIGHBOUR, NODE, OTHER
from tests.support.fix_queue import until

NAME = "neighbour"


def refreshed(well: Queued, since: str = "") -> dict[str, Any]:
    """The refresh that ended after *since*."""

    def found() -> dict[str, Any] | None:
        status = dict(well.office.ask("viewer", "GET", "/api/refresh-status"))
        return status if status["state"] in ("succeeded", "failed") and status["ended_at"] > since else None

    return dict(until(found, "the refresh does not end"))


def stacks(well: Queued) -> dict[str, dict[str, Any]]:
    return {stack["name"]: stack for stack in well.office.ask("viewer", "GET", f"/api/stacks?node={NODE}")["items"]}


def container(well: Queued) -> dict[str, Any]:
    (labels,) = well.sh("docker inspect -f '{{.Id}} {{index .Config.Labels \"tests.version\"}}' neighbour-app-1").splitlines()
    found, _space, version = labels.partition(" ")
    return {"id": found, "version": version}


@pytest.mark.parametrize("kind", ["embedded"], indirect=True)
def test_a_plan_is_acknowledged_over_http_and_carried_out(well: Queued) -> None:
    well.office.start_workers("hub")
    assert well.office.ask("operator", "POST", "/api/refresh")["state"] in ("never", "running")
    first = refreshed(well)
    assert (first["state"], first["requester"], first["problem"]) == ("succeeded", "alice", "")
    nodes = {node["node"]: node for node in well.office.ask("viewer", "GET", "/api/nodes")["items"]}
    assert (set(nodes), nodes[NODE]["stacks"], nodes[OTHER]["problem"]) == ({NODE, OTHER}, {"synced": 2}, "")

    before = container(well)
    gated = NEIGHBOUR.replace("nodes:", "policy: acknowledge, nodes:").replace("app: {", 'app: {labels: {tests.version: "2"}, ')
    well.repository.write(f"stacks/{NAME}/compose.yaml", gated)
    well.repository.commit()
    well.deploy()
    assert container(well) == before
    well.office.ask("operator", "POST", "/api/refresh")
    second = refreshed(well, first["ended_at"])
    seen = stacks(well)[NAME]
    assert (seen["status"], seen["awaiting_acknowledgement"], stacks(well)["shop"]["status"]) == ("drifted", True, "synced")

    path = f"/api/stacks/{NODE}/{NAME}/acknowledgements"
    wrong = well.office.answer("operator", "POST", path, plan_digest="0" * 64)
    assert (wrong.status_code, wrong.json()["type"]) == (409, "acknowledgement_not_applicable")
    assert well.office.answer("viewer", "POST", path, plan_digest=seen["plan_digest"]).status_code == 403
    assert container(well) == before

    told = well.office.ask("operator", "POST", path, plan_digest=seen["plan_digest"])
    assert (told["requester"], told["stack"]) == ("alice", NAME)
    # it is carried out, and looked at again by itself
    third = refreshed(well, second["ended_at"])
    assert third["state"] == "succeeded", third
    after = container(well)
    assert (after["version"], after["id"] != before["id"]) == ("2", True)
    now = stacks(well)[NAME]
    assert (now["status"], now["awaiting_acknowledgement"]) == ("synced", False)
    with well.office.store.read() as db:
        asked = "SELECT content FROM events WHERE kind = 'stack.acknowledgement_requested'"
        (content,) = db.exec_driver_sql(asked).scalars().all()
    assert json.loads(content)["data"] == {
        "stack": NAME,
        "plan_digest": seen["plan_digest"],
        "requester": "alice",
    }
    # what was permitted is used up
    again = well.office.answer("operator", "POST", path, plan_digest=seen["plan_digest"])
    assert again.status_code == 409
