# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a node may leave its cluster, in which steps, and what it lacks when it is back. Pure; the façade ``k3s_node`` carries it out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.cluster import ETCD_VOTER, Node
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.versions import ETCD_LABEL, is_etcd

#: How k3s is told to take a member out of etcd, and how it says that it did: pkg/etcd/member_controller.go.
REMOVE = "etcd.k3s.cattle.io/remove"
REMOVED = "etcd.k3s.cattle.io/removed-node-name"
#: The nodes that have a member of etcd, and no others.
ETCD_NODES = f"/api/v1/nodes?labelSelector={ETCD_LABEL}"


@dataclass(frozen=True, slots=True)
class Removal:
    """What takes one node out of its cluster. *member*: its etcd member goes first; *node*: there is a Node object to delete."""

    name: str
    member: bool
    node: bool


def plan_removal(nodes: Mapping[str, Node], name: str) -> Removal:
    """Return how *name* leaves the cluster that *nodes* (the API's nodes by name) make up.

    Raises PifleetError where etcd would lose its quorum, or its last member.
    """
    node = nodes.get(name)
    if node is None:
        return Removal(name, member=False, node=False)
    if not is_etcd(node) or is_removed(node):
        return Removal(name, member=False, node=True)
    members = [n for n in nodes.values() if is_etcd(n) and not is_removed(n)]
    others = [n for n in members if n.name != name]
    _refuse_loss_of_quorum(node, members, others)
    return Removal(name, member=True, node=True)


def _refuse_loss_of_quorum(node: Node, members: list[Node], others: list[Node]) -> None:
    if not others:
        raise PifleetError(
            f"{node.name} is the last member of etcd: without it the cluster is gone.",
            "Reset the whole fleet instead: run without --limit.",
        )
    able, needed = [n for n in others if _healthy(n)], len(others) // 2 + 1
    if len(able) < needed:
        ill = ", ".join(sorted(n.name for n in others if n not in able))
        raise PifleetError(
            f"{node.name} must not leave: of the {len(others)} members of etcd that would stay, {len(able)} can vote; {needed} must.",
            f"Mend {ill} first. Nothing was changed.",
        )
    if len(able) + _healthy(node) < len(members) // 2 + 1:
        raise PifleetError(
            f"{node.name} cannot leave: etcd has no quorum now.",
            "Mend the other servers first, or restore a snapshot (playbooks/restore.yml). Nothing was changed.",
        )


def _healthy(node: Node) -> bool:
    return node.ready and node.conditions.get(ETCD_VOTER) == "True"


def is_removed(node: Node) -> bool:
    """Whether k3s says that it took the node's member out of etcd."""
    return bool(node.annotations.get(REMOVED)) and node.annotations.get(REMOVE, "").lower() == "true"


def removal_patch() -> str:
    """The merge patch that asks k3s to take the node's member out of etcd."""
    return json.dumps({"metadata": {"annotations": {REMOVE: "true"}}})


def password_secret(name: str) -> str:
    """Name of the Secret (in kube-system) that holds a node back which joins again with another password: pkg/nodepassword."""
    return f"{name}.node-password.k3s"


@dataclass(frozen=True, slots=True)
class Marks:
    """What a node lacks: *added* in words, and the merge *patch* that adds it."""

    added: tuple[str, ...]
    patch: str


def plan_marks(node: Mapping[str, Any], labels: Mapping[str, str], taints: Sequence[Mapping[str, str]], *, cordoned: bool = False) -> Marks:
    """Return what the Node object *node* lacks of *labels*, *taints* and, where it was *cordoned*, of that.

    A label that has another value by now is left as it is.
    """
    meta, spec = node.get("metadata") or {}, node.get("spec") or {}
    has = {(t["key"], t["effect"]) for t in spec.get("taints") or ()}
    new_labels = {key: str(value) for key, value in sorted(labels.items()) if key not in (meta.get("labels") or {})}
    new_taints = [dict(taint) for taint in taints if (taint["key"], taint["effect"]) not in has]
    patch: dict[str, Any] = {"metadata": {"resourceVersion": meta.get("resourceVersion"), "labels": new_labels}}
    if new_taints:
        # a merge patch replaces a list as a whole: https://datatracker.ietf.org/doc/html/rfc7386
        patch["spec"] = {"taints": [*(spec.get("taints") or ()), *new_taints]}
    cordon = cordoned and not spec.get("unschedulable")
    if cordon:
        patch.setdefault("spec", {})["unschedulable"] = True
    words = [f"label {key}={value}" for key, value in new_labels.items()]
    words += [f"taint {t['key']}{'=' + t['value'] if t.get('value') else ''}:{t['effect']}" for t in new_taints]
    return Marks((*words, *(["cordon"] if cordon else [])), json.dumps(patch))
