# SPDX-License-Identifier: GPL-3.0-or-later
"""The joining side of the supervisor's protocol on port 6443, with the wording k3s (Go) gives to failures."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from . import log, pki, tokens

TIMEOUT = 10.0  # seconds, as k3s's client
# OpenSSL's verification results (x509_vfy.h)
NOT_YET_VALID, EXPIRED = 9, 10


class JoinError(Exception):
    """A request failed; the text is what k3s logs."""


class Supervisor:
    """A server's supervisor as a joining node sees it. *url* is what is configured, *token* what the user gave, *user* who asks."""

    def __init__(self, url: str, token: str, user: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise log.FatalError(f"only https:// URLs are supported, invalid scheme: {url}")
        self.url = url.rstrip("/")
        self.host, self.port = parts.hostname, parts.port or 443
        try:
            self.token = tokens.parse(token)
        except tokens.TokenError as problem:
            raise log.FatalError(str(problem)) from None
        self.user = user or self.token.user
        self.ca = ""

    def trust(self) -> None:
        """Fetch the cluster's CA and compare it with the token's hash. Raises JoinError."""
        try:
            ca = self._request("GET", "/cacerts", verify=False)
        except JoinError as problem:
            raise JoinError(f"failed to get CA certs: {problem}") from None
        self.ca = ca
        try:
            self._request("GET", "/cacerts")
        except JoinError as problem:
            raise JoinError(f"CA cert validation failed: {problem}") from None
        got = tokens.hash_of(ca)
        if self.token.ca_hash and got != self.token.ca_hash:
            raise JoinError(f"token CA hash does not match the Cluster CA certificate hash: {self.token.ca_hash} != {got}")
        if not self.token.ca_hash:
            log.warning(
                "Cluster CA certificate is not trusted by the host CA bundle, but the token does not include a CA hash. "
                "Use the full token from the server's node-token file to enable Cluster CA validation."
            )

    def full_token(self) -> str:
        return tokens.compose(self.ca, self.user, self.token.secret)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> str:
        return self._request("GET", path, headers=self._authorized(headers))

    def post(self, path: str, body: str, headers: Mapping[str, str] | None = None) -> str:
        return self._request("POST", path, body, self._authorized(headers))

    def _authorized(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        secret = base64.b64encode(f"{self.user}:{self.token.secret}".encode()).decode()
        return {**(headers or {}), "Authorization": f"Basic {secret}"}

    def _request(
        self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] | None = None, *, verify: bool = True
    ) -> str:
        url = f"{self.url}{path}"
        connection = http.client.HTTPSConnection(self.host, self.port, context=self._context(verify), timeout=TIMEOUT)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except OSError as problem:
            raise JoinError(f'{method.title()} "{url}": {_in_go(problem, self.host, self.port)}') from None
        except http.client.HTTPException:
            raise JoinError(f'{method.title()} "{url}": EOF') from None
        finally:
            connection.close()
        if answer.status == 403:
            raise PermissionError(text)
        if not 200 <= answer.status < 300:
            raise JoinError(f"{url}: {answer.status} {http.client.responses.get(answer.status, '')}")
        return text

    def _context(self, verify: bool) -> ssl.SSLContext:
        if not verify:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        context = ssl.create_default_context(cadata=self.ca)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def _in_go(problem: OSError, host: str, port: int) -> str:
    """The same failure as Go's net/http words it."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {_verification(problem, host, port)}"
    if isinstance(problem, TimeoutError):
        return f"dial tcp {host}:{port}: i/o timeout"
    if isinstance(problem, ConnectionRefusedError):
        return f"dial tcp {host}:{port}: connect: connection refused"
    if isinstance(problem, socket.gaierror):
        return f"dial tcp: lookup {host}: no such host"
    if isinstance(problem, ConnectionResetError):
        return f"read tcp ->{host}:{port}: read: connection reset by peer"
    if isinstance(problem, ssl.SSLError):
        return "EOF"
    return f"dial tcp {host}:{port}: connect: {(problem.strerror or str(problem)).lower()}"


def _verification(problem: ssl.SSLCertVerificationError, host: str, port: int) -> str:
    if problem.verify_code not in (NOT_YET_VALID, EXPIRED):
        return "certificate signed by unknown authority"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    word, which = ("before", "-startdate") if problem.verify_code == NOT_YET_VALID else ("after", "-enddate")
    try:
        pem = ssl.get_server_certificate((host, port), timeout=TIMEOUT)
        limit = _date(pki.openssl_in(pem, "x509", "-noout", which))
    except (OSError, RuntimeError):
        limit = "the certificate's validity"
    return f"certificate has expired or is not yet valid: current time {now} is {word} {limit}"


def _date(said: str) -> str:
    """``notBefore=Nov 21 08:31:00 2026 GMT`` as Go prints a time."""
    found = re.search(r"=(.*) GMT", said)
    parsed = time.strptime(found[1], "%b %d %H:%M:%S %Y") if found else time.gmtime(0)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", parsed)
