# SPDX-License-Identifier: GPL-3.0-or-later
"""When a pod counts as running again."""

from __future__ import annotations

import json

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.workloads import Pod, Seen, fates, pods_of, with_others


def pod(name: str, controller: str = "", ready: bool = True, phase: str = "Running") -> Pod:
    return Pod(f"shop/{name}", controller, phase, ready)


DAEMON, REPLICA, BARE = pod("log-1", "DaemonSet/log"), pod("web-1", "ReplicaSet/web"), pod("bare")
SET = {"spec": {"replicas": 2}, "status": {"readyReplicas": 2}}


def states(before: list[Pod], here: list[Pod], elsewhere: dict[str, Pod] | None = None, **controllers: object) -> list[str]:
    known = {key.replace("__", "/"): value for key, value in controllers.items()}
    return [fate.state for fate in fates(before, Seen(tuple(here), elsewhere or {}, {f"shop/{k}": v for k, v in known.items()}))]


def test_the_same_pods_ready_again() -> None:
    assert states([DAEMON, REPLICA, BARE], [DAEMON, REPLICA, BARE]) == ["running"] * 3


def test_a_pod_that_is_there_and_not_ready_is_waited_for() -> None:
    assert states([REPLICA], [pod("web-1", "ReplicaSet/web", ready=False)]) == ["waiting"]
    assert states([REPLICA], [], {"shop/web-1": pod("web-1", "ReplicaSet/web", ready=False)}) == ["waiting"]
    assert states([REPLICA], [], {"shop/web-1": pod("web-1", "ReplicaSet/web")}) == ["running"]


def test_a_replacement_counts_by_its_controller() -> None:
    assert states([REPLICA], [], ReplicaSet__web=SET) == ["running"]
    assert states([REPLICA], [], ReplicaSet__web={"spec": {"replicas": 2}, "status": {}}) == ["waiting"]
    assert states([REPLICA], [], ReplicaSet__web=None) == ["running"]  # deleted meanwhile, and its pods with it


def test_what_was_broken_elsewhere_before_is_not_waited_for() -> None:
    """Of three replicas one was here, one was ready elsewhere and one was not: two are all that can be expected."""
    wants = {"spec": {"replicas": 3}, "status": {"readyReplicas": 1}}
    before = list(with_others([pod("web-1", "ReplicaSet/web", ready=False), DAEMON, BARE], {"shop/ReplicaSet/web": wants}))
    assert [p.elsewhere for p in before] == [1, None, None]
    assert states(before[:1], [], ReplicaSet__web=wants) == ["waiting"]
    assert states(before[:1], [], ReplicaSet__web={**wants, "status": {"readyReplicas": 2}}) == ["running"]
    # scaled down meanwhile
    assert states(before[:1], [], ReplicaSet__web={"spec": {"replicas": 1}, "status": {"readyReplicas": 1}}) == ["running"]


def test_what_was_ready_here_is_not_counted_as_elsewhere() -> None:
    before = with_others([REPLICA, pod("web-2", "ReplicaSet/web")], {"shop/ReplicaSet/web": {"status": {"readyReplicas": 3}}})
    assert [p.elsewhere for p in before] == [1, 1]
    assert with_others([REPLICA], {"shop/ReplicaSet/web": None}) == (REPLICA,)


def test_a_daemon_set_has_to_be_on_the_node_itself() -> None:
    gone = {"spec": {}, "status": {"numberReady": 3, "desiredNumberScheduled": 4}}
    assert states([DAEMON], [], DaemonSet__log=gone) == ["waiting"]
    assert states([DAEMON], [pod("log-2", "DaemonSet/log")], DaemonSet__log=gone) == ["running"]
    assert states([DAEMON], [pod("log-2", "DaemonSet/log", ready=False)], DaemonSet__log=gone) == ["waiting"]


def test_a_pod_without_a_controller_is_lost_and_said_so() -> None:
    assert states([BARE], []) == ["lost"]


def test_a_pod_of_another_kind_of_controller_is_left_to_it() -> None:
    assert states([pod("db-1", "Cluster/db")], [], Cluster__db={}) == ["running"]


def item(name: str, phase: str = "Running", **meta: object) -> dict[str, object]:
    conditions = [{"type": "Ready", "status": "True"}]
    return {"metadata": {"namespace": "shop", "name": name, **meta}, "status": {"phase": phase, "conditions": conditions}}


def test_pods_are_read_without_static_and_ended_ones() -> None:
    owners = [{"kind": "ReplicaSet", "name": "web", "controller": True}]
    items = [
        item("web-1", ownerReferences=owners),
        item("job-1", "Succeeded"),
        item("static", annotations={"kubernetes.io/config.mirror": "x"}),
        item("going", deletionTimestamp="2026-01-01T00:00:00Z"),
    ]
    assert pods_of(json.dumps({"items": items})) == (pod("going", ready=False), pod("web-1", "ReplicaSet/web"))


@pytest.mark.parametrize("text", ["", "{}", '{"items": [1]}'])
def test_what_is_no_list_of_pods_is_one_clear_error(text: str) -> None:
    with pytest.raises(PifleetError, match="pods cannot be read"):
        pods_of(text)
