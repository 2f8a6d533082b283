# SPDX-License-Identifier: GPL-3.0-or-later
"""Pod network: a bridge on each node and a route to each other node's pods, as flannel's host-gw backend does."""

from __future__ import annotations

import json
import subprocess

from .api import Api
from .files import read_or, write


class PodNetwork:
    """Keeps CNI settings and routes equal to the Nodes of the API."""

    def __init__(self, api: Api, node_name: str, agent_dir: str, cluster_cidr: str) -> None:
        self.api, self.node_name, self.cidr = api, node_name, cluster_cidr
        self.conflist = f"{agent_dir}/etc/cni/net.d/10-flannel.conflist"
        self.routes: dict[str, str] = {}

    def update(self) -> None:
        status, nodes = self.api("GET", "/api/v1/nodes")
        if status != 200:
            raise OSError(f"list nodes: {status}")
        wanted: dict[str, str] = {}
        for node in nodes["items"]:
            pods = node["spec"].get("podCIDR")
            if pods and node["metadata"]["name"] == self.node_name:
                self._configure(pods)
            elif pods:
                for address in node["status"].get("addresses", []):
                    if address["type"] == "InternalIP":
                        wanted.setdefault(pods, address["address"])
        self._route(wanted)

    def _configure(self, pods: str) -> None:
        ipam = {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": self.cidr}]}
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": True,
            "hairpinMode": True,
            "forceAddress": True,
            "ipMasq": False,
            "ipam": ipam,
        }
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        shape = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
        text = json.dumps({"name": "cbr0", "cniVersion": "1.0.0", "plugins": [bridge, ports, shape]}, indent=2)
        if read_or(self.conflist) != text:
            _rule("nat", "-A", "POSTROUTING", "-s", self.cidr, "!", "-d", self.cidr, "-j", "MASQUERADE")
            for side in ("-s", "-d"):
                _rule("filter", "-I", "FORWARD", side, self.cidr, "-j", "ACCEPT")
            write(self.conflist, text)

    def _route(self, wanted: dict[str, str]) -> None:
        for pods, address in wanted.items():
            if self.routes.get(pods) != address:
                subprocess.run(["ip", "route", "replace", pods, "via", address], check=True)
                self.routes[pods] = address
        for pods in [pods for pods in self.routes if pods not in wanted]:
            subprocess.run(["ip", "route", "del", pods], check=False)
            del self.routes[pods]


def _rule(table: str, how: str, chain: str, *rule: str) -> None:
    """Have the rule once."""
    if subprocess.run(["iptables", "-w", "-t", table, "-C", chain, *rule], capture_output=True, check=False).returncode:
        subprocess.run(["iptables", "-w", "-t", table, how, chain, *rule], check=True)
