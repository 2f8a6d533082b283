# SPDX-License-Identifier: GPL-3.0-or-later
"""What is a rebuild, and what must never be taken for one."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.filter.k3s_rebuild_plan import k3s_rebuild_plan
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import rebuild
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.rebuild import Begun, Host, Known, Verdict, judge
from hypothesis import given
from hypothesis import strategies as st

WELL = Host("pi-4", server=False, data=True, active=True, machine_id="aa", addresses=("192.0.2.14",), password=True)
STOPPED = replace(WELL, active=False, password_fits=True)
WIPED = Host("pi-4", server=False, data=False, active=False, machine_id="bb", addresses=("192.0.2.14",), password=False)
MEMBER = Known(node=True, password=True, machine_id="aa", internal_ip="192.0.2.14", heartbeat="2026-01-01T00:00:00Z", silent=3.0)
BEGUN = Begun("join", "2026-01-01T00:00:00.000000Z")
STRANGER = Known(node=False, password=False)


@pytest.mark.parametrize(
    ("host", "known", "begun", "verdict"),
    [
        (WELL, MEMBER, None, Verdict("healthy")),
        (STOPPED, MEMBER, None, Verdict("down")),
        (WIPED, STRANGER, None, Verdict("new")),
        (WIPED, MEMBER, None, Verdict("rebuild", ("no_data", "node_password", "machine_id"), retire=True)),
        # the Node was deleted by hand, and the Secret that rejects a join stayed
        (WIPED, Known(node=False, password=True), None, Verdict("rebuild", ("no_data", "node_password"), retire=True)),
        (replace(STOPPED, password_fits=False), MEMBER, None, Verdict("rebuild", ("node_password",), retire=True)),
        (replace(STOPPED, password=False, password_fits=None), MEMBER, None, Verdict("rebuild", ("node_password",), retire=True)),
        (replace(STOPPED, machine_id="cc"), MEMBER, None, Verdict("rebuild", ("machine_id",), retire=True)),
        # what runs has told the cluster its machine id itself
        (replace(WELL, machine_id="cc"), MEMBER, None, Verdict("healthy")),
        # a rebuild that was cut off: before the retirement, after it, in the join, and when all was done but the record
        (WIPED, MEMBER, BEGUN, Verdict("rebuild", ("no_data", "node_password", "machine_id", "resumed"), retire=True)),
        (WIPED, STRANGER, BEGUN, Verdict("rebuild", ("resumed",))),
        (replace(WIPED, password=True, password_fits=True), Known(node=False, password=True), BEGUN, Verdict("rebuild", ("resumed",))),
        (WELL, MEMBER, BEGUN, Verdict("rebuild", ("resumed",))),
        # k3s was started by somebody else than the rebuild, or the Node is a later one: the node came back without it
        (WELL, MEMBER, replace(BEGUN, last_step="install"), Verdict("healthy", superseded=True)),
        (WELL, None, replace(BEGUN, last_step="detect"), Verdict("healthy", superseded=True)),
        (WELL, replace(MEMBER, created="2026-01-01T01:00:01Z"), BEGUN, Verdict("healthy", superseded=True)),
        (WELL, replace(MEMBER, created="2026-01-01T00:59:00Z"), BEGUN, Verdict("rebuild", ("resumed",))),
        (
            WIPED,
            replace(MEMBER, created="2026-01-03T00:00:00Z"),
            BEGUN,
            Verdict("rebuild", ("no_data", "node_password", "machine_id"), retire=True, superseded=True),
        ),
        # its data disk was replaced, its system was not
        (replace(STOPPED, data=False), MEMBER, None, Verdict("rebuild", ("no_data",), retire=True)),
        # its first join goes on: the cluster has registered it, and it has no certificate yet
        (replace(STOPPED, data=False, starting=True), MEMBER, None, Verdict("joining")),
        (replace(STOPPED, data=False, starting=True), Known(node=False, password=True), None, Verdict("joining")),
        (replace(STOPPED, data=False, starting=True), MEMBER, BEGUN, Verdict("rebuild", ("resumed",))),
        # what it starts with is not what the cluster expects: it is never let in
        (replace(WIPED, starting=True), MEMBER, None, Verdict("rebuild", ("no_data", "node_password", "machine_id"), retire=True)),
        (
            replace(STOPPED, data=False, password_fits=False, starting=True),
            MEMBER,
            None,
            Verdict("rebuild", ("no_data", "node_password"), retire=True),
        ),
        (
            replace(WIPED, server=True, password=True, password_fits=True, starting=True),
            replace(MEMBER, machine_id="bb"),
            None,
            Verdict("rebuild", ("no_data",), retire=True),
        ),
        # a data folder in the inventory that is not the one k3s runs on
        (replace(WELL, data=False), MEMBER, None, Verdict("misplaced")),
        (replace(WELL, password_fits=False), MEMBER, BEGUN, Verdict("rebuild", ("resumed",))),
        (replace(STOPPED, machine_id=""), MEMBER, None, Verdict("down")),
        # no API answers
        (STOPPED, None, None, Verdict("down")),
        (WIPED, None, BEGUN, Verdict("unknown")),
        # a server without its datastore is a member of etcd that is gone, whatever its password
        (
            replace(WIPED, server=True, password=True, password_fits=True),
            replace(MEMBER, machine_id="bb"),
            None,
            Verdict("rebuild", ("no_data",), retire=True),
        ),
    ],
)
def test_verdicts(host: Host, known: Known | None, begun: Begun | None, verdict: Verdict) -> None:
    assert judge(host, known, begun=begun) == verdict


def test_a_node_that_reports_from_another_address_is_alive() -> None:
    elsewhere = replace(MEMBER, internal_ip="192.0.2.99")
    assert judge(WIPED, elsewhere).alive
    assert not judge(WIPED, replace(elsewhere, silent=rebuild.SILENT_SECONDS)).alive
    assert not judge(WIPED, replace(elsewhere, silent=None)).alive
    # from its own address it cannot be: nothing of k3s runs there
    assert not judge(WIPED, MEMBER).alive


@given(
    st.builds(
        Host,
        st.just("n"),
        st.booleans(),
        st.just(True),
        st.booleans(),
        st.just("aa"),
        st.just(("192.0.2.14",)),
        st.just(True),
        st.sampled_from([None, True]),
    ),
    st.builds(Known, st.booleans(), st.booleans(), st.sampled_from(["", "aa"]), st.just("192.0.2.14"), st.just(""), st.none()),
    st.sampled_from([None, BEGUN, replace(BEGUN, last_step="retire")]),
)
def test_a_host_that_holds_what_it_joined_with_is_never_retired(host: Host, known: Known, begun: Begun | None) -> None:
    assert not judge(host, known, begun=begun).retire


def test_seconds_of_silence() -> None:
    now = datetime(2026, 1, 1, 0, 0, 30, tzinfo=timezone.utc)
    assert rebuild.silent_seconds("2026-01-01T00:00:10.500000Z", now) == 19.5
    assert rebuild.silent_seconds("2026-01-01T00:01:00Z", now) == 0.0  # the node's clock is ahead
    assert rebuild.silent_seconds("", now) is None


def volume(name: str, host: str, phase: str = "Bound", **spec: object) -> dict[str, Any]:
    affinity = {
        "required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}
    }
    return {
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "storageClassName": "local-path",
            "claimRef": {"namespace": "shop", "name": f"data-{name}"},
            "hostPath": {"path": f"/var/lib/rancher/k3s/storage/{name}"},
            "nodeAffinity": affinity,
            **spec,
        },
        "status": {"phase": phase},
    }


def test_volumes_of_a_node_are_those_that_only_it_can_hold() -> None:
    everywhere = volume("nfs", "pi-4", nodeAffinity=None)
    either = volume("d", "pi-4")
    either["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"].append("pi-3")
    text = json.dumps({"items": [volume("b", "pi-4"), volume("a", "pi-4", "Released"), volume("c", "pi-3"), everywhere, either]})
    found = rebuild.volumes_on(text, "pi-4")
    assert [(v.name, v.claim, v.bound) for v in found] == [("a", "shop/data-a", False), ("b", "shop/data-b", True)]
    assert (found[1].capacity, found[1].storage_class, found[1].path) == ("1Gi", "local-path", "/var/lib/rancher/k3s/storage/b")


@pytest.mark.parametrize("text", ["", "[]", "null", '{"items": [{}]}', '{"items": 3}'])
def test_what_is_no_list_of_volumes_is_one_clear_error(text: str) -> None:
    with pytest.raises(PifleetError, match="volumes cannot be read"):
        rebuild.volumes_on(text, "pi-4")


def test_labels_and_taints_that_others_set_are_kept() -> None:
    labels = {
        "kubernetes.io/arch": "arm64",
        "beta.kubernetes.io/os": "linux",
        "node-role.kubernetes.io/worker": "true",
        "node.kubernetes.io/instance-type": "k3s",
        "p2p.k3s.cattle.io/enabled": "true",
        "disk": "ssd",
        "topology.kubernetes.io/zone": "attic",
        "svccontroller.k3s.cattle.io/enablelb": "true",
        "node-role.kubernetes.io/gpu": "",
    }
    assert sorted(rebuild.kept_labels(labels)) == [
        "disk",
        "node-role.kubernetes.io/gpu",
        "svccontroller.k3s.cattle.io/enablelb",
        "topology.kubernetes.io/zone",
    ]
    assert sorted(rebuild.kept_labels(labels, {"disk"})) == [
        "node-role.kubernetes.io/gpu",
        "svccontroller.k3s.cattle.io/enablelb",
        "topology.kubernetes.io/zone",
    ]
    taints = (
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
        {"key": "gpu", "value": "only", "effect": "NoSchedule"},
    )
    assert rebuild.kept_taints(taints) == [{"key": "gpu", "value": "only", "effect": "NoSchedule"}]


def test_labels_that_the_inventory_set_are_told_from_those_of_people() -> None:
    def fields(manager: str, operation: str, *labels: str) -> dict[str, object]:
        owned = {f"f:{label}": {} for label in labels} | {".": {}}
        return {"manager": manager, "operation": operation, "fieldsV1": {"f:metadata": {"f:labels": owned}}}

    managed = [
        fields("pifleet", "Apply", "disk", "node-role.kubernetes.io/worker"),
        fields("pifleet", "Update", "patched"),
        fields("kubectl-label", "Update", "shelf"),
        {"manager": "pifleet", "operation": "Apply", "fieldsV1": {"f:spec": {"f:taints": {}}}},
    ]
    node = {"metadata": {"managedFields": managed}}
    assert rebuild.applied_labels(node, "pifleet") == {"disk", "node-role.kubernetes.io/worker"}
    assert rebuild.applied_labels({"metadata": {}}, "pifleet") == frozenset()


def facts(**k3s: object) -> dict[str, object]:
    return {"pi_facts_result": {"pi": {"machine_id": "bb", "addresses": ["192.0.2.14"], "k3s": k3s}}}


def test_the_filter_judges_each_host_by_its_role() -> None:
    hostvars = {
        "PI-1": facts(datastore=None, agent_data=True, node_password=True) | {"__rebuild_password": {"fits": True}},
        "pi-4": facts(datastore=None, agent_data=True, node_password=True, unit_state={"active": "active"}),
        "pi-5": facts(),
    }
    node = {"machine_id": "bb", "internal_ip": "192.0.2.14"}
    known = {"pi-1": {"node": node, "password": True, "silent": 1.0}, "pi-4": {"node": node, "password": True}}
    plan = k3s_rebuild_plan(hostvars, ["PI-1", "pi-4", "pi-5"], ["PI-1"], known, {"pi-5": {}})
    assert {name: (p["state"], p["reasons"], p["node"], p["role"]) for name, p in plan.items()} == {
        "PI-1": ("rebuild", ["no_data"], "pi-1", "server"),
        "pi-4": ("healthy", [], "pi-4", "agent"),
        "pi-5": ("rebuild", ["resumed"], "pi-5", "agent"),
    }
    assert {name: p["removes"] for name, p in plan.items() if p["removes"]} == {"PI-1": ["node/pi-1", "secret/pi-1.node-password.k3s"]}


def test_a_host_that_changed_its_group_is_left_to_the_install_which_refuses_it() -> None:
    hostvars = {"pi-4": facts(role="agent", agent_data=True, unit_state={"active": "active"})}
    assert (
        k3s_rebuild_plan(hostvars, ["pi-4"], ["pi-4"], {"pi-4": {"node": {"machine_id": "x"}, "password": True}})["pi-4"]["state"]
        == "healthy"
    )
