# SPDX-License-Identifier: GPL-3.0-or-later
"""The API of the k3s server on this host, asked without kubectl, whose start takes longer than the question: a second on a Raspberry Pi.

For questions and small changes by their path alone. Whatever is not a plain answer (refused, unreachable, another kubeconfig) is None:
the caller then asks through kubectl, whose words and exit code are judged in one place (``kubectl``).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import ssl
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection

from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import read_text
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import credentials

#: Seconds after which kubectl is asked instead: an API on the same host answers in milliseconds.
PATIENCE_SECONDS = 10.0
#: what k3s writes into its own kubeconfig; elsewhere there may be a proxy between, which kubectl knows about
_SERVER = re.compile(r"^\s+server:\s*[\"']?https://(127\.0\.0\.1|\[::1\]):(\d+)/?[\"']?\s*$", re.M)
#: https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-apply
_TYPES = {"PATCH": "application/merge-patch+json", "POST": "application/json"}


@dataclass(frozen=True, slots=True)
class LocalApi:
    """*host* and *port* of the API, and the TLS client that proves who asks."""

    host: str
    port: int
    tls: ssl.SSLContext

    def ask(self, method: str, path: str, body: str | None = None, timeout: float = PATIENCE_SECONDS) -> str | None:
        """Return the body of the answer, None where there is none or it is no success. *body*: JSON, of a PATCH a JSON merge patch."""
        connection = HTTPSConnection(self.host, self.port, timeout=min(timeout, PATIENCE_SECONDS), context=self.tls)
        headers = {"Accept": "application/json", **({"Content-Type": _TYPES[method]} if method in _TYPES else {})}
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            return text if 200 <= answer.status < 300 else None
        except (OSError, HTTPException, ValueError):
            return None
        finally:
            connection.close()


def local_api(kubeconfig: str) -> LocalApi | None:
    """Return the API that the file *kubeconfig* names, None where that is not one on this host as k3s writes it."""
    try:
        text = read_text(kubeconfig) or ""
        servers, found = _SERVER.findall(text), credentials.of_file(text)
        if len(servers) != 1 or not found:
            return None
        authority, certificate, key = (base64.b64decode(found[name], validate=True) for name in credentials.KEYS)
        return LocalApi(servers[0][0].strip("[]"), int(servers[0][1]), _tls(authority, certificate, key))
    except (OSError, ValueError, binascii.Error):  # ssl.SSLError is an OSError
        return None


def _tls(authority: bytes, certificate: bytes, key: bytes) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate and its names
    tls.load_verify_locations(cadata=authority.decode())
    # OpenSSL reads the key from a file only: one in memory, which has no name and ends with its descriptor
    memory = os.memfd_create("pifleet-kubeconfig")
    try:
        os.write(memory, certificate + b"\n" + key)
        tls.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return tls
