# SPDX-License-Identifier: GPL-3.0-or-later
"""What can stand between a controller and its hub: a server with the hub's certificate that passes requests on, and does not always."""

from __future__ import annotations

import http.client
import http.server
import json
import random
import ssl
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.support.hub import HubProcess

#: everything that goes wrong, by name, and how
FAULTS: dict[str, Callable[[_Handler], None]] = {}


def _fault(function: Callable[[_Handler], None]) -> Callable[[_Handler], None]:
    FAULTS[function.__name__] = function
    return function


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    content: bytes

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the hub or the controller hung up
            self.close_connection = True

    def _any(self) -> None:
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = self.server.between.next_fault()
        FAULTS.get(name, _Handler.pass_on)(self)

    do_GET = do_POST = do_PUT = _any  # noqa: N815 (names of http.server)

    def ask(self) -> tuple[int, bytes]:
        """Let the hub answer."""
        upstream = self.server.between.connect()
        try:
            upstream.request(self.command, self.path, self.content, self.passed_headers())
            answer = upstream.getresponse()
            return answer.status, answer.read()
        finally:
            upstream.close()

    def passed_headers(self) -> dict[str, str]:
        return {key: value for key, value in self.headers.items() if key.lower() not in ("host", "connection", "content-length")}

    def pass_on(self) -> None:
        self.answer(*self.ask())

    def answer(self, status: int, body: bytes) -> None:
        self.wfile.write(self.message(status, body))

    def message(self, status: int, body: bytes) -> bytes:
        return f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def hang_up(self) -> None:
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


@_fault
def refused(handler: _Handler) -> None:
    """Nothing comes back, and nothing has reached the hub."""
    handler.hang_up()


@_fault
def answer_lost(handler: _Handler) -> None:
    """The hub has it, and nobody hears of that."""
    handler.ask()
    handler.hang_up()


@_fault
def half_answer(handler: _Handler) -> None:
    message = handler.message(*handler.ask())
    handler.wfile.write(message[: len(message) // 2])
    handler.hang_up()


@_fault
def half_request(handler: _Handler) -> None:
    upstream = handler.server.between.connect()
    upstream.putrequest(handler.command, handler.path)
    for key, value in handler.passed_headers().items():
        upstream.putheader(key, value)
    upstream.putheader("Content-Length", str(len(handler.content)))
    upstream.endheaders()
    upstream.send(handler.content[: len(handler.content) // 2])
    upstream.close()
    handler.hang_up()


@_fault
def sent_twice(handler: _Handler) -> None:
    """As something in between does that tries again by itself."""
    handler.ask()
    handler.pass_on()


@_fault
def error_500(handler: _Handler) -> None:
    handler.answer(500, b'{"type": "internal"}')


@_fault
def error_500_though_kept(handler: _Handler) -> None:
    handler.ask()
    handler.answer(500, b"")


@_fault
def error_503(handler: _Handler) -> None:
    handler.answer(503, b"<html>busy</html>")


@_fault
def garbage(handler: _Handler) -> None:
    handler.answer(200, handler.server.between.random.randbytes(500))


@_fault
def no_http(handler: _Handler) -> None:
    handler.wfile.write(handler.server.between.random.randbytes(500))
    handler.hang_up()


@_fault
def of_other_rows(handler: _Handler) -> None:
    """An answer that is well-formed and belongs to somebody else; the hub was not even asked."""
    other = {"sha256": "0" * 64, "result": "stored", "detail": ""}
    rows = [{"id": row["id"], **other} for row in json.loads(handler.content)["events"]] if handler.command == "POST" else None
    handler.answer(200, json.dumps(other if rows is None else {"results": rows}).encode())


@_fault
def nothing_named(handler: _Handler) -> None:
    handler.answer(200, b'{"results": []}' if handler.command == "POST" and handler.content != b'{"events": []}' else b"{}")


@_fault
def silent(handler: _Handler) -> None:
    """The hub has it, and says so when nobody listens any more."""
    status, body = handler.ask()
    time.sleep(handler.server.between.slow_seconds)
    handler.answer(status, body)


@_fault
def byte_by_byte(handler: _Handler) -> None:
    message = handler.message(*handler.ask()) + b" "
    until = time.monotonic() + handler.server.between.slow_seconds
    for number in range(len(message)):
        if time.monotonic() > until:
            break
        handler.wfile.write(message[number : number + 1])
        time.sleep(handler.server.between.slow_seconds / 20)
    handler.hang_up()


@_fault
def hub_killed(handler: _Handler) -> None:
    """kill -9 of the hub while it has the request; then it is started again."""
    between = handler.server.between
    timer = threading.Timer(between.random.uniform(0.0, 0.05), between.hub.kill)
    timer.start()
    try:
        answer = handler.message(*handler.ask())
    except (OSError, http.client.HTTPException):
        answer = b""
    timer.join()
    between.hub.start()
    handler.wfile.write(answer)
    handler.hang_up()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    between: FaultyHub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A hub that was killed is no news."""


class FaultyHub:
    """Between the controller and *hub*. *next_fault*: called for each request, returns a name of FAULTS, or something else for none."""

    def __init__(self, hub: HubProcess, next_fault: Callable[[], str], seed: int = 0, slow_seconds: float = 4.0) -> None:
        self.hub = hub
        self.next_fault = next_fault
        self.random = random.Random(seed)
        self.slow_seconds = slow_seconds
        assert hub.ca is not None
        self._trust = ssl.create_default_context(cafile=str(hub.ca))
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.between = self
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(hub.folder / "hub.pem", hub.folder / "hub.key")
        # the handshake is each connection's own thread's, so that nobody waits for it
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.hub.port, timeout=60, context=self._trust)

    def __enter__(self) -> FaultyHub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
