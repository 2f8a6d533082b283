# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pods a node had, and whether each runs again, on it or where its controller put it. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

_MIRROR = "kubernetes.io/config.mirror"
_ENDED = ("Succeeded", "Failed")
#: controllers that keep a number of pods running, with the fields that count them: https://kubernetes.io/docs/concepts/workloads/
_COUNTED = ("ReplicaSet", "StatefulSet", "ReplicationController")
#: controllers that are asked for, with the path of their lists in a namespace; of other kinds it is enough that the pod had one
ASKED = {
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "DaemonSet": "/apis/apps/v1/namespaces/{}/daemonsets",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "ReplicationController": "/api/v1/namespaces/{}/replicationcontrollers",
}


@dataclass(frozen=True, slots=True)
class Pod:
    """*name* is ``namespace/name``; *controller* ``Kind/name`` in the same namespace, empty for none; *elsewhere*: how many pods of that
    controller were ready on other nodes when this one was looked at, None where nobody counted."""

    name: str
    controller: str
    phase: str
    ready: bool
    elsewhere: int | None = None


def pods_of(text: str) -> tuple[Pod, ...]:
    """Return the pods of a PodList, by name, without those that ended and without static ones, which are files of the node.

    Raises PifleetError when *text* is no such list.
    """
    try:
        items = json.loads(text)["items"]
        found = [pod_of(item) for item in items if _MIRROR not in (item["metadata"].get("annotations") or {})]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PifleetError(f"the API's list of pods cannot be read: {error!r}.", "Is the kubeconfig's server a Kubernetes API?") from error
    return tuple(sorted((pod for pod in found if pod.phase not in _ENDED), key=lambda pod: pod.name))


def pod_of(item: Mapping[str, Any]) -> Pod:
    """Return one Pod object."""
    meta, status = item["metadata"], item.get("status") or {}
    owner = next((o for o in meta.get("ownerReferences") or () if o.get("controller")), None)
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
    return Pod(
        name=f"{meta['namespace']}/{meta['name']}",
        controller=f"{owner['kind']}/{owner['name']}" if owner else "",
        phase=status.get("phase", ""),
        ready=ready and not meta.get("deletionTimestamp"),
    )


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one pod: *state* ``running``, ``waiting`` (with *why*) or ``lost`` (nothing starts it again)."""

    pod: str
    state: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the API has now. *here*: pods of the node; *elsewhere*: pods of the old ones that are on other nodes, by name;
    *controllers*: those asked for, by ``namespace/Kind/name``; None for one that is gone."""

    here: tuple[Pod, ...]
    elsewhere: Mapping[str, Pod]
    controllers: Mapping[str, Mapping[str, Any] | None]


def controller_place(pod: Pod) -> tuple[str, str] | None:
    """Return (path of the list, name) of the pod's controller in the API; None for a kind that is not asked for."""
    kind, _slash, owner = pod.controller.partition("/")
    return (ASKED[kind].format(pod.name.partition("/")[0]), owner) if kind in ASKED else None


def is_counted(pod: Pod) -> bool:
    """Whether the pod's controller keeps a number of pods running, on whatever nodes."""
    return pod.controller.partition("/")[0] in _COUNTED


def with_others(pods: Sequence[Pod], controllers: Mapping[str, Mapping[str, Any] | None]) -> tuple[Pod, ...]:
    """Return *pods*, all those of one node, each with how many of its controller's were ready elsewhere.

    *controllers*: those of the pods whose controllers count, by ``namespace/Kind/name``; None for one that is gone.
    """
    here = Counter(controller_key(pod) for pod in pods if pod.ready)
    ready = {key: _ready(found) for key, found in controllers.items() if found}
    return tuple(
        replace(pod, elsewhere=max(0, ready[key] - here[key])) if (key := controller_key(pod)) in ready and is_counted(pod) else pod
        for pod in pods
    )


def _ready(controller: Mapping[str, Any]) -> int:
    return int((controller.get("status") or {}).get("readyReplicas") or 0)


def controller_key(pod: Pod) -> str:
    """Return ``namespace/Kind/name`` of the pod's controller."""
    return f"{pod.name.partition('/')[0]}/{pod.controller}"


def fates(before: Iterable[Pod], seen: Seen) -> tuple[Fate, ...]:
    """Return what became of each pod that the node had. A controller's pods that were not ready elsewhere are not waited for."""
    pods = tuple(before)
    had = Counter(controller_key(pod) for pod in pods)
    return tuple(_fate(pod, seen, had[controller_key(pod)]) for pod in pods)


def _fate(pod: Pod, seen: Seen, had: int) -> Fate:
    """*had*: how many pods of the same controller the node had."""
    now = next((p for p in seen.here if p.name == pod.name), None) or seen.elsewhere.get(pod.name)
    if now is not None:
        return (
            Fate(pod.name, "running") if now.ready or now.phase in _ENDED else Fate(pod.name, "waiting", f"is {now.phase or 'not started'}")
        )
    if not pod.controller:
        return Fate(pod.name, "lost", "had no controller that would start it again")
    controller = seen.controllers.get(controller_key(pod))
    if controller is None:
        return Fate(pod.name, "running", f"went with its controller {pod.controller}")
    kind = pod.controller.partition("/")[0]
    if kind == "DaemonSet":
        mine = [p for p in seen.here if controller_key(p) == controller_key(pod)]
        return (
            Fate(pod.name, "running")
            if any(p.ready for p in mine)
            else Fate(pod.name, "waiting", f"{pod.controller} has no ready pod here")
        )
    if kind in _COUNTED:
        wanted, ready = int(controller["spec"].get("replicas", 1)), _ready(controller)
        if pod.elsewhere is not None:
            wanted = min(wanted, pod.elsewhere + had)
        return (
            Fate(pod.name, "running") if ready >= wanted else Fate(pod.name, "waiting", f"{pod.controller} has {ready} of {wanted} ready")
        )
    return Fate(pod.name, "running", f"is left to its controller {pod.controller}")
