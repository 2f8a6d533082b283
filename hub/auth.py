# SPDX-License-Identifier: GPL-3.0-or-later
"""Who calls: proven by a bearer token, never by what a request says of itself."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from ansible_collections.pifleet.ops.hub.problems import ProblemError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import ApiTokens, Caller
from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

_bearer = HTTPBearer(auto_error=False, description="A token of `hub token add`.")


def caller(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
    """Return whom the request's token proves. Raises ProblemError 401."""
    tokens: ApiTokens = request.app.state.tokens
    found = tokens.caller_of(given.credentials) if given else None
    if found is None:
        raise ProblemError(HTTPStatus.UNAUTHORIZED, "unauthorized", "No valid token: it is missing, unknown, expired or revoked.")
    return found


def permit(*roles: str) -> Callable[[Caller], Caller]:
    """Return a dependency that lets callers with one of *roles* in, and raises ProblemError 403 for others."""

    def permitted(who: Annotated[Caller, Depends(caller)]) -> Caller:
        if who.role not in roles:
            raise ProblemError(
                HTTPStatus.FORBIDDEN, "forbidden", f"The token {who.name} is of the role {who.role}; this takes {' or '.join(roles)}."
            )
        return who

    return permitted


def source(who: Annotated[Caller, Depends(caller)], x_pifleet_source: Annotated[str, Header()] = "") -> str:
    """Return the identity whose evidence the caller may send. Raises ProblemError 403 where it says another one, or may send none."""
    if who.role != "sync" or who.source is None:
        raise ProblemError(HTTPStatus.FORBIDDEN, "forbidden", f"The token {who.name} is not for sending evidence.")
    if x_pifleet_source and x_pifleet_source != who.source:
        raise ProblemError(HTTPStatus.FORBIDDEN, "other_identity", f"The token {who.name} is for evidence of another identity.")
    return who.source


Source = Annotated[str, Depends(source)]
Viewer = Annotated[Caller, Depends(permit("viewer", "operator", "approver"))]
Operator = Annotated[Caller, Depends(permit("operator"))]
Approver = Annotated[Caller, Depends(permit("approver"))]
