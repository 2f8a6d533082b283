# SPDX-License-Identifier: GPL-3.0-or-later
"""The hub over HTTP: what of its answers counts as an acknowledgement, and what everything else means."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.delivery import HubAuthError, HubError, HubRejectError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Identity
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Result, Row
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.token import Token

#: seconds: to connect, and between two parts of an answer
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
#: seconds for a whole answer: one that comes byte by byte does not hold up the rest for ever
ANSWER_SECONDS = 120.0
#: bytes of an answer; a hub sends far less
MAX_ANSWER = 8 << 20
#: answers that say something about the hub and nothing about the request
_OUT_OF_ORDER = (408, 425, 429, 502, 503, 504)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,126}")
_OUTCOMES = ("stored", "duplicate", "rejected")


class HttpHub:
    """A hub at ``identity.hub_url``; implements the port ``delivery.Hub``. Its certificate is verified, and no redirect is followed."""

    def __init__(self, identity: Identity, token: Token, ca_file: Path | None = None, *, read_seconds: float = READ_SECONDS) -> None:
        self._identity = identity
        self._token = token
        self._client = httpx.Client(
            base_url=identity.hub_url,
            headers={"Authorization": f"Bearer {token.value}", "X-Pifleet-Source": identity.team_or_user},
            verify=_tls(ca_file),
            timeout=httpx.Timeout(read_seconds, connect=CONNECT_SECONDS),
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> HttpHub:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send_events(self, rows: Sequence[Row]) -> list[Result]:
        """See ``delivery.Hub``. An answer counts where it names every row that was sent, with its hash, and no other."""
        events = [{"id": row.key, "sha256": row.sha256, "content": (row.content or b"").decode("utf-8", "surrogateescape")} for row in rows]
        payload = json.dumps({"events": events}).encode()
        answer = self._ask("POST", "/v1/events", payload, "application/json")
        said = answer.get("results")
        if not isinstance(said, list) or len(said) != len(rows):
            raise self._nonsense("it does not name the rows that were sent")
        return [self._result(row, entry) for row, entry in zip(rows, said, strict=True)]

    def send_body(self, row: Row, content: bytes) -> Result:
        """See ``delivery.Hub``."""
        if not _SHA256.fullmatch(row.sha256) or not _MEDIA_TYPE.fullmatch(row.media_type):
            return Result(row.key, "rejected", "its hash or its media type cannot stand in a request")
        return self._result(row, self._ask("PUT", f"/v1/bodies/{row.sha256}", content, row.media_type))

    def list_events(self) -> Iterator[tuple[str, str]]:
        """Return id and hash of every event that the hub has of this identity, by id."""
        return self._list("/v1/events")

    def list_bodies(self) -> Iterator[tuple[str, str]]:
        """Return the hash (twice) of every body that the hub has of this identity, by hash."""
        return self._list("/v1/bodies")

    def _list(self, path: str) -> Iterator[tuple[str, str]]:
        after = ""
        while True:
            items = self._ask("GET", path, None, None, {"after": after, "limit": "1000"}).get("items")
            if not isinstance(items, list):
                raise self._nonsense("it has no list of items")
            for item in items:
                key, sha256 = (item.get("id"), item.get("sha256")) if isinstance(item, dict) else (None, None)
                if not isinstance(key, str) or not isinstance(sha256, str) or key <= after:
                    raise self._nonsense("its list is none, or not in order")
                after = key
                yield key, sha256
            if not items:
                return

    def _result(self, row: Row, entry: Any) -> Result:
        if not isinstance(entry, dict) or entry.get("id", row.key) != row.key or entry.get("sha256") != row.sha256:
            raise self._nonsense(f"it does not name the row {row.key}")
        outcome = entry.get("result")
        if outcome not in _OUTCOMES:
            raise self._nonsense("it has no result that is known")
        return Result(row.key, outcome, str(entry.get("detail") or "")[:500])

    def _ask(
        self, method: str, path: str, content: bytes | None, media_type: str | None, params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        headers = {"Content-Type": media_type} if media_type else {}
        try:
            with self._client.stream(method, path, content=content, headers=headers, params=params) as answer:
                body = self._whole(answer)
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise HubError(f"The hub {self._identity.hub_url} cannot be used: {_said(error)}.", "It is tried again.") from error
        if status in (401, 403):
            raise HubAuthError(
                f"The hub {self._identity.hub_url} refuses the token for {self._identity.team_or_user} ({status}): {_detail(body)}.",
                "Ask its operator for another.",
                self._token.fingerprint,
            )
        if status in _OUT_OF_ORDER or 300 <= status < 400:
            raise HubError(f"The hub {self._identity.hub_url} is out of order ({status}): {_detail(body)}.", "It is tried again.")
        if status >= 400:
            raise HubRejectError(f"The hub does not take a request ({status}): {_detail(body)}.")
        try:
            parsed = json.loads(body)
        except ValueError as error:
            raise self._nonsense("it is no JSON") from error
        if not isinstance(parsed, dict):
            raise self._nonsense("it is no JSON object")
        return parsed

    def _whole(self, answer: httpx.Response) -> bytes:
        parts, size, latest = [], 0, time.monotonic() + ANSWER_SECONDS
        for part in answer.iter_bytes():
            size += len(part)
            if time.monotonic() > latest:
                raise self._nonsense(f"it takes longer than {ANSWER_SECONDS:.0f} seconds")
            if size > MAX_ANSWER:
                raise self._nonsense(f"it is longer than {MAX_ANSWER >> 20} MB")
            parts.append(part)
        return b"".join(parts)

    def _nonsense(self, what: str) -> HubError:
        return HubError(f"The answer of {self._identity.hub_url} is none of a hub: {what}.", "Look at hub_url in evidence.yml.")


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:
        raise HubError(f"The certificates in {ca_file} cannot be read: {error}.", "Correct ca_file in evidence.yml.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _detail(body: bytes) -> str:
    """Return what a problem+json answer says, else its beginning."""
    try:
        parsed = json.loads(body)
        return str(parsed.get("detail") or parsed.get("title"))[:200]
    except (ValueError, AttributeError):
        return " ".join(body[:200].decode(errors="replace").split()) or "nothing"
