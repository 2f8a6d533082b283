# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a node has to be rebuilt: the cluster knows it, and the host does not know the cluster any more. Pure.

A node that is merely down, or healthy, is never rebuilt: its host still holds what it joined with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

#: states of a host beside its cluster; *joining*: its k3s is on its way, whoever started it; *misplaced*: k3s runs, but not on the data
#: folder of the inventory; *unknown*: nobody could be asked
HEALTHY, NEW, JOINING, DOWN, REBUILD, MISPLACED, UNKNOWN = "healthy", "new", "joining", "down", "rebuild", "misplaced", "unknown"
#: why a host has to be rebuilt
NO_DATA, NODE_PASSWORD, MACHINE_ID, RESUMED = "no_data", "node_password", "machine_id", "resumed"

#: A kubelet renews its lease every quarter of 40 seconds: https://kubernetes.io/docs/concepts/architecture/leases/#node-heart-beats.
#: After two renewals that did not come it is taken for silent.
SILENT_SECONDS = 20.0

#: Steps of a rebuild in which it has not started k3s on the node yet: where k3s runs after one of these, somebody else started it.
BEFORE_JOIN = ("detect", "retire", "prepare", "install")
#: A Node made so long after an attempt began is not that attempt's: its join had been given up long before.
SUPERSEDED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Host:
    """What a host says of itself.

    *data*: it holds what it joined with (a server its datastore, an agent its certificate); *active*: its unit is up; *starting*: it is
    on its way up; *password*: it has a node password; *password_fits*: that is the one the cluster expects, None where nobody compared;
    *addresses*: all its own addresses, without prefix length.
    """

    name: str
    server: bool
    data: bool
    active: bool
    machine_id: str
    addresses: tuple[str, ...]
    password: bool
    password_fits: bool | None = None
    starting: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What the cluster knows of a node.

    *node*: it has a Node object; *password*: it expects a node password; *heartbeat*: when its kubelet renewed its lease last
    (RFC 3339), empty for never; *silent*: seconds since then, None for never; *created*: when its Node was made (RFC 3339), or empty.
    """

    node: bool
    password: bool
    machine_id: str = ""
    internal_ip: str = ""
    heartbeat: str = ""
    silent: float | None = None
    created: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """A rebuild that did not end: *last_step* of its last attempt, and when that attempt began (RFC 3339 in UTC)."""

    last_step: str
    at: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """*state* of the host; *reasons* for a rebuild, in fixed order; *retire*: the cluster has to forget it first;
    *alive*: something else still reports as this node, so it must not be retired now; *superseded*: the rebuild that was begun is over,
    because the node came back without it."""

    state: str
    reasons: tuple[str, ...] = ()
    retire: bool = False
    alive: bool = False
    superseded: bool = False


def judge(host: Host, known: Known | None, *, begun: Begun | None = None) -> Verdict:
    """Return what *host* is to its cluster. *known*: None where no API answered; *begun*: the rebuild of it that did not end.

    What runs, or could not be asked about, is never retired.
    """
    if host.active:
        if not host.data:
            return Verdict(MISPLACED)
        if begun and (begun.last_step in BEFORE_JOIN or _is_made_later(known, begun)):
            return Verdict(HEALTHY, superseded=True)
        return Verdict(REBUILD, (RESUMED,)) if begun else Verdict(HEALTHY)
    if known is None:
        return Verdict(DOWN if host.data else UNKNOWN)
    reasons = _reasons(host, known)
    if host.starting and not host.server and host.password_fits and set(reasons) <= {NO_DATA}:
        # between its registration and its certificate: what the cluster knows is this very join
        return Verdict(REBUILD, (RESUMED,)) if begun else Verdict(JOINING)
    if reasons:
        superseded = begun is not None and _is_made_later(known, begun)
        told = (*reasons, *((RESUMED,) if begun and not superseded else ()))
        return Verdict(REBUILD, told, retire=True, alive=_is_alive_elsewhere(host, known), superseded=superseded)
    if begun:
        return Verdict(REBUILD, (RESUMED,))
    return Verdict(DOWN if known.node or known.password else NEW)


def _reasons(host: Host, known: Known) -> tuple[str, ...]:
    if not (known.node or known.password):
        return ()  # nothing to forget: it may simply join
    found = []
    # Where an agent has only its password, its first join was cut off before it had a certificate, and goes on. With a Node it had joined.
    if not host.data and (host.server or known.node or not host.password_fits):
        found.append(NO_DATA)
    # a password that was made anew in a join that is still going on is compared too, so it counts only where it does not fit
    if known.password and (not host.password or host.password_fits is False):
        found.append(NODE_PASSWORD)
    if host.machine_id and known.machine_id and known.machine_id != host.machine_id:
        found.append(MACHINE_ID)
    return tuple(found)


def _is_made_later(known: Known | None, begun: Begun) -> bool:
    """Whether the cluster's Node is not the one that this rebuild was about, nor the one that it made."""
    if known is None or not known.created or not begun.at:
        return False
    return (_moment(known.created) - _moment(begun.at)).total_seconds() > SUPERSEDED_SECONDS


def _moment(text: str) -> datetime:
    # datetime.fromisoformat of Python 3.10 reads no Z
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _is_alive_elsewhere(host: Host, known: Known) -> bool:
    """Whether a kubelet that is not this host's reports as this node. With the host's own address it cannot: nothing runs on it."""
    return known.silent is not None and known.silent < SILENT_SECONDS and known.internal_ip not in host.addresses


def silent_seconds(heartbeat: str, now: datetime) -> float | None:
    """Return the seconds from *heartbeat* (``renewTime`` of a lease, RFC 3339 in UTC) to *now* (aware); None for an empty one."""
    if not heartbeat:
        return None
    return max(0.0, (now - _moment(heartbeat)).total_seconds())


@dataclass(frozen=True, slots=True)
class Volume:
    """A PersistentVolume whose data is on one node. *claim* is ``namespace/name``, empty when it is bound to none."""

    name: str
    claim: str
    capacity: str
    storage_class: str
    path: str
    bound: bool


def volumes_on(text: str, hostname: str) -> tuple[Volume, ...]:
    """Return the volumes of ``/api/v1/persistentvolumes`` that only the node with the label ``kubernetes.io/hostname`` *hostname* can hold.

    local-path and local volumes name their node in ``nodeAffinity``:
    https://kubernetes.io/docs/concepts/storage/persistent-volumes/#node-affinity. Raises PifleetError when *text* is no such list.
    """
    try:
        found = [_volume(item) for item in json.loads(text)["items"] if _hostnames(item) == {hostname}]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PifleetError(
            f"the API's list of volumes cannot be read: {error!r}.", "Is the kubeconfig's server a Kubernetes API?"
        ) from error
    return tuple(sorted(found, key=lambda volume: volume.name))


def _hostnames(item: Mapping[str, Any]) -> set[str]:
    required = ((item["spec"].get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms") or []
    expressions = [e for term in required for e in term.get("matchExpressions") or []]
    return {v for e in expressions if e["key"] == "kubernetes.io/hostname" and e["operator"] == "In" for v in e.get("values") or []}


def _volume(item: Mapping[str, Any]) -> Volume:
    spec, claim = item["spec"], item["spec"].get("claimRef") or {}
    return Volume(
        name=item["metadata"]["name"],
        claim=f"{claim['namespace']}/{claim['name']}" if claim.get("name") else "",
        capacity=(spec.get("capacity") or {}).get("storage", ""),
        storage_class=spec.get("storageClassName", ""),
        path=(spec.get("hostPath") or spec.get("local") or {}).get("path", ""),
        bound=(item.get("status") or {}).get("phase") == "Bound",
    )


#: What the kubelet, k3s and the roles of this collection put on a Node themselves; what else is there, somebody else did.
#: https://kubernetes.io/docs/reference/labels-annotations-taints/; k3s pkg/agent/run.go, pkg/server/server.go, pkg/spegel.
_SET_ANEW = frozenset(
    {
        *(f"{prefix}kubernetes.io/{key}" for prefix in ("", "beta.") for key in ("arch", "os", "hostname", "instance-type")),
        "node.kubernetes.io/instance-type",
        *(f"node-role.kubernetes.io/{role}" for role in ("control-plane", "master", "etcd", "worker")),
    }
)
_SET_ANEW_UNDER = ("egress.k3s.io/", "p2p.k3s.cattle.io/", "etcd.k3s.cattle.io/", "k3s.io/")
_LIFECYCLE = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")


def kept_labels(labels: Mapping[str, str], applied: Iterable[str] = ()) -> dict[str, str]:
    """Return the labels that have to be put back because nobody else would. *applied*: those that the inventory decides about."""
    anew = _SET_ANEW | frozenset(applied)
    return {k: v for k, v in sorted(labels.items()) if k not in anew and not k.startswith(_SET_ANEW_UNDER)}


def applied_labels(node: Mapping[str, Any], manager: str) -> frozenset[str]:
    """Return the keys of the labels of the Node object *node* that *manager* applied.

    ``managedFields`` say it: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management.
    """
    entries = [e for e in node["metadata"].get("managedFields") or () if (e.get("manager"), e.get("operation")) == (manager, "Apply")]
    fields = [((e.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:labels") or {} for e in entries]
    return frozenset(key.removeprefix("f:") for labels in fields for key in labels if key.startswith("f:"))


def kept_taints(taints: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the taints that have to be put back: all but those that Kubernetes sets and lifts with the state of a node."""
    return [{k: v for k, v in t.items() if k in ("key", "value", "effect")} for t in taints if not t["key"].startswith(_LIFECYCLE)]
