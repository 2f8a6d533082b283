# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HTTP server with the faults that a release page, a proxy or a weak link can have."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Site:
    """*files*: content by path; *faults*: by path, one fault used up by each request: ``500``, ``404``, ``cut:<bytes>``, ``stall``,
    ``norange`` (ignores the range), ``wrongrange``, ``garbage:<text>``; *seen*: (path, Range header) of every request."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def requests_of(self, name: str) -> list[str | None]:
        return [r for p, r in self.seen if p.endswith("/" + name)]


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        raw = urlsplit(self.path).path
        asked = self.headers.get("Range")
        self.site.seen.append((raw, asked))
        faults = self.site.faults.get(unquote(raw), [])
        fault = faults.pop(0) if faults else ""
        body = self.site.files.get(unquote(raw))
        if fault.isdigit() or body is None:
            self.send_error(int(fault or 404))
            return
        if fault.startswith("garbage:"):
            body, asked = fault.removeprefix("garbage:").encode(), None
        start = 0
        if asked and fault != "norange":
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            shown = 0 if fault == "wrongrange" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
            start = shown
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + int(fault.removeprefix("cut:")) if fault.startswith("cut:") else len(body)
        self.wfile.write(body[start:end])
        self.wfile.flush()
        if fault == "stall":
            time.sleep(1.5)


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve *site* on a free port of the loopback interface."""
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
