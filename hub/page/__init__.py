# SPDX-License-Identifier: GPL-3.0-or-later
"""The hub's page: files as they are, for a browser that then asks the paths that every program asks. It holds nothing of the fleet."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

from ansible_collections.pifleet.ops.hub.problems import ProblemError
from fastapi import APIRouter
from fastapi.responses import FileResponse

router = APIRouter(include_in_schema=False)

_FILES = {"page.css": "text/css", "page.js": "text/javascript"}
_HERE = Path(__file__).resolve().parent
#: nothing from elsewhere, and nobody puts the page into theirs: https://www.w3.org/TR/CSP3/
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/")
def page() -> FileResponse:
    return FileResponse(_HERE / "index.html", media_type="text/html", headers=_HEADERS)


@router.get("/page/{name}")
def part(name: str) -> FileResponse:
    if name not in _FILES:
        raise ProblemError(HTTPStatus.NOT_FOUND, "not_found", "The page has no such part.")
    return FileResponse(_HERE / name, media_type=_FILES[name], headers=_HEADERS)
