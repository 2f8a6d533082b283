# SPDX-License-Identifier: GPL-3.0-or-later
"""The serving side of the supervisor's protocol. The TLS front (components/front) hands its requests over on a unix socket."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import ipaddress
import json
import os
import secrets
import socketserver
import threading
from collections.abc import Callable

from . import log, pki
from .api import Api
from .config import Config
from .files import read

SOCKET = "/run/k3s/supervisor.sock"
SECRETS = "/api/v1/namespaces/kube-system/secrets"


class NodePasswordError(Exception):
    """The node gave another password than at its first join."""


def verify_node_password(api: Api, node: str, password: str) -> None:
    """A node's first join stores a hash in Secret ``<node>.node-password.k3s``, later ones must match it (k3s's pkg/nodepassword)."""
    name = f"{node.lower()}.node-password.k3s"
    status, found = api("GET", f"{SECRETS}/{name}")
    if status == 200:
        _, salt_hex, n, r, p, wanted = base64.b64decode(found["data"]["hash"]).decode().split(":")
        if _hash(password, bytes.fromhex(salt_hex), int(n), int(r), int(p)) != wanted:
            raise NodePasswordError(f"unable to verify hash for node '{node}': hash does not match")
        return
    if status != 404:
        raise OSError(f"secret {name}: {status}")
    salt = secrets.token_bytes(8)
    stored = f"$1:{salt.hex()}:15:8:1:{_hash(password, salt, 15, 8, 1)}"
    data = {"hash": base64.b64encode(stored.encode()).decode()}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "immutable": True,
        "type": "Opaque",
        "metadata": {"name": name, "namespace": "kube-system"},
        "data": data,
    }
    status, said = api("POST", SECRETS, secret)
    if status != 201:
        raise OSError(f"create secret {name}: {status} {said}")


def _hash(password: str, salt: bytes, n: int, r: int, p: int) -> str:
    raw = hashlib.scrypt(password.encode(), salt=salt, n=2**n, r=r, p=p, dklen=64, maxmem=2**27)
    return base64.b64encode(raw).decode().rstrip("=")


class Endpoint:
    """Answers joining nodes. *credentials* gives the secret of each user (``server``, ``node``); *routes* adds paths for servers only."""

    def __init__(self, config: Config, api: Api, credentials: Callable[[], dict[str, list[str]]]) -> None:
        self.config, self.api, self.credentials = config, api, credentials
        self.server_routes: dict[str, Callable[[str], str]] = {}

    def serve(self) -> None:
        """Listen on SOCKET in the background."""
        os.makedirs("/run/k3s", exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET)
        previous = os.umask(0o077)
        server = _Server(SOCKET, _handler(self))
        os.umask(previous)
        threading.Thread(target=server.serve_forever, daemon=True, name="supervisor").start()

    def user_of(self, authorization: str) -> str:
        """``server``, ``node`` or, for wrong credentials, nothing. The server's token is good for a node too."""
        if not authorization.startswith("Basic "):
            return ""
        user, _, secret = base64.b64decode(authorization[6:]).decode(errors="replace").partition(":")
        for name, known in self.credentials().items():
            if any(secrets.compare_digest(secret.encode(), one.encode()) for one in known if one):
                # a bare secret comes without a user: it is whoever the secret belongs to
                return name if user in ("", name) or (name == "server" and user == "node") else ""
        return ""

    def answer(self, path: str, body: str, headers: dict[str, str]) -> tuple[int, str]:
        """Status and body for one request."""
        if path == "/cacerts":
            return 200, read(f"{self.config.tls_dir}/server-ca.crt")
        if path == "/ping":
            return 200, "pong"
        user = self.user_of(headers.get("authorization", ""))
        if not user:
            return 401, "Unauthorized"
        if path in self.server_routes:
            return (200, self.server_routes[path](body)) if user == "server" else (403, "Forbidden")
        if path == "/v1-k3s/server-bootstrap":
            return 400, "etcd datastore disabled"  # a single server on SQLite cannot be joined by another
        name = path.removeprefix("/v1-k3s/")
        if name == "config":
            return 200, self._settings()
        if name == "readyz":
            return 200, "ok"
        if name in ("client-ca.crt", "server-ca.crt"):
            return 200, read(f"{self.config.tls_dir}/{name}")
        if name in ("client-kube-proxy.crt", "client-k3s-controller.crt"):
            subject = "system:kube-proxy" if "proxy" in name else "system:k3s-controller"
            return 200, pki.sign(self.config.tls_dir, "client-ca", body, f"/CN={subject}")
        if name in ("client-kubelet.crt", "serving-kubelet.crt"):
            return self._kubelet_certificate(name, body, headers)
        return 404, "404 page not found"

    def _settings(self) -> str:
        services = ipaddress.ip_network(self.config.service_cidr)
        dns = self.config.items("cluster-dns", [str(services[10])])[0]
        return json.dumps(
            {
                "ClusterDomain": self.config.domain,
                "ClusterIPRange": self.config.cluster_cidr,
                "ServiceIPRange": self.config.service_cidr,
                "ClusterDNS": dns,
                "DisableKubeProxy": self.config.on("disable-kube-proxy"),
            }
        )

    def _kubelet_certificate(self, name: str, body: str, headers: dict[str, str]) -> tuple[int, str]:
        node, password, address = (headers.get(f"k3s-node-{field}", "") for field in ("name", "password", "ip"))
        if not node or not password:
            return 400, "node name or password not set"
        try:
            verify_node_password(self.api, node, password)
        except NodePasswordError as problem:
            log.error(f"Sending HTTP 403 response to {headers.get('x-forwarded-for', '')}: {problem}")
            return 403, str(problem)
        if name == "client-kubelet.crt":
            return 200, pki.sign(self.config.tls_dir, "client-ca", body, f"/O=system:nodes/CN=system:node:{node}")
        names = [node, "localhost", "127.0.0.1", address]
        return 200, pki.sign(self.config.tls_dir, "server-ca", body, f"/CN={node}", "serverAuth", names)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def _handler(endpoint: Endpoint) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Requests are not logged."""

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            try:
                status, text = endpoint.answer(self.path, body, {key.lower(): value for key, value in self.headers.items()})
            except Exception as problem:
                log.error(f"Sending HTTP 500 response: {self.path}: {problem!r}")
                status, text = 500, str(problem)
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if text[:1] == "{" else "text/plain")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    # the names by which http.server finds what answers a method
    for method in ("GET", "POST", "PUT"):
        setattr(Handler, f"do_{method}", Handler.answer)
    return Handler
