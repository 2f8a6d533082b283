# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers an agent may use: the configured one and those the cluster told of (k3s's pkg/agent/loadbalancer).

components/front makes the connections.
"""

from __future__ import annotations

import json

from .api import Api
from .files import read_or, write

SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dkubernetes"


class Balancer:
    """Keeps *file* equal to the endpoints of the Service ``kubernetes``. It survives restarts, so a dead configured server does no harm."""

    def __init__(self, file: str, server: str) -> None:
        self.file = file
        known = json.loads(read_or(file, "{}"))
        addresses = known.get("ServerAddresses", []) if known.get("ServerURL") == server else []
        self.state = {"ServerURL": server, "ServerAddresses": addresses or [server.removeprefix("https://").rstrip("/")]}
        self._write()

    def learn(self, api: Api) -> None:
        status, slices = api("GET", SLICES)
        if status != 200:
            raise OSError(f"list endpoints: {status}")
        found = sorted(
            f"{address}:{port['port']}"
            for one in slices["items"]
            for endpoint in one.get("endpoints") or []
            for address in endpoint["addresses"]
            for port in one.get("ports") or []
        )
        if found and found != self.state["ServerAddresses"]:
            self.state["ServerAddresses"] = found
            self._write()

    def _write(self) -> None:
        write(self.file, json.dumps(self.state))
