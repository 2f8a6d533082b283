# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server-side apply would change, and why, from what kubectl says (recorded from kubectl v1.34.4 at a kube-apiserver v1.34.4)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import digest
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import manifests
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import unasked
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.manifests import Manifest, ManifestError, prepare

Object = dict[str, Any]


def namespace(name: str = "operations") -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def config_map(name: str = "c", space: str = "operations", **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": space}, "data": data or {"a": "1"}}


def node(name: str = "pi-4", **spec: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"x": "y"}}} | ({"spec": spec} if spec else {})


def secret(value: str = "hunter22hunter22") -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "operations"}, "stringData": {"plain": value}}


CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "foos.ex.io"},
    "spec": {"group": "ex.io", "names": {"kind": "Foo", "plural": "foos"}},
}
FOO = {"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": "f"}}


def desired(manifest: Manifest) -> str:
    return str(manifest["metadata"]["annotations"][manifests.DESIRED])


def difference(name: str, live: str, merged: str) -> str:
    """A part of a diff with unlimited context, as GNU diff writes it for a file that changed as a whole."""
    head = f"diff -N -U 1000000 /tmp/LIVE-1/{name} /tmp/MERGED-2/{name}\n--- /tmp/LIVE-1/{name}\t2026\n+++ /tmp/MERGED-2/{name}\t2026\n"
    rows = [f"-{row}" for row in live.splitlines()] + [f"+{row}" for row in merged.splitlines()]
    return head + f"@@ -{int(bool(live))},{len(live.splitlines())} +1,{len(merged.splitlines())} @@\n" + "\n".join(rows) + "\n"


def live(manifest: Manifest, data: str = "1", generation: int = 1, digest_of: Manifest | None = None, status: str = "old") -> str:
    return (
        f'apiVersion: v1\ndata:\n  a: "{data}"\nkind: {manifest["kind"]}\nmetadata:\n  annotations:\n'
        f'    pifleet.ops/desired: {desired(digest_of or manifest)}\n  creationTimestamp: "2026-11-21T08:00:00Z"\n'
        f'  generation: {generation}\n  name: c\n  resourceVersion: "{generation}"\n  uid: 63699a39\nstatus:\n  phase: {status}\n'
    )


# ------------------------------------------------------------------ objects


def test_what_others_need_comes_first_whatever_the_order_given() -> None:
    objects = [FOO, config_map(), CRD, secret(), namespace("b"), namespace("a"), node()]
    wanted = [
        "Namespace/a",
        "Namespace/b",
        "CustomResourceDefinition/foos.ex.io",
        "Secret/operations/s",
        "ConfigMap/operations/c",
        "Foo/f",
        "Node/pi-4",
    ]
    for order in itertools.islice(itertools.permutations(objects), 0, 5040, 97):
        assert [manifests.ref(entry) for entry in prepare(order)] == wanted


def test_lists_are_unfolded_and_empty_documents_left_out() -> None:
    found = prepare(
        [None, {"apiVersion": "v1", "kind": "List", "items": [namespace("a"), None, {"kind": "List", "items": [namespace("b")]}]}]
    )
    assert [entry["metadata"]["name"] for entry in found] == ["a", "b"]


def test_the_digest_is_of_what_is_desired_and_of_nothing_else() -> None:
    (first,), (again,), (other,) = prepare([config_map()]), prepare(prepare([config_map()])), prepare([config_map(a="2")])
    assert desired(first) == desired(again)
    assert desired(first) != desired(other)
    reordered = dict(reversed(list(config_map().items())))
    assert desired(prepare([reordered])[0]) == desired(first)


def test_preparing_leaves_the_given_objects_alone() -> None:
    given = config_map()
    prepare([given])
    assert given == config_map()


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([1], "object 1 is no Kubernetes object but int"),
        (["kind: x"], "object 1 is no Kubernetes object but str"),
        ([namespace(), {"kind": "Pod", "metadata": {"name": "x"}}], r"object 2 \(Pod x\) has no apiVersion"),
        ([{"apiVersion": "v1", "metadata": {"name": "x"}}], "has no kind"),
        ([{"apiVersion": "v1", "kind": "Pod"}], "has no metadata.name"),
        ([{"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "x-"}}], "has no metadata.name"),
        ([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "annotations": [1]}}], "annotations"),
        ([namespace(), config_map(), config_map()], "ConfigMap/operations/c is there twice"),
    ],
)
def test_what_is_no_object_is_one_error_that_says_which(objects: list[Any], words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        prepare(objects)


# ------------------------------------------------------------------ states


def items(manifest: Manifest, live_text: str, merged: str, name: str = "v1.ConfigMap.operations.c") -> manifests.Item:
    (found,) = manifests.items_of([manifest], difference(name, live_text, merged))
    return found


def test_an_object_that_is_in_no_diff_is_unchanged() -> None:
    (found,) = manifests.items_of(prepare([config_map()]), "")
    assert (found.state, found.changes, found.diff) == (manifests.UNCHANGED, False, "")


def test_an_object_that_is_not_there_is_created() -> None:
    (manifest,) = prepare([config_map()])
    found = items(manifest, "", live(manifest))
    assert found.state == manifests.CREATED
    assert json.loads(found.after)["data"] == {"a": "1"}


def test_a_secret_that_is_not_there_is_created_too() -> None:
    (manifest,) = prepare([secret()])
    assert items(manifest, "null\n", "apiVersion: v1\n", "v1.Secret.operations.s").state == manifests.CREATED


def test_an_edit_by_somebody_is_drift() -> None:
    (manifest,) = prepare([config_map()])
    found = items(manifest, live(manifest, "edited"), live(manifest, "1", 2))
    assert found.state == manifests.DRIFTED
    assert found.diff.splitlines()[2:] == [
        "@@ -1,6 +1,6 @@",
        " apiVersion: v1",
        " data:",
        '-  a: "edited"',
        '+  a: "1"',
        f" kind: {manifest['kind']}",
        " metadata:",
        "   annotations:",
    ]


def test_a_new_desired_state_is_configured() -> None:
    (manifest,), (before,) = prepare([config_map()]), prepare([config_map(a="0")])
    assert items(manifest, live(manifest, "0", digest_of=before), live(manifest, "1", 2)).state == manifests.CONFIGURED


def test_an_object_of_somebody_else_is_configured() -> None:
    (manifest,) = prepare([config_map()])
    theirs = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n"
    assert items(manifest, theirs, live(manifest)).state == manifests.CONFIGURED


def test_a_status_that_moved_between_two_looks_is_no_change() -> None:
    (manifest,) = prepare([config_map()])
    assert items(manifest, live(manifest, generation=1, status="a"), live(manifest, generation=2, status="b")).state == manifests.UNCHANGED


def test_an_edit_that_only_a_masked_value_shows_is_drift_all_the_same() -> None:
    (manifest,) = prepare([config_map()])
    texts = [live(manifest).replace("  a:", "  password:").replace('"1"', value) for value in ("one-secret", "another-secret")]
    found = items(manifest, *texts)
    assert found.state == manifests.DRIFTED
    assert "secret" not in found.before + found.after


def test_objects_are_found_in_the_diff_by_group_namespace_and_name() -> None:
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:x"}}
    plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    objects = prepare([role, plain, config_map()])
    diff = difference("rbac.authorization.k8s.io.v1.ClusterRole..system:x", "", "x: 1\n") + difference(
        "v1.ConfigMap.default.c", "", "x: 1\n"
    )
    assert {item.ref: item.state for item in manifests.items_of(objects, diff)} == {
        "ClusterRole/system:x": "created",
        "ConfigMap/c": "created",
        "ConfigMap/operations/c": "unchanged",
    }


def test_text_that_looks_like_a_diff_inside_an_object_is_just_text() -> None:
    (manifest,) = prepare([config_map()])
    inner = "apiVersion: v1\ndata:\n  a: |\n    diff -u a b\n    --- a\n    +++ b\n    @@ -1 +1 @@\nkind: ConfigMap\n"
    found = items(manifest, inner, inner.replace("-1 +1", "-2 +2"))
    assert "@@ -1 +1 @@" in found.before
    assert "@@ -2 +2 @@" in found.after


# ------------------------------------------------------------------ secrets


SECRET_AS_KUBECTL_PRINTS_IT = """\
apiVersion: v1
data:
  key: '*** (before)'
  raw: aHVudGVyMjI=
  long: |
    hunter22
    hunter22
kind: Secret
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"stringData":{"password":"hunter22"}}
    pifleet.ops/desired: sha256:abc
    note: hunter22
  labels:
    app: x
  name: s
type: Opaque
"""

SECRET_AS_SHOWN = """\
apiVersion: v1
data:
  key: '*** (before)'
  raw: ********
  long: ********
kind: Secret
metadata:
  annotations:
    pifleet.ops/desired: ********
    note: ********
  labels:
    app: x
  name: s
type: Opaque
"""


def test_no_value_of_a_secret_is_shown_nor_the_digest_that_gives_a_weak_one_away() -> None:
    shown = manifests.presentable(SECRET_AS_KUBECTL_PRINTS_IT, secret=True)
    assert shown.replace("'******** (before)'", "'*** (before)'") == SECRET_AS_SHOWN
    (manifest,) = prepare([secret("hunter22hunter22")])
    assert "hunter22" not in manifests.rendered(manifest)
    assert desired(manifest) not in manifests.rendered(manifest)


OBJECT_AS_KUBECTL_PRINTS_IT = """\
data:
  status: mine
  uid: mine
kind: X
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {}
    uid: mine
  generation: 3
  name: c
  uid: 1
spec:
  generation: 5
status:
  conditions:
  - a
"""

OBJECT_AS_SHOWN = """\
data:
  status: mine
  uid: mine
kind: X
metadata:
  annotations:
    uid: mine
  name: c
spec:
  generation: 5
"""


def test_what_the_server_sets_is_not_shown_and_the_same_names_elsewhere_are() -> None:
    assert manifests.presentable(OBJECT_AS_KUBECTL_PRINTS_IT, secret=False) == OBJECT_AS_SHOWN


# ------------------------------------------------------------------ nodes


def test_a_node_is_never_created() -> None:
    (manifest,) = prepare([node()])
    diff = difference("v1.Node..pi-4", "", "x: 1\n")
    assert [item.state for item in manifests.items_of([manifest], diff)] == [manifests.ABSENT]
    assert [item.state for item in manifests.items_of([manifest], diff, ["pi-4"])] == [manifests.CONFIGURED]
    assert [item.state for item in manifests.items_of([manifest], diff, ["pi-5"])] == [manifests.ABSENT]


def test_a_node_that_is_gone_by_the_time_of_the_apply_is_refused_instead_of_created() -> None:
    (manifest,) = prepare([node()])
    diff = difference("v1.Node..pi-4", "kind: Node\nmetadata:\n  name: pi-4\n  uid: 63699a39\n", live(manifest))
    api = Replay([Completed((), 1, diff, "")])
    manifests.carry_out(api, manifests.make_plan(api, [manifest]))
    assert [entry["metadata"]["uid"] for entry in api.applied] == ["63699a39"]  # the API creates nothing under a uid that is given


MINE, THEIRS = {"key": "mine", "effect": "NoSchedule"}, {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("wanted", "there", "annotation", "expected"),
    [
        ([MINE], [THEIRS], None, [MINE, THEIRS]),
        ([MINE], [{**MINE, "value": "old"}, THEIRS], "mine:NoSchedule", [MINE, THEIRS]),
        ([], [MINE, THEIRS], "mine:NoSchedule", [THEIRS]),
        ([], [THEIRS], "", [THEIRS]),
        ([], [THEIRS], None, None),
    ],
)
def test_taints_that_others_set_stay(wanted: list[Any], there: list[Any], annotation: str | None, expected: list[Any] | None) -> None:
    (manifest,) = prepare([node(taints=wanted) if wanted else node()])
    annotations = {} if annotation is None else {manifests.TAINTS: annotation}
    found = manifests.with_live_taints(manifest, {"metadata": {"name": "pi-4", "annotations": annotations}, "spec": {"taints": there}})
    assert (found.get("spec") or {}).get("taints") == expected
    assert (manifests.TAINTS in found["metadata"]["annotations"]) is (expected is not None)
    assert desired(found) == desired(manifest)


# ------------------------------------------------------------------ plan


@dataclass
class Replay:
    """The API as a list of answers: what each diff says, and which objects an apply refuses, and how."""

    diffs: list[Completed]
    refused: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, list[str]]] = field(default_factory=list)
    applied: list[Manifest] = field(default_factory=list)

    def _note(self, what: str, objects: Sequence[Manifest]) -> None:
        self.calls.append((what, [manifests.ref(entry) for entry in objects]))

    def diff(self, objects: Sequence[Manifest]) -> Completed:
        self._note("diff", objects)
        return self.diffs.pop(0)

    def apply(self, objects: Sequence[Manifest], *, dry_run: bool) -> Completed:
        self._note("try" if dry_run else "apply", objects)
        self.applied += [] if dry_run else objects
        said = [self.refused[manifests.ref(entry)] for entry in objects if manifests.ref(entry) in self.refused]
        return Completed(("kubectl",), int(bool(said)), "", "\n".join(said))

    def nodes(self, names: Sequence[str]) -> Completed:
        self._note("nodes", [])
        return Completed(("kubectl",), 0, '{"items": []}', "")

    def wait_for_kinds(self, definitions: Sequence[str]) -> Completed:
        self.calls.append(("wait", list(definitions)))
        return Completed(("kubectl",), 0, "", "")

    def unasked(self, done: Completed) -> PifleetError | None:
        return unasked(done, "/k")


def said(rc: int, out: str = "", err: str = "") -> Completed:
    return Completed(("kubectl", "diff"), rc, out, err)


SPACE, MAP = "Namespace/operations", "ConfigMap/operations/c"
NEW_SPACE = difference("v1.Namespace..operations", "", "x: 1\n")
NEW_MAP = difference("v1.ConfigMap.operations.c", "", "x: 1\n")
NO_SPACE = 'Error from server (NotFound): namespaces "operations" not found'


def test_a_cluster_as_desired_costs_one_question() -> None:
    api = Replay([said(0)])
    plan = manifests.carry_out(api, manifests.make_plan(api, prepare([namespace(), config_map()])))
    assert plan.changes == ()
    assert [what for what, _ in api.calls] == ["diff"]


def test_only_what_differs_is_tried_and_applied() -> None:
    api = Replay([said(1, NEW_MAP)])
    manifests.carry_out(api, manifests.make_plan(api, prepare([namespace(), config_map()])))
    assert api.calls[1:] == [("try", [MAP]), ("apply", [MAP])]


def test_a_plan_changes_nothing() -> None:
    api = Replay([said(1, NEW_MAP)])
    plan = manifests.make_plan(api, prepare([namespace(), config_map()]))
    assert [change.target for change in plan.changes] == [MAP]
    assert "apply" not in [what for what, _ in api.calls]


def test_what_needs_a_missing_namespace_is_diffed_after_it_is_there() -> None:
    api = Replay([said(2, "", NO_SPACE), said(1, NEW_SPACE), said(1, NEW_MAP)])
    plan = manifests.make_plan(api, prepare([config_map(), namespace()]))
    predicted = [(item.ref, item.state) for item in plan.items]
    assert predicted == [(SPACE, "created"), (MAP, "created")]
    done = manifests.carry_out(api, plan)
    assert [(item.ref, item.state) for item in done.items] == predicted
    assert digest(done.changes) == digest(plan.changes)
    assert api.calls == [
        ("diff", [SPACE, MAP]),
        ("diff", [SPACE]),
        ("try", [SPACE]),
        ("apply", [SPACE]),
        ("diff", [MAP]),
        ("apply", [MAP]),
    ]


def test_what_needs_a_missing_kind_waits_for_it() -> None:
    no_kind = 'error: resource mapping not found for name: "f" namespace: "" from "STDIN": no matches for kind "Foo" in version "ex.io/v1"'
    new_kind = difference("apiextensions.k8s.io.v1.CustomResourceDefinition..foos.ex.io", "", "x: 1\n")
    api = Replay([said(2, "", no_kind), said(1, new_kind), said(1, difference("ex.io.v1.Foo..f", "", "x: 1\n"))])
    manifests.carry_out(api, manifests.make_plan(api, prepare([FOO, CRD])))
    assert [what for what, _ in api.calls] == ["diff", "diff", "try", "apply", "wait", "diff", "apply"]


def test_an_object_whose_namespace_nobody_makes_is_named() -> None:
    missing = 'Error from server (NotFound): namespaces "nope" not found'
    api = Replay([said(2, "", missing), said(2, "", missing)], refused={"ConfigMap/nope/c": missing})
    with pytest.raises(ManifestError, match=r"ConfigMap/nope/c: namespaces .nope. not found\. Its namespace does not exist"):
        manifests.make_plan(api, prepare([namespace(), config_map(), config_map(space="nope")]))


IMMUTABLE = 'The StorageClass "local-path" is invalid: provisioner: Forbidden: updates to provisioner are forbidden.'
STORAGE = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local-path"}, "provisioner": "other"}


def test_an_immutable_field_names_the_object_and_what_to_do() -> None:
    with pytest.raises(ManifestError, match=r"^StorageClass/local-path: .*Delete the object yourself"):
        manifests.make_plan(Replay([said(2, "", IMMUTABLE)]), prepare([namespace(), STORAGE]))


def test_a_wrong_manifest_is_refused_before_anything_is_applied() -> None:
    strict = (
        "Error from server: failed to create typed patch object (operations/c; /v1, Kind=ConfigMap): .dta: field not declared in schema"
    )
    api = Replay([said(1, NEW_SPACE + NEW_MAP)], refused={MAP: strict})
    with pytest.raises(ManifestError, match=r"^ConfigMap/operations/c: .*The manifest does not fit its kind"):
        manifests.make_plan(api, prepare([namespace(), config_map()]))
    assert "apply" not in [what for what, _ in api.calls]


def test_an_error_that_names_no_object_is_that_of_the_one_refused_with_these_words() -> None:
    words = "Error from server: something about one of them"
    api = Replay([said(2, "", words)], refused={SPACE: "Error from server: another thing", MAP: words})
    with pytest.raises(ManifestError, match=r"^ConfigMap/operations/c: something about one of them"):
        manifests.make_plan(api, prepare([namespace(), config_map()]))


def test_an_api_that_is_down_is_no_fault_of_an_object() -> None:
    down = "The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?"
    with pytest.raises(PifleetError, match="no API answers"):
        manifests.make_plan(Replay([said(2, "", down)]), prepare([namespace(), config_map()]))


def test_without_an_api_everything_is_predicted_as_created_and_nodes_as_configured_once_they_join() -> None:
    plan = manifests.plan_without_api(prepare([namespace(), config_map(), node("a"), node("b")]), ["a"])
    assert [item.state for item in plan.items] == ["created", "created", "configured", "absent"]


def test_equal_plans_have_equal_digests() -> None:
    one = manifests.plan_without_api(prepare([namespace(), config_map()]))
    other = manifests.plan_without_api(prepare([config_map(), namespace()]))
    assert digest(one.changes) == digest(other.changes)
    assert digest(one.changes) != digest(manifests.plan_without_api(prepare([namespace()])).changes)
