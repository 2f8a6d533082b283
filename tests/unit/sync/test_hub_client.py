# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a hub's answers counts: an acknowledgement names the row and its hash. All else leaves the row where it is."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import hub_client
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.delivery import HubAuthError, HubError, HubRejectError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.hub_client import HttpHub
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Identity
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Result, Row
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.token import Token

from tests.support.sync import event_row, sha256

ROW = event_row(1)
GOOD = {"results": [{"id": ROW.key, "sha256": ROW.sha256, "result": "stored"}]}
SECRET = "pft_secret"


def http(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def answering(*answers: bytes | Callable[[socket.socket], None], read_seconds: float = 30.0) -> Iterator[tuple[HttpHub, list[bytes]]]:
    """A hub that answers each connection with the next of *answers*, and what it was sent."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _peer = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(_request(connection))
                    if callable(answer):
                        answer(connection)
                    else:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        identity = Identity("team-a", "pi-cluster", f"http://127.0.0.1:{server.getsockname()[1]}")
        with HttpHub(identity, Token(SECRET, "fingerprint"), read_seconds=read_seconds) as hub:
            yield hub, asked
    thread.join(2)


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def test_what_is_sent_and_what_comes_back() -> None:
    with answering(http(200, json.dumps(GOOD).encode())) as (hub, asked):
        assert hub.send_events([ROW]) == [Result(ROW.key, "stored")]
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/events HTTP/1.1\r\n")
    assert b"Bearer pft_secret" in head
    assert b"X-Pifleet-Source: team-a/pi-cluster" in head.replace(b"x-pifleet-source", b"X-Pifleet-Source")
    assert json.loads(body) == {"events": [{"id": ROW.key, "sha256": ROW.sha256, "content": (ROW.content or b"").decode()}]}


def test_body() -> None:
    row = Row(sha256(b"x"), sha256(b"x"), None, "text/x-diff", 1)
    good = json.dumps({"id": row.key, "sha256": row.sha256, "result": "duplicate"}).encode()
    with answering(http(200, good)) as (hub, asked):
        assert hub.send_body(row, b"x") == Result(row.key, "duplicate")
    assert asked[0].startswith(f"PUT /v1/bodies/{row.sha256} ".encode())
    assert b"text/x-diff" in asked[0]
    assert asked[0].endswith(b"\r\n\r\nx")


@pytest.mark.parametrize(
    "row", [Row("../x", "../x", None, "text/plain"), Row("a" * 64, "a" * 64, None, "text\r\nX: y"), Row("a" * 64, "a" * 64, None, "")]
)
def test_body_that_cannot_stand_in_a_request_is_refused_here(row: Row) -> None:
    with answering() as (hub, asked):
        assert hub.send_body(row, b"x").outcome == "rejected"
    assert asked == []


def changed(**values: Any) -> bytes:
    return http(200, json.dumps({"results": [{**GOOD["results"][0], **values}]}).encode())


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b"<html>a captive portal</html>"),
        http(200, b""),
        http(200, b"[]"),
        http(200, b"{}"),
        http(200, b'{"results": null}'),
        http(200, b'{"results": []}'),
        http(200, b'{"results": ["stored"]}'),
        http(200, json.dumps({"results": GOOD["results"] * 2}).encode()),
        changed(id="another"),
        changed(sha256="0" * 64),
        changed(result="perhaps"),
        changed(result=None),
        http(200, b"\xff\xfe" * 100),
        http(200, json.dumps(GOOD).encode())[:-20],
        http(200, json.dumps(GOOD).encode())[:30],
        b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n" + json.dumps(GOOD).encode()[:-5],
        b'HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"res\r\n',
        b"garbage\r\n\r\n",
        b"",
        http(302, b"", "Location: https://elsewhere/"),
        http(429, b"slow down"),
        http(502, b"bad gateway"),
        http(503, b'{"detail": "The database cannot be used"}'),
        http(504, b""),
    ],
)
def test_answer_that_acknowledges_nothing(answer: bytes) -> None:
    with answering(answer) as (hub, _asked), pytest.raises(HubError) as raised:
        hub.send_events([ROW])
    assert SECRET not in str(raised.value)


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 100000\r\n\r\n")
    try:
        for _ in range(50):
            connection.sendall(b" ")
            threading.Event().wait(0.05)
    except OSError:
        pass


def silence(_connection: socket.socket) -> None:
    threading.Event().wait(0.6)


@pytest.mark.parametrize("slow", [drip, silence])
def test_hub_that_is_too_slow(slow: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "ANSWER_SECONDS", 0.2)
    with answering(slow, read_seconds=0.3) as (hub, _asked), pytest.raises(HubError, match=r"cannot be used|longer than"):
        hub.send_events([ROW])


def test_answer_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "MAX_ANSWER", 10)
    with answering(http(200, b" " * 11)) as (hub, _asked), pytest.raises(HubError, match="longer than"):
        hub.send_events([ROW])


def test_hub_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    hub = HttpHub(Identity("a", "b", f"http://127.0.0.1:{port}"), Token(SECRET, "f"))
    with pytest.raises(HubError, match="cannot be used"):
        hub.send_events([ROW])


@pytest.mark.parametrize("status", [401, 403])
def test_token_that_is_refused(status: int) -> None:
    with answering(http(status, b'{"detail": "expired"}')) as (hub, _asked), pytest.raises(HubAuthError, match="expired") as raised:
        hub.send_events([ROW])
    assert raised.value.fingerprint == "fingerprint"
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500])
def test_request_that_is_rejected_whole(status: int) -> None:
    with (
        answering(http(status, b'{"title": "no", "detail": "too large"}')) as (hub, _asked),
        pytest.raises(HubRejectError, match="too large"),
    ):
        hub.send_events([ROW])


def page(*items: object) -> bytes:
    return http(200, json.dumps({"items": items}).encode())


def test_lists_follow_their_pages() -> None:
    one, two = {"id": "1", "sha256": "a"}, {"id": "2", "sha256": "b"}
    with answering(page(one), page(two), page()) as (hub, asked):
        assert list(hub.list_events()) == [("1", "a"), ("2", "b")]
    assert [a.split(b" ")[1] for a in asked] == [f"/v1/events?after={after}&limit=1000".encode() for after in ("", "1", "2")]


@pytest.mark.parametrize(
    "answer", [http(200, b"{}"), page("x"), page({"id": 1}), page({"id": "2", "sha256": ""}, {"id": "1", "sha256": ""})]
)
def test_list_that_is_none(answer: bytes) -> None:
    with answering(answer) as (hub, _asked), pytest.raises(HubError):
        list(hub.list_bodies())


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", Path("/dev/null")):
        with pytest.raises(HubError, match="ca_file"):
            HttpHub(Identity("a", "b", "https://127.0.0.1"), Token(SECRET, "f"), path)
