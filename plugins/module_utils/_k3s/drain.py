# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking a node out of service and back: which pods leave, what blocks them, and whose cordon it is.

Pure: the API's objects in, decisions out. The façade ``k3s_drain`` asks the API and carries them out with kubectl.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.cluster import ETCD_VOTER, Node
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.versions import CORDONED_BY_UPGRADE, is_etcd

#: On the API's copy of a static pod, which an eviction cannot move: https://kubernetes.io/docs/reference/labels-annotations-taints/.
_MIRROR = "kubernetes.io/config.mirror"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the node. *controller*: kind of its controller, empty when it has none; *scratch*: it has emptyDir volumes."""

    namespace: str
    name: str
    phase: str
    controller: str
    mirror: bool
    scratch: bool
    labels: Mapping[str, str]

    @property
    def ref(self) -> str:
        """The pod as ``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def stays(self) -> bool:
        """Whether a drain leaves it: static pods and those of a DaemonSet would only come back."""
        return self.mirror or self.controller == "DaemonSet"

    @property
    def finished(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget. *allowed*: evictions it allows now; *selector*: None selects no pod, an empty one all of the namespace."""

    namespace: str
    name: str
    allowed: int
    selector: Mapping[str, Any] | None

    def covers(self, pod: Pod) -> bool:
        return pod.namespace == self.namespace and self.selector is not None and matches(self.selector, pod.labels)


@dataclass(frozen=True, slots=True)
class Blocked:
    """A pod that a drain does not get rid of, and why."""

    pod: str
    reason: str


def pods_of(text: str) -> tuple[Pod, ...]:
    """Return the pods of ``kubectl get pods -o json``, sorted. Raises PifleetError when *text* is no such list."""
    return tuple(sorted((_pod(item) for item in _items(text, "pods")), key=lambda pod: pod.ref))


def budgets_of(text: str) -> tuple[Budget, ...]:
    """Return the budgets of ``kubectl get poddisruptionbudgets -o json``. Raises PifleetError when *text* is no such list."""
    return tuple(
        Budget(
            i["metadata"]["namespace"],
            i["metadata"]["name"],
            int(i.get("status", {}).get("disruptionsAllowed", 0)),
            i.get("spec", {}).get("selector"),
        )
        for i in _items(text, "poddisruptionbudgets")
    )


def _items(text: str, what: str) -> list[dict[str, Any]]:
    try:
        return list(json.loads(text)["items"])
    except (ValueError, KeyError, TypeError) as error:
        raise PifleetError(
            f"the API's list of {what} cannot be read: {error!r}.", "Is the kubeconfig's server a Kubernetes API?"
        ) from error


def _pod(item: Mapping[str, Any]) -> Pod:
    meta, spec = item["metadata"], item.get("spec", {})
    owners = [o for o in meta.get("ownerReferences") or () if o.get("controller")]
    return Pod(
        namespace=meta["namespace"],
        name=meta["name"],
        phase=item.get("status", {}).get("phase", ""),
        controller=owners[0]["kind"] if owners else "",
        mirror=_MIRROR in (meta.get("annotations") or {}),
        scratch=any("emptyDir" in v for v in spec.get("volumes") or ()),
        labels=dict(meta.get("labels") or {}),
    )


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects *labels*: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_fits(e, labels) for e in selector.get("matchExpressions") or ())


def _fits(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    have, values = labels.get(expression["key"]), expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return have in values
        case "NotIn":
            return have not in values
        case "Exists":
            return have is not None
        case _:  # DoesNotExist
            return have is None


def leaving(pods: Iterable[Pod]) -> tuple[Pod, ...]:
    """Return the pods that a drain evicts."""
    return tuple(pod for pod in pods if not pod.stays)


def refused(pods: Iterable[Pod], *, force: bool, delete_emptydir_data: bool) -> tuple[Blocked, ...]:
    """Return the pods that must not be evicted without the user's word, because something would be lost for good."""
    found = []
    for pod in leaving(pods):
        if not pod.controller and not pod.finished and not force:
            found.append(Blocked(pod.ref, "has no controller that would start it elsewhere"))
        elif pod.scratch and not pod.finished and not delete_emptydir_data:
            found.append(Blocked(pod.ref, "keeps data in an emptyDir volume, which goes with it"))
    return tuple(found)


def blocked(pods: Iterable[Pod], budgets: Sequence[Budget]) -> tuple[Blocked, ...]:
    """Return the pods that are still to leave, each with the budget that holds it, where one does."""
    found = []
    for pod in leaving(pods):
        holding = [b for b in budgets if b.allowed < 1 and b.covers(pod) and not pod.finished]
        reason = f"PodDisruptionBudget {holding[0].namespace}/{holding[0].name} allows no disruption" if holding else "has not ended yet"
        found.append(Blocked(pod.ref, reason))
    return tuple(found)


def sentence(found: Iterable[Blocked]) -> str:
    """Return *found* as one line for an error message."""
    return "; ".join(f"{b.pod} {b.reason}" for b in found)


# -- whose cordon it is ------------------------------------------------------------------------------------------------------
def cordoned_by_user(node: Node) -> bool:
    """Whether somebody else took the node out of service: it then stays so."""
    return not node.schedulable and CORDONED_BY_UPGRADE not in node.annotations


def cordon_patch(value: str) -> str:
    """The merge patch that cordons a node and says that we did, in one step, so that no kill leaves a cordon of unknown origin.

    *value*: why, for people who look at the annotation.
    """
    return json.dumps({"metadata": {"annotations": {CORDONED_BY_UPGRADE: value}}, "spec": {"unschedulable": True}})


def uncordon_patch() -> str:
    """The merge patch that takes back what :func:`cordon_patch` did."""
    return json.dumps({"metadata": {"annotations": {CORDONED_BY_UPGRADE: None}}, "spec": {"unschedulable": None}})


def waits_for(node: Node | None, version: str) -> str:
    """Return what *node* still lacks before it may be put back into service, or an empty text.

    *version*: what its kubelet has to run, empty for any. A server with etcd has to be a voting member too.
    """
    if node is None:
        return "it is not in the cluster"
    if version and node.version != version:
        return f"its kubelet still runs {node.version or 'an unknown version'}"
    if not node.ready:
        return f"it is not Ready: {node.not_ready_reason}"
    if is_etcd(node) and node.conditions.get(ETCD_VOTER) != "True":
        return "it is no voting member of etcd yet"
    return ""
