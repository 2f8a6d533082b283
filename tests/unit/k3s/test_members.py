# SPDX-License-Identifier: GPL-3.0-or-later
"""No node leaves its cluster at the price of etcd's quorum."""

from __future__ import annotations

import json

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.cluster import Node
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.members import REMOVE, REMOVED, Removal, plan_marks, plan_removal
from hypothesis import given
from hypothesis import strategies as st


def node(name: str, *, etcd: bool = False, ready: bool = True, voter: bool = True, removed: bool = False) -> Node:
    return Node(
        name=name,
        roles=("etcd",) if etcd else ("worker",),
        ready=ready,
        not_ready_reason="",
        version="v1.34.4+k3s1",
        internal_ip="",
        schedulable=True,
        conditions={"EtcdIsVoter": str(voter)} if etcd else {},
        labels={"node-role.kubernetes.io/etcd": "true"} if etcd else {},
        annotations={REMOVE: "true", REMOVED: f"{name}-1"} if removed else {},
        taints=(),
    )


def cluster(*nodes: Node) -> dict[str, Node]:
    return {n.name: n for n in nodes}


def test_an_agent_just_goes():
    assert plan_removal(cluster(node("s1", etcd=True), node("a1")), "a1") == Removal("a1", member=False, node=True)


def test_a_node_that_is_gone_needs_nothing():
    assert plan_removal(cluster(node("s1")), "a1") == Removal("a1", member=False, node=False)


def test_a_server_with_etcd_leaves_etcd_first_and_only_once():
    three = [node(f"s{n}", etcd=True) for n in (1, 2, 3)]
    assert plan_removal(cluster(*three), "s3") == Removal("s3", member=True, node=True)
    assert plan_removal(cluster(*three[:2], node("s3", etcd=True, removed=True)), "s3") == Removal("s3", member=False, node=True)


def test_a_server_without_etcd_just_goes():
    assert plan_removal(cluster(node("s1"), node("s2")), "s2") == Removal("s2", member=False, node=True)


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([node("s1", etcd=True)], "last member of etcd"),
        (
            [node("s1", etcd=True), node("s2", etcd=True), node("s3", etcd=True, ready=False)],
            "of the 2 members of etcd that would stay, 1 can vote",
        ),
        ([node("s1", etcd=True), node("s2", etcd=True), node("s3", etcd=True, voter=False)], "Mend s3 first"),
        ([node("s1", etcd=True), node("s2", etcd=True, removed=True)], "last member of etcd"),
    ],
)
def test_a_loss_of_quorum_is_refused(nodes, says):
    with pytest.raises(PifleetError, match=says):
        plan_removal(cluster(*nodes), "s1")


@given(st.lists(st.booleans(), min_size=1, max_size=7))
def test_what_may_leave_leaves_a_quorum_behind(health):
    nodes = cluster(*(node(f"s{n}", etcd=True, ready=ok) for n, ok in enumerate(health)))
    try:
        plan_removal(nodes, "s0")
    except PifleetError:
        return
    assert sum(health[1:]) >= (len(health) - 1) // 2 + 1
    assert sum(health) >= len(health) // 2 + 1


NODE = {
    "metadata": {"resourceVersion": "7", "labels": {"disk": "ssd"}},
    "spec": {"taints": [{"key": "gpu", "effect": "NoSchedule", "value": "only"}]},
}


def test_only_what_a_node_lacks_is_added():
    marks = plan_marks(
        NODE, {"disk": "hdd", "shelf": "attic"}, [{"key": "gpu", "effect": "NoSchedule"}, {"key": "gpu", "effect": "NoExecute"}]
    )
    assert marks.added == ("label shelf=attic", "taint gpu:NoExecute")
    assert json.loads(marks.patch) == {
        "metadata": {"resourceVersion": "7", "labels": {"shelf": "attic"}},
        "spec": {"taints": [*NODE["spec"]["taints"], {"key": "gpu", "effect": "NoExecute"}]},
    }


def test_a_node_that_lacks_nothing_is_left_alone():
    assert plan_marks(NODE, {"disk": "ssd"}, NODE["spec"]["taints"]).added == ()
    assert plan_marks({}, {}, []).added == ()


def test_a_cordon_is_put_back_and_a_node_that_has_one_is_left_alone():
    marks = plan_marks(NODE, {}, [], cordoned=True)
    assert marks.added == ("cordon",)
    assert json.loads(marks.patch) == {"metadata": {"resourceVersion": "7", "labels": {}}, "spec": {"unschedulable": True}}
    assert plan_marks({**NODE, "spec": {**NODE["spec"], "unschedulable": True}}, {}, [], cordoned=True).added == ()
    both = json.loads(plan_marks(NODE, {}, [{"key": "gpu", "effect": "NoExecute"}], cordoned=True).patch)
    assert both["spec"] == {"unschedulable": True, "taints": [*NODE["spec"]["taints"], {"key": "gpu", "effect": "NoExecute"}]}


def test_taints_are_not_sent_where_none_is_missing():
    assert "spec" not in json.loads(plan_marks(NODE, {"shelf": "attic"}, []).patch)
