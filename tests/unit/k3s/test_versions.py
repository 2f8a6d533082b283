# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upgrade does and, above all, what it refuses."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.cluster import Node
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.versions import (
    CORDONED_BY_UPGRADE,
    Host,
    Installed,
    parse,
    plan_upgrade,
    version_conflicts,
)
from hypothesis import given
from hypothesis import strategies as st

OLD, NEW = "v1.34.4+k3s1", "v1.34.5+k3s1"


def host(name: str, **changes) -> Host:
    values = {"server": name.startswith("s"), "in_run": True, "reachable": True, "installed": OLD, "active": True} | changes
    return Host(name=name, node=name, **values)


def node(name: str, version: str = OLD, *, ours: bool = False, etcd: bool = False, voter: str = "True", ready: bool = True) -> Node:
    server = name.startswith("s")
    return Node(
        name=name,
        roles=("control-plane", *(("etcd",) if etcd else ())) if server else ("worker",),
        ready=ready,
        not_ready_reason="" if ready else "kubelet stopped posting node status",
        version=version,
        internal_ip="192.0.2.1",
        schedulable=not ours,
        conditions={"EtcdIsVoter": voter} if etcd else {},
        labels={"node-role.kubernetes.io/etcd": "true"} if etcd else {},
        annotations={CORDONED_BY_UPGRADE: NEW} if ours else {},
        taints=(),
    )


def nodes(*given_nodes: Node) -> dict[str, Node]:
    return {n.name: n for n in given_nodes}


def plan(hosts: list[Host], api_nodes: Mapping[str, Node] | None, target: str = NEW):
    return plan_upgrade(hosts, api_nodes, target, "s1")


# -- versions ----------------------------------------------------------------------------------------------------------------
RELEASES = ["v1.33.9+k3s1", "v1.34.0-rc1+k3s1", "v1.34.0-rc2+k3s1", "v1.34.0-rc10+k3s1", "v1.34.0+k3s1", "v1.34.0+k3s2", "v1.34.10+k3s1"]


@given(st.permutations(RELEASES))
def test_versions_sort_as_releases_do(texts):
    assert sorted(texts, key=parse) == RELEASES


@pytest.mark.parametrize("text", ["", "1.34.4+k3s1", "v1.34.4", "v1.34+k3s1", "latest", "v1.34.4+k3s1 ", "v1.34.4+rke2r1"])
def test_what_is_no_version_is_refused(text):
    with pytest.raises(PifleetError, match="no version of k3s"):
        parse(text)


@given(st.tuples(st.integers(1, 3), st.integers(0, 40), st.integers(0, 40), st.integers(1, 9)))
def test_a_version_reads_back(numbers):
    major, minor, patch, k3s = numbers
    read = parse(f"v{major}.{minor}.{patch}+k3s{k3s}")
    assert (read.major, read.minor, read.patch, read.k3s, read.line) == (major, minor, patch, k3s, (major, minor))


# -- the plan ----------------------------------------------------------------------------------------------------------------
def test_servers_first_then_agents_in_inventory_order():
    found = plan([host("s2"), host("s1"), host("a9"), host("a1")], nodes(node("s1"), node("s2"), node("a1"), node("a9")))
    assert (found.servers, found.agents, found.hosts) == (("s2", "s1"), ("a9", "a1"), ("s2", "s1", "a9", "a1"))
    assert (found.done, found.cordoned, found.etcd) == ((), (), False)


def test_an_upgraded_cluster_has_nothing_to_do():
    found = plan([host("s1", installed=NEW), host("a1", installed=NEW)], nodes(node("s1", NEW), node("a1", NEW)))
    assert (found.hosts, found.done) == ((), ("s1", "a1"))


def test_an_interrupted_upgrade_goes_on_where_it_stopped():
    """s1 is finished, s2 was left cordoned by us with the new version, a1 has the new binary on disk but still runs the old one."""
    hosts = [host("s1", installed=NEW), host("s2", installed=NEW), host("a1", installed=NEW), host("a2")]
    found = plan(hosts, nodes(node("s1", NEW), node("s2", NEW, ours=True), node("a1"), node("a2")))
    assert (found.servers, found.agents, found.cordoned, found.done) == (("s2",), ("a1", "a2"), ("s2",), ("s1",))


def test_a_node_that_the_interrupted_upgrade_left_not_ready_is_mended_by_the_next_run():
    found = plan([host("s1", installed=NEW), host("a1", installed=NEW)], nodes(node("s1", NEW), node("a1", ours=True, ready=False)))
    assert found.agents == ("a1",)


def test_without_an_api_only_an_interrupted_upgrade_goes_on():
    found = plan([host("s1", installed=NEW, active=False), host("a1")], None)
    assert (found.revived, found.servers, found.agents) == (("s1",), ("s1",), ("a1",))
    with pytest.raises(PifleetError, match="No API answers on s1"):
        plan([host("s1"), host("a1")], None)
    with pytest.raises(PifleetError, match="No API answers on s1"):
        plan([host("s1", installed=NEW, active=True)], None)


def test_with_limit_only_the_hosts_of_the_run_are_planned():
    found = plan(
        [host("s1", installed=NEW, in_run=False), host("a1"), host("a2", in_run=False)], nodes(node("s1", NEW), node("a1"), node("a2"))
    )
    assert found.hosts == ("a1",)


def test_etcd_is_recognised():
    assert plan([host("s1")], nodes(node("s1", etcd=True))).etcd


# -- what is refused -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("hosts", "api_nodes", "target", "says"),
    [
        ([host("s1", reachable=False, in_run=False), host("a1")], nodes(node("s1"), node("a1")), NEW, "server s1 cannot be reached"),
        ([host("s1"), host("a1", reachable=False)], nodes(node("s1"), node("a1")), NEW, "host a1 cannot be reached.*--limit"),
        ([host("s1"), host("a1", installed="")], nodes(node("s1")), NEW, "no k3s on a1"),
        ([host("s1"), host("a1")], nodes(node("s1")), NEW, "a1 is not in the cluster"),
        ([host("s1")], nodes(node("s1")), "v1.34.3+k3s1", "a downgrade is refused"),
        ([host("s1")], nodes(node("s1")), "v1.33.9+k3s1", "a downgrade is refused"),
        ([host("s1")], nodes(node("s1", "v1.33.1+k3s1")), "v1.35.0+k3s1", r"skip a minor version. Upgrade to v1\.34 first"),
        ([host("s1")], nodes(node("s1")), "v2.0.0+k3s1", "skip a minor version"),
        ([host("s1")], nodes(node("s1")), "v1.34", "no version of k3s"),
        ([host("s1", in_run=False), host("a1")], nodes(node("s1"), node("a1")), NEW, "newer than the servers"),
        (
            [host("s1", in_run=False), host("a1"), host("a2", in_run=False)],
            nodes(node("s1"), node("a1"), node("a2", NEW)),
            OLD,
            "a2 runs .*newer",
        ),
        ([host("s1")], nodes(node("s1"), node("a9", "v1.30.1+k3s1")), "v1.34.9+k3s1", "a9 runs .*too old"),
        ([host("s1"), host("a1")], nodes(node("s1"), node("a1", ready=False)), NEW, "a1 is not Ready"),
        ([host("s1", in_run=False), host("a1")], nodes(node("s1", NEW, ready=False), node("a1")), NEW, "s1 is not Ready"),
        ([host("s1"), host("s2")], nodes(node("s1", etcd=True), node("s2", etcd=True, voter="False")), NEW, "s2 is no voting member"),
    ],
)
def test_refused_before_anything_is_touched(hosts, api_nodes, target, says):
    with pytest.raises(PifleetError, match=says):
        plan(hosts, api_nodes, target)


def test_an_agent_that_is_not_ready_and_outside_the_run_holds_nothing_up():
    assert plan([host("s1"), host("a1", in_run=False)], nodes(node("s1"), node("a1", ready=False))).hosts == ("s1",)


def test_an_agent_that_got_ahead_is_mended_by_an_upgrade_of_the_servers():
    assert plan([host("s1"), host("a1", installed=NEW)], nodes(node("s1"), node("a1", NEW))).hosts == ("s1",)


# -- the bootstrap never upgrades ----------------------------------------------------------------------------------------------
def installed(name: str, version: str, *, in_use: bool = True, in_run: bool = True) -> Installed:
    return Installed(name, server=name.startswith("s"), in_run=in_run, version=version, in_use=in_use, wanted=NEW)


@pytest.mark.parametrize(
    ("version", "in_use", "conflict"),
    [("", True, False), (OLD, False, False), (NEW, True, False), (OLD, True, True), ("unknown", True, True)],
)
def test_only_a_k3s_in_use_with_another_version_conflicts(version, in_use, conflict):
    said = version_conflicts([installed("s1", NEW), installed("a1", version, in_use=in_use)])
    assert set(said) == ({"a1"} if conflict else set())
    assert not conflict or f"playbooks/upgrade.yml -e k3s_version={NEW}" in said["a1"]


def test_a_downgrade_is_not_recommended():
    said = version_conflicts([installed("a1", "v1.35.0+k3s1")])["a1"]
    assert "upgrade.yml" not in said and "set k3s_version to v1.35.0+k3s1" in said


def test_nothing_joins_servers_of_another_version():
    """A new agent would be newer than the server it joins; the server may be outside --limit."""
    said = version_conflicts([installed("s1", OLD, in_run=False), installed("a1", "", in_use=False)])
    assert set(said) == {"a1"} and f"The server s1 runs k3s {OLD}" in said["a1"]
