# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster's nodes are, beside what the inventory says they should be.

Pure: the API's node list in, a comparison out. The façade ``k3s_cluster_info`` asks the API and waits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

ROLES = ("server", "agent")

#: k3s labels its servers itself: https://docs.k3s.io/architecture, pkg/server/server.go (control-plane, master), pkg/etcd/etcd.go (etcd).
_ROLE_LABEL = "node-role.kubernetes.io/"
_SERVER_ROLES = frozenset({"control-plane", "master", "etcd"})

#: A kubelet may be up to three minor versions older than the API server and never newer.
#: https://kubernetes.io/releases/version-skew-policy/#kubelet
KUBELET_MAX_MINORS_BEHIND = 3

#: k3s keeps the condition on servers with embedded etcd: pkg/etcd/metadata_controller.go
ETCD_VOTER = "EtcdIsVoter"

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-[0-9A-Za-z.-]+)?(?:\+k3s(\d+))?")


class ClusterError(PifleetError):
    """The expected nodes are no such list, or what the API answered is none."""


@dataclass(frozen=True, slots=True)
class Expected:
    """One node of the inventory. *role*: ``server`` or ``agent``."""

    name: str
    role: str


@dataclass(frozen=True, slots=True)
class Node:
    """One node as the API has it. *roles*: names behind ``node-role.kubernetes.io/``, sorted; ``worker`` alone where there are none."""

    name: str
    roles: tuple[str, ...]
    ready: bool
    not_ready_reason: str
    version: str
    internal_ip: str
    schedulable: bool
    conditions: Mapping[str, str]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    taints: tuple[Mapping[str, str], ...]
    os_image: str = ""
    architecture: str = ""
    kernel: str = ""
    container_runtime: str = ""
    machine_id: str = ""

    @property
    def role(self) -> str:
        """The role in the inventory's words: ``server`` for a control plane or etcd node, else ``agent``."""
        return "server" if _SERVER_ROLES.intersection(self.roles) else "agent"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the API's nodes differ from the expected ones. Every list is sorted by node name."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    not_ready: tuple[str, ...]
    role_mismatch: tuple[Mapping[str, str], ...]
    version_skew: tuple[Mapping[str, Any], ...]
    #: expected members of etcd that have no vote (yet)
    not_voting: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether every expected node is there, Ready, has its role and, with etcd, its vote: what ``timeout`` waits for.

        Unexpected nodes and version skew do not go away by waiting, so they do not hold it up. ``not_ready`` lists expected nodes
        only when some are expected.
        """
        return not self.unsettled

    @property
    def unsettled(self) -> tuple[str, ...]:
        """Names of the nodes that keep :attr:`settled` from being true."""
        return tuple(sorted({*self.missing, *self.not_ready, *self.not_voting, *(entry["name"] for entry in self.role_mismatch)}))


#: What is said where no API could be asked and none had to answer.
NOTHING_KNOWN = Comparison((), (), (), (), ())


def expected_nodes(entries: Iterable[Mapping[str, Any]]) -> tuple[Expected, ...]:
    """Return *entries* (``{name, role}``) checked. Names are compared in lower case, as k3s registers them.

    Raises ClusterError for a role that is not ``server`` or ``agent`` and for a name given twice.
    """
    found: dict[str, Expected] = {}
    for entry in entries:
        name, role = str(entry["name"]).lower(), str(entry["role"])
        if role not in ROLES:
            raise ClusterError(f"expected node {name}: role is {role!r}.", "Give `server` or `agent`.")
        if name in found:
            raise ClusterError(f"expected node {name} is listed twice.", "Node names are compared in lower case and must be unique.")
        found[name] = Expected(name, role)
    return tuple(found[name] for name in sorted(found))


def parse_nodes(text: str) -> tuple[Node, ...]:
    """Return the nodes of ``/api/v1/nodes``, sorted by name. Raises ClusterError when *text* is not such a list."""
    try:
        items = json.loads(text)["items"]
        return tuple(sorted((_node(item) for item in items), key=lambda node: node.name))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClusterError(f"the API's node list cannot be read: {error!r}.", "Is the kubeconfig's server a Kubernetes API?") from error


def _node(item: Mapping[str, Any]) -> Node:
    meta, spec, status = item["metadata"], item.get("spec", {}), item.get("status", {})
    labels = dict(meta.get("labels") or {})
    info = status.get("nodeInfo", {})
    conditions = {c["type"]: c for c in status.get("conditions", [])}
    ready = conditions.get("Ready", {})
    addresses = {a["type"]: a["address"] for a in reversed(status.get("addresses", []))}
    roles = sorted(key[len(_ROLE_LABEL) :] for key in labels if key.startswith(_ROLE_LABEL) and len(key) > len(_ROLE_LABEL))
    return Node(
        name=meta["name"],
        roles=tuple(roles) or ("worker",),
        ready=ready.get("status") == "True",
        not_ready_reason="" if ready.get("status") == "True" else (ready.get("message") or ready.get("reason") or "no Ready condition yet"),
        version=info.get("kubeletVersion", ""),
        internal_ip=addresses.get("InternalIP", ""),
        schedulable=not spec.get("unschedulable", False),
        conditions={name: c["status"] for name, c in sorted(conditions.items())},
        labels=labels,
        annotations=dict(meta.get("annotations") or {}),
        taints=tuple(dict(taint) for taint in spec.get("taints") or ()),
        os_image=info.get("osImage", ""),
        architecture=info.get("architecture", ""),
        kernel=info.get("kernelVersion", ""),
        container_runtime=info.get("containerRuntimeVersion", ""),
        machine_id=info.get("machineID", ""),
    )


def summary(node: Node) -> dict[str, Any]:
    """Return what is told of a node that is rebuilt, before and after."""
    return {
        "role": node.role,
        "ready": node.ready,
        "version": node.version,
        "internal_ip": node.internal_ip,
        "machine_id": node.machine_id,
        "schedulable": node.schedulable,
        "labels": dict(node.labels),
        "annotations": dict(node.annotations),
        "taints": [dict(taint) for taint in node.taints],
    }


def compare(nodes: Sequence[Node], expected: Sequence[Expected]) -> Comparison:
    """Return how *nodes* differ from *expected*. With nothing expected only readiness and version skew are judged."""
    have = {node.name: node for node in nodes}
    want = {entry.name: entry for entry in expected}
    return Comparison(
        missing=tuple(name for name in sorted(want) if name not in have),
        unexpected=tuple(name for name in sorted(have) if want and name not in want),
        not_ready=tuple(node.name for node in nodes if not node.ready and (not want or node.name in want)),
        role_mismatch=tuple(
            {"name": name, "expected": want[name].role, "actual": have[name].role}
            for name in sorted(want)
            if name in have and have[name].role != want[name].role
        ),
        version_skew=_skew(nodes),
        not_voting=tuple(n.name for n in nodes if "etcd" in n.roles and n.conditions.get(ETCD_VOTER) != "True" and n.name in want),
    )


def _skew(nodes: Sequence[Node]) -> tuple[Mapping[str, Any], ...]:
    """Every node whose kubelet differs from the API's version, and whether Kubernetes supports that difference.

    In k3s the API server and the kubelet of a server are one process, so the newest server's kubelet has the API's version and no
    further question to the API is needed.
    """
    running = [node for node in nodes if node.version]
    if not running:
        return ()
    newest = max([node for node in running if node.role == "server"] or running, key=lambda node: _order(node.version))
    api = _order(newest.version)
    return tuple(
        {"name": node.name, "version": node.version, "api_version": newest.version, **_skew_verdict(_order(node.version), api)}
        for node in running
        if _order(node.version) != api
    )


def _skew_verdict(kubelet: tuple[int, ...], api: tuple[int, ...]) -> Mapping[str, Any]:
    if kubelet[:2] > api[:2]:
        return {"supported": False, "reason": "kubelet newer than the API server"}
    if kubelet[0] != api[0] or api[1] - kubelet[1] > KUBELET_MAX_MINORS_BEHIND:
        return {"supported": False, "reason": f"kubelet more than {KUBELET_MAX_MINORS_BEHIND} minor versions behind the API server"}
    if kubelet[:2] == api[:2]:
        return {"supported": True, "reason": "same minor version, other patch or k3s release"}
    return {"supported": True, "reason": "kubelet older, within the supported skew"}


def _order(version: str) -> tuple[int, int, int, int]:
    """A version as something that sorts: major, minor, patch, k3s release. Unreadable ones sort first."""
    found = _VERSION.match(version)
    return (int(found[1]), int(found[2]), int(found[3]), int(found[4] or 0)) if found else (0, 0, 0, 0)
