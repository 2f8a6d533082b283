# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes API with a client certificate."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"


class Api:
    """``status, object = api("GET", "/api/v1/nodes")``. Raises OSError where nobody answers."""

    def __init__(self, host: str, port: int, ca: str, certificate: str, key: str) -> None:
        self.host, self.port = host, port
        self.context = ssl.create_default_context(cafile=ca)
        # k3s's own CA certificates carry no key identifiers, which newer Pythons would insist on
        self.context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self.context.load_cert_chain(certificate, key)

    def __call__(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> tuple[int, Any]:
        connection = http.client.HTTPSConnection(self.host, self.port, context=self.context, timeout=20)
        try:
            headers = {"Content-Type": content_type, "Accept": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
            try:
                return answer.status, json.loads(data)
            except ValueError:
                return answer.status, data.decode(errors="replace")
        finally:
            connection.close()

    def ready(self) -> bool:
        try:
            return self("GET", "/readyz")[0] == 200
        except OSError:
            return False
