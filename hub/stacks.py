# SPDX-License-Identifier: GPL-3.0-or-later
"""Stacks over HTTP: how they are, looked at again, and their plans acknowledged."""

from __future__ import annotations

import hashlib
import hmac
from http import HTTPStatus
from typing import Annotated, Any, Literal

from ansible_collections.pifleet.ops.hub.auth import Operator, Viewer
from ansible_collections.pifleet.ops.hub.office import InOffice
from ansible_collections.pifleet.ops.hub.problems import ProblemError, answers
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.permissions import Permissions
from fastapi import APIRouter, Header, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

router = APIRouter(prefix="/api", tags=["stacks"])

#: who wanted what a webhook asks for
_WEBHOOK = "webhook"


class StackOut(BaseModel):
    """A stack of a node: the fields of pifleet.ops.stack_info, beside *node* and *observed_at* (UTC, ISO 8601)."""

    model_config = ConfigDict(extra="allow")

    node: str
    observed_at: str
    name: str
    status: str
    drift: list[dict[str, Any]]
    awaiting_acknowledgement: bool
    plan_digest: str


class StackPage(BaseModel):
    """*items* by node and name, of *total*."""

    items: list[StackOut]
    total: int
    limit: int
    offset: int


class NodeOut(BaseModel):
    """A node. *observed_at*: when its stacks were last told, empty: never; *problem*: why it did not answer the last time; *stacks*: how
    many by status."""

    node: str
    observed_at: str
    problem: str
    stacks: dict[str, int]


class NodePage(BaseModel):
    items: list[NodeOut]
    total: int


class RefreshOut(BaseModel):
    """The last refresh. *state* ``never``: there was none since the hub began."""

    state: Literal["never", "running", "succeeded", "failed"]
    requester: str
    started_at: str
    ended_at: str
    problem: str


class QueueOut(BaseModel):
    """The queue of fix runs. *problem*: what a person has to see to."""

    kind: str
    ok: bool
    pending: int
    workers: int
    problem: str


class Acknowledgement(BaseModel):
    """*plan_digest*: as the stack shows it; *expires_in*: seconds that it holds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    plan_digest: str = Field(pattern="^[0-9a-f]{64}$")
    expires_in: int = Field(3600, ge=60, le=86400)


class AcknowledgementOut(BaseModel):
    """*id*: of the event in the ledger that says who acknowledged."""

    id: str
    node: str
    stack: str
    plan_digest: str
    requester: str


@router.get("/stacks", responses=answers(401, 403, 422))
def list_stacks(
    office: InOffice,
    _who: Viewer,
    node: Annotated[str, Query(max_length=253)] = "",
    status: Literal["synced", "syncing", "drifted", "failed", "missing", "deleting"] | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> StackPage:
    """List stacks as they were last seen."""
    found = [
        {**stack, "node": seen.node, "observed_at": seen.observed_at}
        for seen in office.fleet.observed()
        for stack in seen.stacks
        if node in ("", seen.node) and status in (None, stack["status"])
    ]
    items = [StackOut.model_validate(stack) for stack in found[offset : offset + limit]]
    return StackPage(items=items, total=len(found), limit=limit, offset=offset)


@router.get("/nodes", responses=answers(401, 403))
def list_nodes(office: InOffice, _who: Viewer) -> NodePage:
    """List the nodes that have stacks, as they were last seen."""
    items = []
    for seen in office.fleet.observed():
        states = [str(stack["status"]) for stack in seen.stacks]
        counts = {state: states.count(state) for state in sorted(set(states))}
        items.append(NodeOut(node=seen.node, observed_at=seen.observed_at, problem=seen.problem, stacks=counts))
    return NodePage(items=items, total=len(items))


@router.post(
    "/stacks/{node}/{name:path}/acknowledgements", status_code=HTTPStatus.ACCEPTED, responses=answers(400, 401, 403, 404, 409, 422)
)
def acknowledge_stack(
    office: InOffice,
    who: Operator,
    node: Annotated[str, Path(max_length=253)],
    name: Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9_/-]*$", max_length=200)],
    wanted: Acknowledgement,
) -> AcknowledgementOut:
    """Permit the plan of a stack, which is then carried out. Who permits it is the token's login."""
    stack = next((s for seen in office.fleet.observed() if seen.node == node for s in seen.stacks if s["name"] == name), None)
    if stack is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "stack_not_found", f"{node} had no stack {name} when it was last seen.")
    if not stack["awaiting_acknowledgement"] or stack["plan_digest"] != wanted.plan_digest:
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "acknowledgement_not_applicable",
            f"The stack {name} of {node} did not wait for the acknowledgement of this plan when it was last seen. Refresh, and look at it.",
        )
    event = Permissions(office.store).ask(node, name, wanted.plan_digest, who.login)
    variables = {"node": node, "stack": name, "plan_digest": wanted.plan_digest, "expires_in": str(wanted.expires_in)}
    office.fleet.carry_out("acknowledge.yml", {**variables, "acknowledgement_request": event}, who.login)
    return AcknowledgementOut(id=event, node=node, stack=name, plan_digest=wanted.plan_digest, requester=who.login)


@router.post("/refresh", status_code=HTTPStatus.ACCEPTED, responses=answers(401, 403))
def refresh(office: InOffice, who: Operator) -> RefreshOut:
    """Ask the nodes how their stacks are."""
    return RefreshOut.model_validate(office.fleet.refresh(who.login), from_attributes=True)


@router.get("/refresh-status", responses=answers(401, 403))
def refresh_status(office: InOffice, _who: Viewer) -> RefreshOut:
    """Say how the last refresh went."""
    return RefreshOut.model_validate(office.fleet.status(), from_attributes=True)


@router.get("/queue", responses=answers(401, 403))
def queue_health(office: InOffice, _who: Viewer) -> QueueOut:
    """Say how the queue of fix runs is."""
    return QueueOut.model_validate(office.queue.health(), from_attributes=True)


@router.post("/webhook", status_code=HTTPStatus.ACCEPTED, responses=answers(401, 413))
async def webhook(
    request: Request,
    office: InOffice,
    x_hub_signature_256: Annotated[str, Header(description="`sha256=` and the HMAC-SHA256 of the body, in hex.")] = "",
) -> RefreshOut:
    """Refresh when a repository was pushed to: https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries."""
    body = await request.body()
    made = "sha256=" + hmac.new(office.webhook_secret, body, hashlib.sha256).hexdigest()
    if not office.webhook_secret or not hmac.compare_digest(made.encode(), x_hub_signature_256.encode()):
        raise ProblemError(HTTPStatus.UNAUTHORIZED, "signature_invalid", "X-Hub-Signature-256 is missing or wrong.")
    return RefreshOut.model_validate(await run_in_threadpool(office.fleet.refresh, _WEBHOOK), from_attributes=True)
