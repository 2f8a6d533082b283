# SPDX-License-Identifier: GPL-3.0-or-later
"""k3s_manifests at the lab's API server. What it did is looked up with kubectl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.k3s.conftest import Module
from tests.support.fleet import Fleet

Object = dict[str, Any]
VALUE = "Tr0ub4dor-and-3"


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def config_map(space: str, name: str = "settings", **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": space}, "data": data or {"colour": "green"}}


def secret(space: str, value: str = VALUE) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "namespace": space}, "stringData": {"key": value}}


def node(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "lamps.pifleet.test"},
    "spec": {
        "group": "pifleet.test",
        "scope": "Namespaced",
        "names": {"kind": "Lamp", "plural": "lamps"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def lamp(space: str) -> Object:
    return {"apiVersion": "pifleet.test/v1", "kind": "Lamp", "metadata": {"name": "desk", "namespace": space}, "spec": {"on": True}}


@pytest.fixture(scope="module", autouse=True)
def labels_restored(fleet: Fleet) -> Iterator[None]:
    """What the tests set on nodes is taken back by the run that owns it, once, at the end."""
    before = {name: node["metadata"] for name, node in fleet.nodes().items()}
    yield
    fleet.play("--tags", "always,post_bootstrap").require()
    after = {name: node["metadata"] for name, node in fleet.nodes().items()}
    assert {name: meta["labels"] for name, meta in after.items()} == {name: meta["labels"] for name, meta in before.items()}


@pytest.fixture
def no_lamps(fleet: Fleet) -> Iterator[None]:
    yield
    fleet.kubectl("delete", "crd", "lamps.pifleet.test", "--ignore-not-found")


def states(result: Object) -> dict[str, str]:
    assert "msg" not in result, result["msg"]
    return {entry["ref"]: entry["state"] for entry in result["objects"]}


def data_of(fleet: Fleet, space: str, name: str = "settings") -> Object:
    return dict(json.loads(fleet.kubectl("-n", space, "get", "configmap", name, "-o", "json"))["data"])


def exists(fleet: Fleet, *what: str) -> bool:
    return bool(fleet.kubectl("get", *what, "--ignore-not-found", "-o", "name").strip())


def test_check_predicts_the_apply_and_both_settle(fleet: Fleet, module: Module, server: str, space: str, no_lamps: None) -> None:
    """The quartet, with objects whose namespace and kind do not exist yet, given in the wrong order."""
    options = {"objects": [lamp(space), secret(space), config_map(space), DEFINITION, namespace(space)]}
    predicted = module(server, "k3s_manifests", options, check=True)
    assert predicted["changed"]
    assert set(states(predicted).values()) == {"created"}
    assert not exists(fleet, "namespace", space)
    assert not exists(fleet, "crd", "lamps.pifleet.test")

    applied = module(server, "k3s_manifests", options)
    for key in ("changed", "objects", "plan", "plan_digest", "diff_text", "drift"):
        assert applied[key] == predicted[key], key
    assert data_of(fleet, space) == {"colour": "green"}
    assert json.loads(fleet.kubectl("-n", space, "get", "lamp", "desk", "-o", "json"))["spec"] == {"on": True}

    for check in (True, False):
        settled = module(server, "k3s_manifests", options, check=check)
        assert (settled["changed"], settled["diff_text"], settled["drift"]) == (False, "", [])
        assert set(states(settled).values()) == {"unchanged"}


def test_an_edit_is_reported_as_drift_and_repaired_and_a_new_desired_state_is_not_drift(
    fleet: Fleet, module: Module, server: str, space: str
) -> None:
    module(server, "k3s_manifests", {"objects": [namespace(space), config_map(space)]})
    fleet.kubectl("-n", space, "patch", "configmap", "settings", "-p", """'{"data": {"colour": "red", "extra": "mine"}}'""")
    for check in (True, False):
        found = module(server, "k3s_manifests", {"objects": [namespace(space), config_map(space)]}, check=check)
        assert found["changed"]
        assert states(found)[f"ConfigMap/{space}/settings"] == "drifted"
        (drift,) = found["drift"]
        assert "-  colour: red\n+  colour: green" in drift["diff"]
    assert data_of(fleet, space) == {"colour": "green", "extra": "mine"}  # a field that is nobody's business here stays

    changed = module(server, "k3s_manifests", {"objects": [namespace(space), config_map(space, colour="blue")]})
    assert (states(changed)[f"ConfigMap/{space}/settings"], changed["drift"]) == ("configured", [])
    assert data_of(fleet, space) == {"colour": "blue", "extra": "mine"}


def test_a_value_of_a_secret_is_nowhere(fleet: Fleet, module: Module, server: str, space: str) -> None:
    results = [module(server, "k3s_manifests", {"objects": [namespace(space), secret(space)]}, check=check) for check in (True, False)]
    results.append(module(server, "k3s_manifests", {"objects": [namespace(space), secret(space, f"{VALUE}-new")]}))
    assert states(results[-1])[f"Secret/{space}/key"] == "configured"
    for result in results:
        shown = {key: value for key, value in result.items() if key != "invocation"}
        assert VALUE not in json.dumps(shown)
        assert "VHIwdWI0ZG9y" not in json.dumps(shown)  # nor its base64
    stored = fleet.kubectl("-n", space, "get", "secret", "key", "-o", "jsonpath={.data.key}")
    assert stored.startswith("VHIwdWI0ZG9y")


def test_a_refused_object_is_named_and_nothing_is_applied(fleet: Fleet, module: Module, server: str, space: str) -> None:
    fleet.kubectl("create", "namespace", space)
    wrong = [
        ({**config_map(space, "b"), "dta": {"x": "y"}}, f"ConfigMap/{space}/b:", "Correct it"),
        ({**config_map(space, "b"), "data": {"x": [1]}}, f"ConfigMap/{space}/b:", "Correct it"),
        (config_map(space, "Not_A_Name"), f"ConfigMap/{space}/Not_A_Name:", "Correct the manifest"),
        (config_map("no-such-namespace", "b"), "ConfigMap/no-such-namespace/b:", "namespace does not exist"),
        ({**lamp(space), "apiVersion": "nobody.test/v1"}, f"Lamp/{space}/desk:", "CustomResourceDefinition"),
    ]
    for manifest, where, advice in wrong:
        failed = module(server, "k3s_manifests", {"objects": [config_map(space, "a"), manifest]})
        assert failed["msg"].startswith(where), failed["msg"]
        assert advice in failed["msg"]
        assert "Traceback" not in json.dumps(failed)
    assert not exists(fleet, "-n", space, "configmap", "a")


def test_a_field_that_cannot_change_is_one_clear_error(module: Module, server: str) -> None:
    storage = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local-path"}, "provisioner": "other"}
    failed = module(server, "k3s_manifests", {"objects": [storage]})
    assert failed["msg"].startswith("StorageClass/local-path: ")
    assert "cannot be changed" in failed["msg"]


def test_a_node_gets_its_labels_and_one_that_is_not_there_is_never_made(fleet: Fleet, module: Module, server: str, worker: str) -> None:
    label = "pifleet.test/shelf"
    options = {"objects": [node(worker, **{label: "upper"}), node("nobody.local", **{label: "upper"})]}
    predicted = module(server, "k3s_manifests", {**options, "joining": []}, check=True)
    applied = module(server, "k3s_manifests", options)
    assert states(predicted) == states(applied) == {"Node/nobody.local": "absent", f"Node/{worker}": "configured"}
    assert fleet.nodes()[worker]["metadata"]["labels"][label] == "upper"
    assert set(fleet.nodes()) == set(fleet.hosts)
    assert not module(server, "k3s_manifests", options)["changed"]


def test_taints_of_others_stay(fleet: Fleet, module: Module, server: str, worker: str) -> None:
    ours = {"key": "pifleet.test/ours", "value": "a", "effect": "PreferNoSchedule"}
    tainted = {**node(worker), "spec": {"taints": [ours]}}
    fleet.kubectl("cordon", worker)
    try:
        for objects in ([tainted], [tainted], [node(worker)]):
            assert "msg" not in module(server, "k3s_manifests", {"objects": objects})
            keys = {taint["key"] for taint in fleet.nodes()[worker]["spec"]["taints"]}
            assert keys == {"node.kubernetes.io/unschedulable"} | ({ours["key"]} if objects == [tainted] else set())
    finally:
        fleet.kubectl("uncordon", worker)


def test_looking_leaves_nothing_on_the_node(fleet: Fleet, module: Module, server: str) -> None:
    # runc keeps a file of its own in /tmp while a container of the node starts or is probed.
    listing = "ls -A /root /root/.kube /tmp 2>/dev/null | grep -v -e ansible -e runc-process"
    before = fleet.sh(server, listing, check=False)
    module(server, "k3s_manifests", {"objects": [namespace("default")]}, check=True)
    module(server, "k3s_cluster_info", {})
    assert fleet.sh(server, listing, check=False) == before


def test_no_api_is_one_clear_error_and_in_a_check_a_prediction(module: Module, worker: str) -> None:
    options = {"objects": [namespace("pifleet-test"), node(worker, a="b")]}
    failed = module(worker, "k3s_manifests", options)
    assert failed["msg"].startswith("kubeconfig /etc/rancher/k3s/k3s.yaml cannot be used")
    predicted = module(worker, "k3s_manifests", options, check=True)
    assert states(predicted) == {"Namespace/pifleet-test": "created", f"Node/{worker}": "configured"}
    assert not predicted["reachable"]
