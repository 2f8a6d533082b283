# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pods leave a node, what blocks them, and whose cordon is lifted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import drain
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.cluster import Node

WEB = drain.Pod("default", "web-1", "Running", "ReplicaSet", False, False, {"app": "web"})
NODE = Node("a1", ("worker",), True, "", "v1.34.4+k3s1", "192.0.2.1", True, {}, {}, {}, ())


def listing(*items: dict) -> str:
    return json.dumps({"items": list(items)})


def item(name: str, *, kind: str | None = "ReplicaSet", phase: str = "Running", volumes=(), annotations=None, labels=None) -> dict:
    owners = [{"kind": kind, "controller": True}] if kind else []
    meta = {"namespace": "default", "name": name, "ownerReferences": owners, "annotations": annotations, "labels": labels}
    return {"metadata": meta, "spec": {"volumes": list(volumes)}, "status": {"phase": phase}}


def test_daemon_and_static_pods_stay():
    pods = drain.pods_of(
        listing(
            item("web-1"),
            item("log-1", kind="DaemonSet"),
            item("static-1", kind="Node", annotations={"kubernetes.io/config.mirror": "x"}),
            item("done-1", kind="Job", phase="Succeeded"),
        )
    )
    assert [p.ref for p in drain.leaving(pods)] == ["default/done-1", "default/web-1"]


def test_what_would_be_lost_needs_the_users_word():
    pods = drain.pods_of(
        listing(item("naked", kind=None), item("cache", volumes=[{"name": "x", "emptyDir": {}}]), item("ended", kind=None, phase="Failed"))
    )
    found = drain.refused(pods, force=False, delete_emptydir_data=False)
    assert [b.pod for b in found] == ["default/cache", "default/naked"]
    assert "default/naked has no controller" in drain.sentence(found)
    assert drain.refused(pods, force=True, delete_emptydir_data=True) == ()


def test_an_exhausted_budget_is_named():
    budgets = drain.budgets_of(
        listing(
            {
                "metadata": {"namespace": "default", "name": "web"},
                "spec": {"selector": {"matchLabels": {"app": "web"}}},
                "status": {"disruptionsAllowed": 0},
            },
            {"metadata": {"namespace": "other", "name": "all"}, "spec": {"selector": {}}, "status": {"disruptionsAllowed": 0}},
            {"metadata": {"namespace": "default", "name": "free"}, "spec": {"selector": {}}, "status": {"disruptionsAllowed": 1}},
        )
    )
    found = drain.blocked([WEB, replace(WEB, name="db-1", labels={})], budgets)
    assert drain.sentence(found) == "default/web-1 PodDisruptionBudget default/web allows no disruption; default/db-1 has not ended yet"


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ({}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "db"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}, False),
    ],
)
def test_label_selectors(selector, fits):
    assert drain.matches(selector, {"app": "web"}) is fits


def test_a_budget_without_selector_covers_nothing():
    assert not drain.Budget("default", "none", 0, None).covers(WEB)


def test_only_our_own_cordon_is_ours():
    assert not drain.cordoned_by_user(NODE)
    assert drain.cordoned_by_user(replace(NODE, schedulable=False))
    assert not drain.cordoned_by_user(replace(NODE, schedulable=False, annotations={"pifleet.ops/cordoned-by-upgrade": "x"}))


def test_cordon_and_its_mark_are_one_patch():
    cordon, uncordon = json.loads(drain.cordon_patch("v2")), json.loads(drain.uncordon_patch())
    assert cordon == {"metadata": {"annotations": {"pifleet.ops/cordoned-by-upgrade": "v2"}}, "spec": {"unschedulable": True}}
    assert uncordon == {"metadata": {"annotations": {"pifleet.ops/cordoned-by-upgrade": None}}, "spec": {"unschedulable": None}}


@pytest.mark.parametrize(
    ("changes", "version", "says"),
    [
        ({}, "v1.34.4+k3s1", ""),
        ({}, "", ""),
        ({}, "v1.34.5+k3s1", "still runs v1.34.4"),
        ({"ready": False, "not_ready_reason": "no network"}, "", "not Ready: no network"),
        ({"labels": {"node-role.kubernetes.io/etcd": "true"}}, "", "no voting member"),
        ({"labels": {"node-role.kubernetes.io/etcd": "true"}, "conditions": {"EtcdIsVoter": "True"}}, "", ""),
    ],
)
def test_a_node_goes_back_into_service_only_when_it_is_what_was_wanted(changes, version, says):
    found = drain.waits_for(replace(NODE, **changes), version)
    assert says in found and bool(found) == bool(says)


def test_a_node_that_is_gone_is_waited_for():
    assert drain.waits_for(None, "") == "it is not in the cluster"


def test_something_else_than_a_list_is_one_clear_error():
    with pytest.raises(PifleetError, match="list of pods cannot be read"):
        drain.pods_of("<html>")
