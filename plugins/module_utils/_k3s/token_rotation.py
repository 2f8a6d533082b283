# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotation of the server token by k3s itself (https://docs.k3s.io/cli/token#k3s-token-rotate), and whether a token is accepted."""

from __future__ import annotations

import base64
import hashlib
import http.client
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import read_text, write_atomic
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.k3s_places import TOKEN
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.install import ca_of, secret_of

_POLL_SECONDS = 0.5


class RotationError(PifleetError):
    """The token could not be rotated, or is not accepted."""


class Server(Protocol):
    """The port to a server of k3s on this node."""

    def given(self) -> str:
        """Return the secret that the server is started with, empty where there is none."""

    def own(self) -> str:
        """Return the secret of the token that the server tells, empty where it has none yet."""

    def agents(self) -> str:
        """Return the secret of the token for agents."""

    def ca(self) -> str:
        """Return the hash of the cluster's CA as tokens begin with it (``K10…``)."""

    def rotate(self) -> None:
        """Let k3s make a new server token. Raises RotationError."""

    def restart_with(self, token: str) -> None:
        """Start k3s anew with *token*. Raises RotationError."""

    def accepts(self, user: str, secret: str) -> bool | None:
        """Return whether the server takes *secret* from *user* (``server`` or ``node``); None where it does not answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """*resumed*: a rotation before was cut off, and its token is what goes on; *server*, *agents* are fingerprints of secrets."""

    changed: bool
    resumed: bool
    server: str
    agents: str
    ca: str


def rotate(server: Server, check: bool, timeout: float) -> Outcome:
    """Let k3s rotate the server token, once: where it did before and the node was not told yet, nothing is rotated again.

    Raises RotationError where the new token is not accepted, or the old one still is, after *timeout* seconds.
    """
    own, given = server.own(), server.given()
    if not own or not given:
        raise RotationError("This server has no token: it never came up.", "Run `ansible-playbook site.yml` first.")
    resumed = own != given
    if check or resumed:
        return Outcome(not resumed, resumed, fingerprint(own), fingerprint(server.agents()), server.ca())
    server.rotate()
    _wait(timeout, lambda: server.own() not in ("", own), "k3s did not write a new token")
    fresh = server.own()
    _wait(timeout, lambda: server.accepts("server", fresh) is True, "the server does not accept the new token")
    _wait(timeout, lambda: server.accepts("server", own) is False, "the server still accepts the old token")
    return Outcome(True, False, fingerprint(fresh), fingerprint(server.agents()), server.ca())


def take(server: Server, token: str, check: bool, timeout: float) -> Outcome:
    """Have the server started with *token*, which k3s has made on it or on another server of its cluster.

    Raises RotationError where it does not accept that after *timeout* seconds.
    """
    secret = secret_of(token)
    taken = server.own() == server.given() == secret
    if not (taken or check):
        server.restart_with(token)
        _wait(timeout, lambda: server.own() == secret, "the server does not tell the new token")
        _wait(timeout, lambda: server.accepts("server", secret) is True, "the server does not accept the new token")
    return Outcome(not taken, False, fingerprint(secret), fingerprint(server.agents()), server.ca())


def verify(server: Server, timeout: float) -> Outcome:
    """Return the tokens that the server tells, once it is started with them and accepts both. Raises RotationError."""
    _wait(timeout, lambda: bool(server.own()) and server.own() == server.given(), "the server is not started with its own token")
    _wait(timeout, lambda: server.accepts("server", server.own()) is True, "the server does not accept its own token")
    _wait(timeout, lambda: server.accepts("node", server.agents()) is True, "the server does not accept its own token for agents")
    return Outcome(False, False, fingerprint(server.own()), fingerprint(server.agents()), server.ca())


def fingerprint(secret: str) -> str:
    """Return what tells a secret of 128 random bits from another, and gives nothing away."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


def _wait(timeout: float, holds: Callable[[], bool], problem: str) -> None:
    end = time.monotonic() + timeout
    while not holds():
        if time.monotonic() >= end:
            raise RotationError(f"After {timeout:g} seconds {problem}.", "Look at `journalctl -u k3s`, then run the same command again.")
        time.sleep(_POLL_SECONDS)


class LocalServer:
    """The server of this node. No secret stands in an argument: k3s reads the old token from its file, and makes the new one itself."""

    def __init__(self, run: Runner, data_dir: str, port: int = 6443) -> None:
        self._run = run
        self._data_dir = data_dir
        self._port = port

    def given(self) -> str:
        return secret_of((read_text(TOKEN) or "").strip())

    def own(self) -> str:
        return self._told("token")

    def agents(self) -> str:
        return self._told("agent-token")

    def ca(self) -> str:
        return ca_of((read_text(Path(self._data_dir, "server", "token")) or "").strip())

    def rotate(self) -> None:
        done = self._run(["k3s", "token", "rotate", f"--data-dir={self._data_dir}"], timeout=120)
        if not done.ok:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.rc}"])[-1]
            raise RotationError(f"`k3s token rotate` failed: {said}", "Look at `journalctl -u k3s`; the old token is still the cluster's.")

    def restart_with(self, token: str) -> None:
        # in the form in which it is started now: that of a server that joined knows the cluster's CA
        known = (read_text(TOKEN) or "").startswith("K10")
        write_atomic(TOKEN, f"{token if known else secret_of(token)}\n", 0o600)
        done = self._run(["systemctl", "restart", "k3s"], timeout=300)
        if not done.ok:
            raise RotationError("k3s did not start with the new token.", "Look at `journalctl -u k3s`, then run the same command again.")

    def accepts(self, user: str, secret: str) -> bool | None:
        """An answer but 401 is one to somebody who was recognised: k3s's pkg/server/auth."""
        try:
            context = ssl.create_default_context(cafile=f"{self._data_dir}/server/tls/server-ca.crt")
            connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=10, context=context)
            credentials = base64.b64encode(f"{user}:{secret}".encode()).decode()
            connection.request("GET", "/v1-k3s/readyz", headers={"Authorization": f"Basic {credentials}"})
            return connection.getresponse().status != http.HTTPStatus.UNAUTHORIZED
        except (OSError, http.client.HTTPException):
            return None

    def _told(self, name: str) -> str:
        return secret_of((read_text(Path(self._data_dir, "server", name)) or "").strip())
