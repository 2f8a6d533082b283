# SPDX-License-Identifier: GPL-3.0-or-later
"""Every error leaves the hub as problem+json (RFC 9457): a stable ``type``, a status, and a sentence for people."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("pifleet.hub")


class ProblemError(Exception):
    """A request that is refused. *kind*: for programs, such as ``unauthorized``; *detail*: for people."""

    def __init__(self, status: HTTPStatus, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail

    def response(self) -> Response:
        headers = {"WWW-Authenticate": "Bearer"} if self.status is HTTPStatus.UNAUTHORIZED else None
        content = {"type": self.kind, "title": self.status.phrase, "status": int(self.status), "detail": self.detail}
        return Response(json.dumps(content), self.status, headers, "application/problem+json")


class ProblemOut(BaseModel):
    """An error: *type* for programs, *detail* for people."""

    type: str
    title: str
    status: int
    detail: str


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how OpenAPI describes that a path may answer with these errors, beside those of every path."""
    content = {"application/problem+json": {"schema": ProblemOut.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in (*statuses, 500, 503)}


def install(app: FastAPI) -> None:
    """Let *app* answer with problems, whatever happens."""

    async def problem(_request: Request, error: Exception) -> Response:
        return (error if isinstance(error, ProblemError) else ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "")).response()

    async def invalid(_request: Request, error: Exception) -> Response:
        first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
        where = ".".join(str(part) for part in first.get("loc", ()))
        return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", f"{where}: {first.get('msg', 'it cannot be read')}").response()

    async def plain(_request: Request, error: Exception) -> Response:
        status = HTTPStatus(error.status_code) if isinstance(error, HTTPException) else HTTPStatus.BAD_REQUEST
        detail = error.detail if isinstance(error, HTTPException) else ""
        return ProblemError(status, status.phrase.lower().replace(" ", "_"), str(detail)).response()

    async def database(_request: Request, error: Exception) -> Response:
        log.error("%s", error)
        return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "The database cannot be used; nothing was stored.").response()

    async def unexpected(_request: Request, error: Exception) -> Response:
        log.error("unexpected", exc_info=error)
        return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "It was logged; nothing was stored.").response()

    app.add_exception_handler(ProblemError, problem)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, plain)
    app.add_exception_handler(LedgerError, database)
    app.add_exception_handler(Exception, unexpected)


class BodyLimit:
    """Refuses requests of more than *most* bytes, said or sent, before they are in memory."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        too_large = ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"A request may have {self._most} bytes.")
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > self._most:
            await too_large.response()(scope, receive, send)
            return
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise too_large
            return message

        await self._app(scope, limited, send)
