# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet over HTTP: its releases, what happens in it as it happens, and figures of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from ansible_collections.pifleet.ops.hub import metrics
from ansible_collections.pifleet.ops.hub.auth import Viewer
from ansible_collections.pifleet.ops.hub.office import InOffice, Office
from ansible_collections.pifleet.ops.hub.problems import answers
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import head_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import chains, events
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import NoLedgerError
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import text as release_text
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import generate_latest
from pydantic import BaseModel
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

router = APIRouter(tags=["fleet"])

#: seconds between two looks at the ledger for a reader of events
LOOK = 1.0
#: looks without an event after which a line shows that the connection lives
_QUIET = 15
#: events that are sent at once
_BATCH = 200


class ReleaseOut(BaseModel):
    """A release. *timestamp*: when it was created, UTC, ISO 8601; *current*: whether it is the live one of its environment."""

    id: str
    environment: str
    version: str
    commit_sha: str
    kind: str
    status: str
    timestamp: str
    ended_at: str
    current: bool
    plan_digest: str


class ReleasePage(BaseModel):
    """*items*, newest first, of *total*."""

    items: list[ReleaseOut]
    total: int
    limit: int
    offset: int


@router.get("/api/releases", responses=answers(401, 403, 422))
def list_releases(
    office: InOffice,
    _who: Viewer,
    environment: Annotated[str, Query(max_length=63)] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> ReleasePage:
    """List releases, newest first."""
    names = [environment] if environment else office.releases.environments()
    found = sorted((r for name in names for r in office.releases.of_environment(name)), key=lambda r: (r.timestamp, r.id), reverse=True)
    items = [ReleaseOut.model_validate(release_text.as_table(release)) for release in found[offset : offset + limit]]
    return ReleasePage(items=items, total=len(found), limit=limit, offset=offset)


@router.get(
    "/api/events",
    responses={**answers(401, 403, 422), 200: {"description": "A stream without end.", "content": {"text/event-stream": {}}}},
    response_class=StreamingResponse,
)
async def follow_events(
    request: Request,
    office: InOffice,
    _who: Viewer,
    last_event_id: Annotated[str, Header(pattern="^([0-9]{1,18})?$")] = "",
) -> StreamingResponse:
    """Send each event of the ledger as it is recorded (server-sent events). Begins after the number ``Last-Event-ID``, else with now."""
    after = int(last_event_id) if last_event_id else await run_in_threadpool(_now, office)
    return StreamingResponse(_stream(request, office, after), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _stream(request: Request, office: Office, after: int) -> AsyncIterator[str]:
    quiet = 0
    yield ": connected\n\n"
    while not await request.is_disconnected():
        found = await run_in_threadpool(_since, office, after)
        for seq, told in found:
            after = seq
            yield f"id: {seq}\nevent: {told['kind']}\ndata: {json.dumps(told, separators=(',', ':'))}\n\n"
        quiet = 0 if found else quiet + 1
        if quiet >= _QUIET:
            quiet = 0
            yield ": quiet\n\n"
        if len(found) < _BATCH:
            await asyncio.sleep(LOOK)


def _now(office: Office) -> int:
    try:
        with office.store.read() as db:
            return head_of(db).seq
    except NoLedgerError:
        return 0


def _since(office: Office, after: int) -> list[tuple[int, dict[str, Any]]]:
    wanted = select(events.c.seq, events.c.id, events.c.content).join(chains).where(chains.c.own, events.c.seq > after)
    try:
        with office.store.read() as db:
            rows = db.execute(wanted.order_by(events.c.seq).limit(_BATCH)).all()
    except NoLedgerError:
        return []
    return [(row.seq, _told(row.id, row.content)) for row in rows]


def _told(event_id: str, content: bytes) -> dict[str, Any]:
    table = json.loads(bytes(content))
    return {"id": event_id, "run_id": table["run"], **{name: table[name] for name in ("seq", "kind", "at", "host", "data")}}


@router.get("/metrics", responses=answers(401, 403), response_class=Response)
def show_metrics(office: InOffice, _who: Viewer) -> Response:
    """Figures for Prometheus."""
    return Response(
        generate_latest(metrics.registry_of(office.fix_runs, office.queue)), media_type="text/plain; version=0.0.4; charset=utf-8"
    )
