# SPDX-License-Identifier: GPL-3.0-or-later
"""Baseline objects of a cluster: what a server-side apply would change, why, and in which order.

Pure: objects and the output of ``kubectl diff`` in, a plan out. The port ``Api`` asks and applies; the façade is ``k3s_manifests``.

Each object carries an annotation with the digest of what was desired of it. An object that differs from its desired state is
``configured`` when the digest differs (the desired state is new) and ``drifted`` when it does not (somebody edited the object).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import Change
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import MASK, scrub

CREATED = "created"
CONFIGURED = "configured"
DRIFTED = "drifted"
UNCHANGED = "unchanged"
ABSENT = "absent"

#: Digest of the desired state, on the object.
DESIRED = "pifleet.ops/desired"
#: On a Node: which of its taints are ours, as ``key:effect,…``. There, even empty, once we have ever set one.
TAINTS = "pifleet.ops/taints"

Manifest = Mapping[str, Any]

#: What others need stands first; a kind that is not named stands between the named ones and the workloads.
_ORDER = (
    "Namespace",
    "CustomResourceDefinition",
    "PriorityClass",
    "StorageClass",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ResourceQuota",
    "LimitRange",
    "NetworkPolicy",
    "Secret",
    "ConfigMap",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Service",
)
_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod", "Ingress", "Node")

#: Fields of metadata that the API server sets. They tell nothing and differ from look to look, so they are in no diff.
_SET_BY_SERVER = frozenset({"creationTimestamp", "generation", "resourceVersion", "uid", "selfLink"})
#: How kubectl shows values of a Secret: kubernetes/kubectl pkg/cmd/diff/diff.go (sensitiveMask…).
_MASKED_BY_KUBECTL = frozenset({"'***'", "'*** (before)'", "'*** (after)'"})
#: Older, client-side applies keep a copy of the whole object here, secrets included.
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class ManifestError(PifleetError):
    """An object that is none, or that the API refuses."""


class Api(Protocol):
    """What a plan and its apply need of the API. All take objects and return what kubectl said; none raises for an exit code."""

    def diff(self, objects: Sequence[Manifest]) -> Completed:
        """Server-side diff: exit code 0 without differences, 1 with a unified diff of whole objects, more for an error."""

    def apply(self, objects: Sequence[Manifest], *, dry_run: bool) -> Completed:
        """Server-side apply with strict validation, taking over conflicting fields."""

    def nodes(self, names: Sequence[str]) -> Completed:
        """A NodeList, as JSON, with at least the nodes called *names* that are there."""

    def wait_for_kinds(self, definitions: Sequence[str]) -> Completed:
        """Wait until the named CustomResourceDefinitions are established."""

    def unasked(self, done: Completed) -> PifleetError | None:
        """The error of a call that the API never judged (it is down, the credentials are wrong); None where it did."""


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a plan. *before* and *after*: text for the diff, free of secrets; *uid*: of the live object, "" where there is none."""

    ref: str
    state: str
    manifest: Manifest
    before: str = ""
    after: str = ""
    uid: str = ""

    @property
    def changes(self) -> bool:
        return self.state in (CREATED, CONFIGURED, DRIFTED)

    @property
    def diff(self) -> str:
        """The difference as unified text, empty where there is none."""
        if not self.changes:
            return ""
        lines = difflib.unified_diff(
            self.before.splitlines(), self.after.splitlines(), f"live/{self.ref}", f"desired/{self.ref}", lineterm=""
        )
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Plan:
    """*items* in the order of applying. *waiting*: refs of objects whose namespace or kind has to be created first."""

    items: tuple[Item, ...]
    waiting: frozenset[str] = frozenset()

    @property
    def changes(self) -> tuple[Change, ...]:
        """The plan in the form that every module of this collection reports."""
        return tuple(Change("object", item.ref, item.state, item.before, item.after) for item in self.items if item.changes)


# ------------------------------------------------------------------ objects


def ref(manifest: Manifest) -> str:
    """Return the name of an object for people: ``Kind/name`` or ``Kind/namespace/name``."""
    meta = manifest["metadata"]
    return "/".join(part for part in (manifest["kind"], meta.get("namespace", ""), meta["name"]) if part)


def prepare(objects: Iterable[Any], *, marked: bool = True) -> tuple[Manifest, ...]:
    """Return *objects* checked, lists unfolded, in the order of applying, each with its digest where they are *marked*.

    Raises ManifestError for something that is no object, has no name, or is there twice.
    """
    found: dict[tuple[str, str, str, str], Manifest] = {}
    for position, entry in enumerate(_unfolded(objects), 1):
        _check(entry, position)
        meta = entry["metadata"]
        key = (entry["apiVersion"].partition("/")[0], entry["kind"], meta.get("namespace", ""), meta["name"])
        if key in found:
            raise ManifestError(f"{ref(entry)} is there twice.", "Keep one of the two manifests.")
        found[key] = _with_digest(entry) if marked else entry
    return tuple(sorted(found.values(), key=_place))


def _unfolded(objects: Iterable[Any]) -> Iterable[Any]:
    for entry in objects:
        if entry is None:  # an empty document between two `---`
            continue
        if isinstance(entry, Mapping) and entry.get("kind") == "List" and isinstance(entry.get("items"), list):
            yield from _unfolded(entry["items"])
        else:
            yield entry


def _check(entry: Any, position: int) -> None:
    where = f"object {position}"
    if not isinstance(entry, Mapping):
        raise ManifestError(f"{where} is no Kubernetes object but {type(entry).__name__}.", "Each document of a manifest is a mapping.")
    meta = entry.get("metadata")
    name = meta.get("name") if isinstance(meta, Mapping) else None
    for key, value in (("apiVersion", entry.get("apiVersion")), ("kind", entry.get("kind")), ("metadata.name", name)):
        if not isinstance(value, str) or not value:
            raise ManifestError(f"{where} ({entry.get('kind', 'no kind')} {name or ''}) has no {key}.", "Correct the manifest.")
    if isinstance(meta, Mapping) and not isinstance(meta.get("annotations") or {}, Mapping):
        raise ManifestError(f"{where} ({ref(entry)}): metadata.annotations is no mapping.", "Correct the manifest.")


def _place(manifest: Manifest) -> tuple[int, str, str, str]:
    kind = manifest["kind"]
    order = {name: place for place, name in enumerate((*_ORDER, "", *_WORKLOADS))}
    return (order.get(kind, order[""]), kind, manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"])


def _with_digest(manifest: Manifest) -> Manifest:
    found: dict[str, Any] = dict(manifest)
    annotations = dict(found["metadata"].get("annotations") or {})
    annotations.pop(DESIRED, None)
    if found["kind"] == "Node" and _taints(found):
        annotations[TAINTS] = ",".join(_taint_key(taint) for taint in _taints(found))
    found["metadata"] = {**found["metadata"], "annotations": annotations}
    text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    annotations[DESIRED] = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return found


def with_live_taints(manifest: Manifest, live: Manifest) -> Manifest:
    """Return the Node *manifest* with those taints of the *live* node added that are not ours, so that applying it keeps them.

    ``spec.taints`` is one field to a server-side apply (listType atomic): ours alone would undo a cordon or a taint that somebody set,
    and leaving ours out again would remove them all. A node that never had a taint of ours is left alone.
    """
    ours = _taints(manifest)
    before = (live["metadata"].get("annotations") or {}).get(TAINTS)
    if not ours and before is None:
        return manifest
    known = {_taint_key(taint) for taint in ours} | set((before or "").split(","))
    foreign = [taint for taint in _taints(live) if _taint_key(taint) not in known]
    meta = manifest["metadata"]
    annotations = {TAINTS: "", **meta["annotations"]}
    spec = {**(manifest.get("spec") or {}), "taints": [*ours, *foreign]}
    return {**manifest, "metadata": {**meta, "annotations": annotations}, "spec": spec}


def _annotations(manifest: Manifest) -> Mapping[str, str]:
    return manifest["metadata"].get("annotations") or {}


def _taints(node: Manifest) -> Sequence[Mapping[str, str]]:
    return (node.get("spec") or {}).get("taints") or ()


def _taint_key(taint: Mapping[str, str]) -> str:
    """A taint is known by key and effect: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/."""
    return f"{taint.get('key')}:{taint.get('effect')}"


def provides(manifest: Manifest) -> str:
    """Return what other objects may need of this one: ``namespace x``, ``kind group/X``, or ""."""
    if manifest["kind"] == "Namespace" and manifest["apiVersion"] == "v1":
        return f"namespace {manifest['metadata']['name']}"
    if manifest["kind"] == "CustomResourceDefinition":
        spec = manifest.get("spec") or {}
        return f"kind {spec.get('group')}/{(spec.get('names') or {}).get('kind')}"
    return ""


def needs(manifest: Manifest) -> tuple[str, str]:
    """Return what has to be there before this object, in the words of ``provides``: its namespace and its kind."""
    group = manifest["apiVersion"].rpartition("/")[0]
    return (f"namespace {manifest['metadata'].get('namespace', '')}", f"kind {group}/{manifest['kind']}")


# ------------------------------------------------------------------ diff


@dataclass(frozen=True, slots=True)
class _Pair:
    """One object of a diff, whole: as it is and as it would be."""

    live: str
    merged: str


def parse_diff(text: str) -> Mapping[str, _Pair]:
    """Return each object of a unified diff with unlimited context, by kubectl's file name (``group.version.Kind.namespace.name``)."""
    found = {}
    for part in re.split(r"^diff (?=-)", text, flags=re.M)[1:]:
        head, _hunk, body = part.partition("\n@@")
        name = head.split("\n", 1)[0].rpartition("/")[2]
        lines = body.split("\n")[1:]
        live = "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "-"))
        merged = "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "+"))
        found[name] = _Pair(live, merged)
    return found


def _file_names(manifest: Manifest) -> tuple[str, ...]:
    """kubectl's names of the files it compares: kubernetes/kubectl pkg/cmd/diff/diff.go (InfoObject.Name).

    An object without a namespace is in none, or in the default one; which, only the API knows.
    """
    group, _slash, version = manifest["apiVersion"].rpartition("/")
    meta = manifest["metadata"]
    spaces = (meta["namespace"],) if meta.get("namespace") else ("", "default")
    return tuple(".".join([*([group] if group else []), version, manifest["kind"], space, meta["name"]]) for space in spaces)


def items_of(objects: Iterable[Manifest], diff: str, joining: Iterable[str] = ()) -> tuple[Item, ...]:
    """Return the objects with what *diff* says of each. *joining*: nodes that are not there only because this is a check."""
    pairs = parse_diff(diff)
    coming = frozenset(joining)
    found = []
    for manifest in objects:
        pair = next((pairs[name] for name in _file_names(manifest) if name in pairs), None)
        found.append(_item(manifest, pair, coming))
    return tuple(found)


def _item(manifest: Manifest, pair: _Pair | None, joining: frozenset[str]) -> Item:
    if pair is None:
        return Item(ref(manifest), UNCHANGED, manifest)
    if pair.live.strip() in ("", "null"):  # the latter is how kubectl prints a Secret that is not there
        return predicted(manifest, joining)
    secret = manifest["kind"] == "Secret"
    before, after = presentable(pair.live, secret), presentable(pair.merged, secret)
    digest, ours = _find(rf"    {re.escape(DESIRED)}: \"?(\S+?)\"?$", pair.live), _annotations(manifest).get(DESIRED, "")
    if list(_meaningful(pair.live)) == list(_meaningful(pair.merged)):
        return Item(ref(manifest), UNCHANGED, manifest)  # only its status moved between two looks
    state = DRIFTED if digest == ours else CONFIGURED
    return Item(ref(manifest), state, manifest, before, after, _find(r"  uid: \"?(\S+?)\"?$", pair.live))


def predicted(manifest: Manifest, joining: Iterable[str] = ()) -> Item:
    """Return the item of an object that is not there. A Node is never created: it is configured once it has joined, else absent."""
    if manifest["kind"] != "Node":
        return Item(ref(manifest), CREATED, manifest, "", rendered(manifest))
    if manifest["metadata"]["name"] in frozenset(joining):
        return Item(ref(manifest), CONFIGURED, manifest, "", rendered(manifest))
    return Item(ref(manifest), ABSENT, manifest)


def _find(pattern: str, text: str) -> str:
    found = re.search(f"^{pattern}", text, re.M)
    return found[1] if found else ""


def rendered(manifest: Manifest) -> str:
    """Return the desired object as text for a diff (JSON, which is YAML), without secrets."""
    shown = dict(manifest)
    if shown["kind"] == "Secret":
        for key in ("data", "stringData"):
            if isinstance(shown.get(key), Mapping):
                shown[key] = dict.fromkeys(shown[key], MASK)
        shown["metadata"] = {**shown["metadata"], "annotations": dict.fromkeys(_annotations(manifest), MASK)}
    return scrub(json.dumps(shown, indent=2, sort_keys=True, ensure_ascii=False)) + "\n"


def presentable(text: str, secret: bool) -> str:
    """Return an object as kubectl prints it, without what the server sets, without status, and without secrets.

    *secret*: it is a Secret, so no value of its data and annotations is shown (kubectl masks the data already, as ``***``).
    """
    kept: list[str] = []
    hidden: int | None = None  # indent of a value that is hidden, which may go on over more lines
    for path, line in _meaningful(text):
        indent = len(line) - len(line.lstrip(" "))
        if hidden is not None and indent > hidden:
            continue
        hidden = None
        if secret and _holds_secret(path):
            hidden = indent
            key, _colon, value = line.partition(": ")
            kept.append(f"{key}: {value if value in _MASKED_BY_KUBECTL else MASK}")
        else:
            kept.append(line)
    return scrub("\n".join(kept)) + "\n"


def _meaningful(text: str) -> Iterable[tuple[tuple[str, ...], str]]:
    """The lines of an object as kubectl prints it, each with the keys it is under, without what the server sets and without status."""
    path: list[str] = []
    dropped: int | None = None  # indent of a line whose block is left out
    for line in text.splitlines():
        bare = line.lstrip(" ")
        indent = len(line) - len(bare)
        if dropped is not None and (indent > dropped or (indent == dropped and bare.startswith("- "))):
            continue
        dropped = None
        path[indent // 2 :] = [bare.partition(":")[0]]
        if path == ["status"] or (len(path) == 2 and path[0] == "metadata" and path[1] in _SET_BY_SERVER) or path[-1] == _LAST_APPLIED:
            dropped = indent
            continue
        yield tuple(path), line


def _holds_secret(path: Sequence[str]) -> bool:
    """Whether a line of a Secret at *path* is a value to hide."""
    return (len(path) == 2 and path[0] in ("data", "stringData")) or (len(path) == 3 and tuple(path[:2]) == ("metadata", "annotations"))


# ------------------------------------------------------------------ plan and apply

#: What the API says where a namespace or a kind is not there (yet): apiserver NewNotFound, apimachinery meta NoKindMatchError.
_MISSING = re.compile(r'namespaces "[^"]+" not found|no matches for kind "[^"]+" in version|resource mapping not found')


def make_plan(api: Api, objects: Sequence[Manifest], joining: Iterable[str] = (), replaced: Iterable[str] = ()) -> Plan:
    """Return what applying *objects* (from ``prepare``) would change. Changes nothing; refused objects are refused here already.

    *joining*: nodes that are not there only because this is a check; *replaced*: nodes that are there only because of that.
    One question to the API where all is as desired. Raises ManifestError for an object that the API refuses, and the port's error
    where the API cannot be asked.
    """
    anew = frozenset(replaced)
    gone = [manifest for manifest in objects if manifest["kind"] == "Node" and manifest["metadata"]["name"] in anew]
    if gone:
        others = [manifest for manifest in objects if manifest not in gone]
        rest = make_plan(api, others, joining) if others else Plan(())
        known = {item.ref: item for item in (*rest.items, *(predicted(manifest, anew) for manifest in gone))}
        return replace(rest, items=tuple(known[ref(manifest)] for manifest in objects))
    done = api.diff(objects)
    if done.rc in (0, 1):
        plan = Plan(items_of(objects, done.stdout, joining))
    elif _MISSING.search(done.stderr) and not api.unasked(done):
        plan = _plan_in_phases(api, objects, joining)
    else:
        raise _refusal(api, done, objects)
    plan = _keep_foreign_taints(api, plan)
    _try(api, [item for item in plan.items if item.changes and item.ref not in plan.waiting and _exists(item)])
    return plan


def _touches_taints(item: Item) -> bool:
    """Whether applying an item could set or remove taints of a node that is there."""
    return item.manifest["kind"] == "Node" and bool(item.uid) and bool(_taints(item.manifest) or TAINTS in item.before)


def _keep_foreign_taints(api: Api, plan: Plan) -> Plan:
    """The plan with its changing Nodes looked at again, with the taints that others have set on them."""
    changing = {item.manifest["metadata"]["name"]: item for item in plan.items if item.changes and _touches_taints(item)}
    if not changing:
        return plan
    nodes = api.nodes(sorted(changing))
    if not nodes.ok:
        raise api.unasked(nodes) or ManifestError(f"{next(iter(changing.values())).ref}: {_said(nodes)}.")
    live = {entry["metadata"]["name"]: entry for entry in json.loads(nodes.stdout)["items"]}
    whole = [with_live_taints(item.manifest, live[name]) for name, item in changing.items() if name in live]
    again = {item.ref: item for item in _items(api, whole, ())}
    return replace(plan, items=tuple(again.get(item.ref, item) for item in plan.items))


def _plan_in_phases(api: Api, objects: Sequence[Manifest], joining: Iterable[str]) -> Plan:
    """A plan where something that other objects need is not there: what provides it is looked at first."""
    offered = {provides(manifest) for manifest in objects} - {""}
    dependent = {ref(manifest) for manifest in objects if offered.intersection(needs(manifest))}
    first = _items(api, [manifest for manifest in objects if ref(manifest) not in dependent], joining)
    coming = {provides(item.manifest) for item in first if item.state == CREATED} - {""}
    waiting = {ref(manifest) for manifest in objects if coming.intersection(needs(manifest))}
    rest = _items(api, [manifest for manifest in objects if ref(manifest) in dependent - waiting], joining)
    known = {item.ref: item for item in (*first, *rest)}
    return Plan(tuple(known.get(ref(manifest)) or predicted(manifest) for manifest in objects), frozenset(waiting))


def _items(api: Api, objects: Sequence[Manifest], joining: Iterable[str]) -> tuple[Item, ...]:
    if not objects:
        return ()
    done = api.diff(objects)
    if done.rc not in (0, 1):
        raise _refusal(api, done, objects)
    return items_of(objects, done.stdout, joining)


def _exists(item: Item) -> bool:
    """Whether an item can be tried now: a Node that has still to join cannot."""
    return item.manifest["kind"] != "Node" or bool(item.uid)


def plan_without_api(objects: Sequence[Manifest], joining: Iterable[str] = ()) -> Plan:
    """Return the plan for a cluster that does not exist yet: everything is created, and nodes that join are configured."""
    return Plan(tuple(predicted(manifest, joining) for manifest in objects))


def carry_out(api: Api, plan: Plan) -> Plan:
    """Apply *plan* and return it as it was carried out: what had to wait is diffed once its namespace or kind is there.

    Raises ManifestError naming the object where one is refused; what was applied before it stays.
    """
    now = [item for item in plan.items if item.changes and item.ref not in plan.waiting]
    _apply(api, now)
    if not plan.waiting:
        return plan
    definitions = [item.manifest["metadata"]["name"] for item in now if item.manifest["kind"] == "CustomResourceDefinition"]
    if definitions:
        waited = api.wait_for_kinds(definitions)
        if not waited.ok:
            raise ManifestError(
                f"CustomResourceDefinition {definitions[0]}: {_said(waited)}.", "The API did not accept the new kind in time."
            )
    later = _items(api, [item.manifest for item in plan.items if item.ref in plan.waiting], ())
    _apply(api, [item for item in later if item.changes])
    known = {item.ref: item for item in later}
    return replace(plan, items=tuple(known.get(item.ref, item) for item in plan.items))


def _apply(api: Api, items: Sequence[Item]) -> None:
    if items:
        manifests = [_guarded(item) for item in items]
        done = api.apply(manifests, dry_run=False)
        if not done.ok:
            raise _refusal(api, done, manifests)


def _try(api: Api, items: Sequence[Item]) -> None:
    """Let the API validate strictly what the diff only looked at, so that nothing is applied when one of the objects is wrong."""
    if items:
        manifests = [_guarded(item) for item in items]
        done = api.apply(manifests, dry_run=True)
        if not done.ok:
            raise _refusal(api, done, manifests)


def _guarded(item: Item) -> Manifest:
    """The object as it is sent. A Node carries its uid: should it be gone by now, the API refuses instead of creating it."""
    if item.manifest["kind"] != "Node" or not item.uid:
        return item.manifest
    return {**item.manifest, "metadata": {**item.manifest["metadata"], "uid": item.uid}}


# ------------------------------------------------------------------ errors

_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"field is immutable|may not (?:be changed|change)|updates to \w+ are forbidden|is immutable|cannot change roleRef",
        "This field cannot be changed. Delete the object yourself if nothing needs it, then run again, or give the new one another name.",
    ),
    (
        r"unknown field|strict decoding error|cannot be handled as|error validating|cannot unmarshal|failed to create typed patch object",
        "The manifest does not fit its kind. Correct it.",
    ),
    (r"namespaces \"[^\"]+\" not found", "Its namespace does not exist and is not among the manifests. Add it, or correct the name."),
    (
        r"no matches for kind|resource mapping not found|unable to recognize",
        "The cluster does not know this kind. Add its CustomResourceDefinition, or correct apiVersion and kind.",
    ),
    (r"[Ff]orbidden", "The kubeconfig's user may not do this, or an admission rule refuses it."),
    (r"executable file not found", "Install diffutils on the node: kubectl diff runs `diff`."),
)


def _refusal(api: Api, done: Completed, objects: Sequence[Manifest]) -> PifleetError:
    """The one clear error for a call that failed: which object, what the API says, what to do."""
    unasked = api.unasked(done)
    if unasked:
        return unasked
    said = _said(done)
    culprit = _culprit(api, said, objects)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, said)), "Correct the manifest.")
    return ManifestError(f"{ref(culprit) if culprit else 'one of the objects'}: {said}.", hint)


def _said(done: Completed) -> str:
    """The first lines of what kubectl complained about, without warnings and its own preamble, scrubbed."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.startswith(("Warning:", "W0", "I0"))]
    text = " ".join(lines[:3]) or f"kubectl ended with exit code {done.rc}"
    return scrub(re.sub(r"^(?:error: |Error from server(?: \(\w+\))?: )", "", text)).rstrip(". ")


def _culprit(api: Api, said: str, objects: Sequence[Manifest]) -> Manifest | None:
    """Which of *objects* an error is about: the one that it names with its kind, else the first that is refused alone with these words."""
    named = [manifest for manifest in objects if f'{manifest["kind"]} "{manifest["metadata"]["name"]}"' in said]
    candidates = named or objects
    if len(candidates) == 1:
        return candidates[0]
    refused = []
    for manifest in candidates:
        done = api.apply([manifest], dry_run=True)
        if not done.ok and _said(done) == said:
            return manifest
        if not done.ok and not _MISSING.search(done.stderr):
            refused.append(manifest)
    return refused[0] if refused else None
