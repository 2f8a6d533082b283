# SPDX-License-Identifier: GPL-3.0-or-later
"""The API's nodes beside the expected ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import cluster
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import ApiUnreachableError, error_of


def node(name: str, *roles: str, ready: str = "True", version: str = "v1.34.4+k3s1", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {f"node-role.kubernetes.io/{role}": "true" for role in roles} | {"kubernetes.io/os": "linux"}},
        "spec": spec,
        "status": {
            "conditions": [
                {"type": "MemoryPressure", "status": "False"},
                {"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": "cni plugin not initialized"},
            ],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"kubeletVersion": version, "architecture": "arm64"},
        },
    }


def listed(*nodes: dict[str, Any]) -> tuple[cluster.Node, ...]:
    return cluster.parse_nodes(json.dumps({"kind": "List", "items": list(nodes)}))


def expected(**roles: str) -> tuple[cluster.Expected, ...]:
    return cluster.expected_nodes({"name": name, "role": role} for name, role in roles.items())


def test_a_node_as_the_api_has_it() -> None:
    (found,) = listed(node("pi-1", "control-plane", "etcd", unschedulable=True, taints=[{"key": "a", "effect": "NoSchedule"}]))
    assert (found.name, found.roles, found.role, found.ready, found.version) == (
        "pi-1",
        ("control-plane", "etcd"),
        "server",
        True,
        "v1.34.4+k3s1",
    )
    assert (found.internal_ip, found.schedulable, found.architecture) == ("10.0.0.1", False, "arm64")
    assert found.conditions == {"MemoryPressure": "False", "Ready": "True"}
    assert found.taints == ({"key": "a", "effect": "NoSchedule"},)
    assert found.not_ready_reason == ""


@pytest.mark.parametrize(
    ("roles", "shown", "role"),
    [
        ((), ("worker",), "agent"),
        (("worker",), ("worker",), "agent"),
        (("etcd",), ("etcd",), "server"),
        (("control-plane", "master"), ("control-plane", "master"), "server"),
        (("edge",), ("edge",), "agent"),
    ],
)
def test_roles_come_from_labels(roles: tuple[str, ...], shown: tuple[str, ...], role: str) -> None:
    (found,) = listed(node("pi-1", *roles))
    assert (found.roles, found.role) == (shown, role)


def test_a_cluster_as_expected_is_settled() -> None:
    found = cluster.compare(listed(node("b"), node("a", "control-plane")), expected(a="server", b="agent"))
    assert found == cluster.NOTHING_KNOWN
    assert found.settled


def test_every_difference_is_listed_by_name() -> None:
    nodes = listed(node("d"), node("a"), node("b", ready="Unknown"), node("x"))
    found = cluster.compare(nodes, expected(a="server", b="agent", c="agent", d="agent"))
    assert (found.missing, found.unexpected, found.not_ready) == (("c",), ("x",), ("b",))
    assert found.role_mismatch == ({"name": "a", "expected": "server", "actual": "agent"},)
    assert not found.settled


def test_a_node_that_is_not_expected_holds_up_nothing() -> None:
    assert cluster.compare(listed(node("a"), node("x", ready="False")), expected(a="agent")).settled


def test_without_expectations_only_readiness_and_versions_are_judged() -> None:
    found = cluster.compare(listed(node("a", ready="False"), node("b")), ())
    assert (found.missing, found.unexpected, found.not_ready, found.role_mismatch) == ((), (), ("a",), ())


def test_a_node_that_is_not_ready_says_why() -> None:
    fresh = node("b")
    fresh["status"] = {}
    found = {entry.name: entry for entry in listed(node("a", ready="False"), fresh)}
    assert found["a"].not_ready_reason == "cni plugin not initialized"
    assert (found["b"].ready, found["b"].not_ready_reason) == (False, "no Ready condition yet")


@pytest.mark.parametrize(
    ("kubelet", "supported", "words"),
    [
        ("v1.34.3+k3s1", True, "other patch"),
        ("v1.34.4+k3s2", True, "other patch"),
        ("v1.31.9+k3s1", True, "within the supported skew"),
        ("v1.30.9+k3s1", False, "more than 3 minor versions behind"),
        ("v1.35.0+k3s1", False, "newer than the API server"),
    ],
)
def test_version_skew_lists_each_node_with_what_kubernetes_supports(kubelet: str, supported: bool, words: str) -> None:
    found = cluster.compare(listed(node("a", "control-plane"), node("b", version=kubelet), node("c")), ())
    (skew,) = found.version_skew
    assert (skew["name"], skew["version"], skew["api_version"], skew["supported"]) == ("b", kubelet, "v1.34.4+k3s1", supported)
    assert words in skew["reason"]


def test_the_newest_server_stands_for_the_api_in_an_upgrade() -> None:
    servers = node("a", "control-plane", version="v1.34.4+k3s1"), node("b", "control-plane", version="v1.33.1+k3s1")
    assert [skew["name"] for skew in cluster.compare(listed(*servers), ()).version_skew] == ["b"]


def test_expected_names_are_compared_in_lower_case() -> None:
    assert cluster.expected_nodes([{"name": "Pi-1.LOCAL", "role": "agent"}]) == (cluster.Expected("pi-1.local", "agent"),)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"name": "a", "role": "worker"}], "'worker'"),
        ([{"name": "a", "role": "agent"}, {"name": "A", "role": "server"}], "listed twice"),
    ],
)
def test_wrong_expectations_are_refused(entries: list[dict[str, str]], words: str) -> None:
    with pytest.raises(cluster.ClusterError, match=words):
        cluster.expected_nodes(entries)


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"items": [{}]}', "null"])
def test_what_is_no_node_list_is_one_error(text: str) -> None:
    with pytest.raises(cluster.ClusterError, match="cannot be read"):
        cluster.parse_nodes(text)


@pytest.mark.parametrize(
    ("stderr", "waiting_helps", "words"),
    [
        ("The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?", True, "no API answers"),
        ("Unable to connect to the server: net/http: TLS handshake timeout", True, "no API answers"),
        ("Unable to connect to the server: dial tcp 10.0.0.9:6443: i/o timeout", True, "no API answers"),
        ("Error from server (ServiceUnavailable): apiserver not ready", True, "no API answers"),
        ("error: stat /k/config: no such file or directory", True, "cannot be used"),
        ("error: You must be logged in to the server (Unauthorized)", False, "refuses the credentials"),
        (
            "Unable to connect to the server: tls: failed to verify certificate: x509: certificate signed by unknown authority",
            False,
            "clocks",
        ),
        (
            'error: error loading config file "/k/config": yaml: line 2: mapping values are not allowed in this context',
            True,
            "cannot be used",
        ),
        ("error: unknown flag: --nope", False, "kubectl failed"),
        (
            'Error from server (InternalError): failed calling webhook "policy.example": dial tcp: connection refused',
            False,
            "failed calling webhook",
        ),
    ],
)
def test_a_failed_call_is_one_clear_error(stderr: str, waiting_helps: bool, words: str) -> None:
    error = error_of(Completed(("kubectl",), 1, "", stderr), "/k/config")
    assert isinstance(error, ApiUnreachableError) is waiting_helps
    assert words in str(error)


def test_a_call_that_did_not_end_in_time_is_no_answer() -> None:
    assert isinstance(error_of(Completed(("kubectl",), 124, "", "kubectl: no end after 10 seconds"), "/k/config"), ApiUnreachableError)


def test_no_kubectl_says_so() -> None:
    error = error_of(Completed(("kubectl",), 127, "", "kubectl: no such program"), "/k/config")
    assert "there is no kubectl here" in str(error)
