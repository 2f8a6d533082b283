# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence from fleets: taken in, durably, before it is acknowledged; listed, so that both sides can be compared record by record."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

from ansible_collections.pifleet.ops.hub.auth import Source
from ansible_collections.pifleet.ops.hub.problems import ProblemError, answers
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Result
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.received import Incoming, Received
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

#: bytes of a request: a body of the ledger, or a batch of events
MAX_REQUEST = 33 << 20
_HASH = "^[0-9a-f]{64}$"
Sha256 = Annotated[str, Field(pattern=_HASH)]

router = APIRouter(prefix="/v1", tags=["evidence"], responses=answers(400, 401, 403, 413, 422))


class EventIn(BaseModel):
    """One event: its id, and its canonical JSON (RFC 8785) as text, with the hash of these bytes."""

    id: str = Field(min_length=1, max_length=200)
    sha256: Sha256
    content: str = Field(max_length=2 << 20)


class EventBatch(BaseModel):
    """At most 1000 events. None: the answer says whether the hub is in order."""

    events: list[EventIn] = Field(max_length=1000)


class ResultOut(BaseModel):
    """What became of one record: kept now, kept before, or not acceptable (*detail* says why)."""

    id: str
    sha256: str
    result: Literal["stored", "duplicate", "rejected"]
    detail: str = ""


class BatchOut(BaseModel):
    """One result for each event, in order."""

    results: list[ResultOut]


class ItemOut(BaseModel):
    """A record that the hub has."""

    id: str
    sha256: str


class PageOut(BaseModel):
    """Records by id. An empty page is the end; else the next one begins after the last id."""

    items: list[ItemOut]


def _received(request: Request) -> Received:
    found: Received = request.app.state.received
    return found


def _out(result: Result, sha256: str) -> ResultOut:
    return ResultOut(id=result.key, sha256=sha256, result=result.outcome, detail=result.detail)


@router.post("/events")
def receive_events(request: Request, source: Source, batch: EventBatch) -> BatchOut:
    """Take in events. What is answered as stored or duplicate is on the hub's disk."""
    rows = [Incoming(event.id, event.sha256, event.content.encode()) for event in batch.events]
    results = _received(request).store_events(source, rows)
    return BatchOut(results=[_out(result, row.sha256) for result, row in zip(results, rows, strict=True)])


@router.put("/bodies/{sha256}", responses={HTTPStatus.CREATED: {"model": ResultOut, "description": "Kept now"}})
async def receive_body(request: Request, source: Source, sha256: Annotated[str, Path(pattern=_HASH)], response: Response) -> ResultOut:
    """Take in a body, named by the hash of its content."""
    media_type = request.headers.get("content-type", "application/octet-stream")
    content = await request.body()
    result = await run_in_threadpool(_received(request).store_body, source, sha256, media_type, content)
    if result.outcome == "rejected":
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "hash_mismatch", result.detail)
    response.status_code = HTTPStatus.CREATED if result.outcome == "stored" else HTTPStatus.OK
    return _out(result, sha256)


@router.get("/events")
def list_events(
    request: Request, source: Source, after: Annotated[str, Query(max_length=200)] = "", limit: Annotated[int, Query(ge=1, le=1000)] = 1000
) -> PageOut:
    """List the events that the hub has of the caller's identity."""
    return PageOut(items=[ItemOut(id=key, sha256=sha256) for key, sha256 in _received(request).list_events(source, after, limit)])


@router.get("/bodies")
def list_bodies(
    request: Request, source: Source, after: Annotated[str, Query(max_length=200)] = "", limit: Annotated[int, Query(ge=1, le=1000)] = 1000
) -> PageOut:
    """List the bodies that the hub has of the caller's identity."""
    return PageOut(items=[ItemOut(id=key, sha256=sha256) for key, sha256 in _received(request).list_bodies(source, after, limit)])
