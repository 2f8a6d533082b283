# SPDX-License-Identifier: GPL-3.0-or-later
"""k3s_cluster_info at the lab's API server, beside what kubectl says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.k3s.conftest import Module
from tests.support.fleet import Fleet

#: seconds that one look at the cluster may take where the machine has much else to do
LOOK = 30


def expected(fleet: Fleet) -> list[dict[str, str]]:
    return [{"name": host, "role": "server" if host in fleet.servers else "agent"} for host in fleet.hosts]


def differences(result: dict[str, Any]) -> dict[str, Any]:
    assert "msg" not in result, result["msg"]
    return {key: result[key] for key in ("missing", "unexpected", "not_ready", "role_mismatch", "version_skew") if result[key]}


def test_a_converged_cluster_is_what_the_inventory_says(fleet: Fleet, module: Module, server: str) -> None:
    for check in (True, False):
        found = module(server, "k3s_cluster_info", {"expected": expected(fleet), "timeout": 120}, check=check)
        assert differences(found) == {}
        assert (found["changed"], found["reachable"]) == (False, True)
        assert found["waited"] < LOOK
    by_kubectl = fleet.nodes()
    assert [node["name"] for node in found["nodes"]] == sorted(by_kubectl)
    for node in found["nodes"]:
        there = by_kubectl[node["name"]]
        assert node["ready"]
        assert node["role"] == ("server" if node["name"] in fleet.servers else "agent")
        assert node["version"] == there["status"]["nodeInfo"]["kubeletVersion"]
        assert node["internal_ip"] == fleet.address(node["name"])
        assert node["labels"] == there["metadata"]["labels"]


def test_every_difference_is_listed(fleet: Fleet, module: Module, server: str, worker: str) -> None:
    wanted = [entry for entry in expected(fleet) if entry["name"] != server]
    wanted = [{**entry, "role": "server"} if entry["name"] == worker else entry for entry in wanted]
    found = module(server, "k3s_cluster_info", {"expected": [*wanted, {"name": "Nobody.local", "role": "agent"}]})
    assert differences(found) == {
        "missing": ["nobody.local"],
        "unexpected": [server],
        "role_mismatch": [{"name": worker, "expected": "server", "actual": "agent"}],
    }


def test_waiting_ends_at_the_timeout_with_what_is_missing(fleet: Fleet, module: Module, server: str) -> None:
    found = module(server, "k3s_cluster_info", {"expected": [{"name": "nobody.local", "role": "agent"}], "timeout": 4})
    assert found["missing"] == ["nobody.local"]
    assert 4 <= found["waited"] < 4 + LOOK


@pytest.fixture
def without_api(fleet: Fleet, server: str) -> Iterator[None]:
    fleet.sh(server, "cp /etc/rancher/k3s/k3s.yaml /run/other.yaml && sed -i 's/:6443/:6449/' /run/other.yaml")
    yield
    fleet.sh(server, "rm -f /run/other.yaml")


def test_an_api_that_does_not_answer_is_one_clear_error(module: Module, server: str, without_api: None) -> None:
    failed = module(server, "k3s_cluster_info", {"kubeconfig": "/run/other.yaml"})
    assert "no API answers at the server of /run/other.yaml" in failed["msg"]
    found = module(server, "k3s_cluster_info", {"kubeconfig": "/run/other.yaml", "api_expected": False, "timeout": 300}, check=True)
    assert (found["reachable"], found["nodes"], differences(found)) == (False, [], {})
    assert found["waited"] < LOOK


def a_node_that_stopped_is_not_ready(fleet: Fleet, module: Module, server: str, worker: str) -> None:
    """The node controller notices after its grace period (40 s), so this waits for the opposite of what the module waits for."""
    fleet.sh(worker, "systemctl stop k3s-agent")
    try:
        fleet.kubectl("wait", "--for=condition=Ready=Unknown", f"node/{worker}", "--timeout=90s")
        found = module(server, "k3s_cluster_info", {"expected": expected(fleet)})
        assert differences(found) == {"not_ready": [worker]}
        (stopped,) = (node for node in found["nodes"] if node["name"] == worker)
        assert "kubelet" in stopped["not_ready_reason"].lower()
    finally:
        fleet.sh(worker, "systemctl start --no-block k3s-agent")
    healed = module(server, "k3s_cluster_info", {"expected": expected(fleet), "timeout": 60})
    assert differences(healed) == {}


if os.environ.get("PIFLEET_TEST_FULL"):  # the node controller's grace period makes it a test of a minute
    test_a_node_that_stopped_is_not_ready = a_node_that_stopped_is_not_ready
