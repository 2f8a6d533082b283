# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters that give the playbooks their plans: what Ansible registered in, a plan or a reason to refuse out."""

from __future__ import annotations

from ansible_collections.pifleet.ops.plugins.filter.k3s_reset_plan import k3s_reset_plan
from ansible_collections.pifleet.ops.plugins.filter.k3s_topology import k3s_topology
from ansible_collections.pifleet.ops.plugins.filter.k3s_upgrade_plan import k3s_upgrade_plan

OLD, NEW = "v1.34.4+k3s1", "v1.34.5+k3s1"


def facts(version: str = OLD, datastore: str | None = None) -> dict:
    k3s = {"version": version, "unit_state": {"active": "active"}, "datastore": datastore, "agent_data": True, "token": True}
    return {"pi_facts_result": {"pi": {"k3s": k3s, "address": "192.0.2.1"}}, "k3s_version": NEW}


def node(name: str, role: str, version: str = OLD, *, ready: bool = True, schedulable: bool = True) -> dict:
    return {
        "name": name,
        "roles": [role],
        "ready": ready,
        "not_ready_reason": "" if ready else "gone",
        "version": version,
        "internal_ip": "192.0.2.1",
        "schedulable": schedulable,
        "conditions": {},
        "labels": {},
        "annotations": {},
        "taints": [],
    }


def api(item: str, *nodes: dict) -> dict:
    return {"item": item, "reachable": True, "nodes": list(nodes)}


def test_the_upgrade_asks_the_first_server_that_answers():
    hostvars = {"s1": facts(), "s2": facts(), "A1": facts()}
    nodes = [node("s1", "control-plane"), node("s2", "control-plane"), node("a1", "worker")]
    apis = [{"item": "s1", "reachable": False, "nodes": []}, api("s2", *nodes)]
    plan = k3s_upgrade_plan(hostvars, NEW, ["s1", "s2", "A1"], ["s1", "s2"], ["s1", "s2", "A1"], [], apis)
    assert (plan["refused"], plan["api"], plan["hosts"], plan["evict"]) == ("", "s2", ["s1", "s2", "A1"], ["s1", "s2", "A1"])


def test_pods_of_the_only_node_have_nowhere_to_go():
    nodes = [node("s1", "control-plane"), node("a1", "worker", schedulable=False)]
    plan = k3s_upgrade_plan({"s1": facts(), "a1": facts()}, NEW, ["s1", "a1"], ["s1"], ["s1", "a1"], [], [api("s1", *nodes)])
    assert plan["evict"] == ["a1"]


def test_a_refusal_is_told_and_an_unreachable_host_is_one():
    plan = k3s_upgrade_plan(
        {"s1": facts(), "a1": {"pi_facts_result": {"unreachable": True}}}, NEW, ["s1", "a1"], ["s1"], ["s1", "a1"], [], []
    )
    assert "host a1 cannot be reached" in plan["refused"] and "hosts" not in plan


def test_the_reset_drains_only_what_is_up():
    nodes = [node("s1", "control-plane"), node("a1", "worker"), node("a2", "worker", ready=False)]
    plan = k3s_reset_plan(["s1", "a1", "a2"], ["s1"], ["a1", "a2"], [api("s1", *nodes)])
    assert (plan["whole"], plan["api"], plan["leaving"], plan["draining"]) == (False, "s1", ["a1", "a2"], ["a1"])
    assert (
        "No API answers on s1" in k3s_reset_plan(["s1", "a1"], ["s1"], ["a1"], [{"item": "s1", "reachable": False, "nodes": []}])["refused"]
    )
    assert k3s_reset_plan(["s1", "a1"], ["s1"], ["s1", "a1"], [])["whole"]
    assert "s1 did not answer" in k3s_reset_plan(["s1", "a1"], ["s1"], ["s1", "a1"], [], silent=["s1"])["refused"]


def test_the_topology_tells_conflicts_of_versions_and_whom_a_restored_cluster_is_joined_at():
    hostvars = {"s1": facts(datastore="sqlite"), "a1": facts(NEW)}
    topology = k3s_topology(hostvars, ["s1"], ["s1", "a1"])
    assert set(topology["version_conflicts"]) == {"s1", "a1"}
    assert k3s_topology(hostvars, ["s1"], ["s1", "a1"], restored="s1")["init"] == "s1"
