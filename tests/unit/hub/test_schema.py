# SPDX-License-Identifier: GPL-3.0-or-later
"""The hub against its own OpenAPI: whatever is sent, no error of the program, and no answer that the description does not have."""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import Role
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.support.hub_office import HubFleet

#: by method and path: whose token is sent; every other path takes the viewer's
ROLES: dict[tuple[str, str], Role] = {
    ("POST", "/orchestrator/runs"): "operator",
    ("POST", "/orchestrator/runs/{run_id}/retry"): "operator",
    ("POST", "/orchestrator/runs/{run_id}/approvals"): "approver",
    ("POST", "/orchestrator/approvals"): "approver",
    ("POST", "/api/refresh"): "operator",
    ("POST", "/api/stacks/{node}/{name}/acknowledgements"): "operator",
    ("GET", "/v1/events"): "sync",
    ("POST", "/v1/events"): "sync",
    ("GET", "/v1/bodies"): "sync",
    ("PUT", "/v1/bodies/{sha256}"): "sync",
}
#: sends without end
STREAM = "/api/events"
FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))
EXAMPLES = 200 if FULL else 12


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def fuzz(operation: Any, headers: dict[str, str]) -> None:
    whole, broken = (operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))

    @given(case=whole | broken if operation.body or operation.query or operation.path_parameters else whole)
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=not FULL, database=None, suppress_health_check=list(HealthCheck))
    def send(case: Any) -> None:
        case.validate_response(case.call(headers=headers), checks=CHECKS)

    send()


def test_answers_are_as_described(fleet: HubFleet, subtests: pytest.Subtests) -> None:
    fleet.world.create()
    api = schemathesis.openapi.from_asgi("/openapi.json", fleet.app).exclude(path=STREAM)
    tried = set()
    for found in api.get_all_operations():
        operation: Any = found.ok()
        named = (operation.method.upper(), operation.path)
        tried.add(named)
        with subtests.test(operation=" ".join(named)):
            fuzz(operation, {"Authorization": f"Bearer {fleet.tokens[ROLES.get(named, 'viewer')]}"})
    assert set(ROLES) <= tried
