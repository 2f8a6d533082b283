# SPDX-License-Identifier: GPL-3.0-or-later
"""No state of the fleet, and no --limit, ever makes a second cluster."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.pifleet.ops.plugins.filter.k3s_topology import k3s_topology
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.topology import Server, decide
from hypothesis import given
from hypothesis import strategies as st


def server(number: int, **changes) -> Server:
    values = {"name": f"pi-{number}", "address": f"192.0.2.1{number}", "in_play": True, "reachable": True} | changes
    return Server(**values)


def test_a_fresh_fleet_is_started_by_its_first_server():
    topology = decide([server(1), server(2), server(3)], [])
    assert (topology.init, topology.peer, topology.exists) == ("pi-1", "pi-1", False)
    assert [topology.url_for(n) for n in ("pi-1", "pi-2", "pi-4")] == ["", "https://192.0.2.11:6443", "https://192.0.2.11:6443"]


def test_a_wiped_first_server_joins_a_surviving_peer():
    topology = decide([server(1), server(2, datastore=True, active=True), server(3, datastore=True, active=True)], [])
    assert (topology.init, topology.peer, topology.url_for("pi-1")) == (None, "pi-2", "https://192.0.2.12:6443")


def test_a_stopped_server_of_the_play_is_a_peer_that_this_run_starts():
    assert decide([server(1, datastore=True)], []).peer == "pi-1"


def test_a_living_server_outside_the_limit_is_joined():
    assert decide([server(1, in_play=False, datastore=True, active=True)], ["pi-4"]).peer == "pi-1"


@pytest.mark.parametrize(
    ("servers", "agents", "says"),
    [
        ([server(1), server(2, reachable=False)], [], "pi-2 did not answer"),
        ([server(1, reachable=False, in_play=False)], [], "pi-1 did not answer"),
        ([server(1)], ["pi-4"], "pi-4 joined one before"),
        ([server(1, in_play=False), server(2)], [], "not part of this run"),
        ([server(1, in_play=False, datastore=True)], [], "k3s does not run"),
        ([], [], "no host"),
    ],
)
def test_refused_with_the_way_out(servers, agents, says):
    with pytest.raises(PifleetError, match=says):
        decide(servers, agents)


def test_force_starts_what_only_the_user_can_know():
    assert decide([server(1), server(2, reachable=False)], ["pi-4"], force_init=True).init == "pi-1"
    with pytest.raises(PifleetError):
        decide([server(1, reachable=False), server(2)], [], force_init=True)


def test_a_restored_server_starts_the_cluster_that_everyone_joins():
    topology = decide([server(1, datastore=True, active=True), server(2)], ["pi-4"], restored="pi-2")
    assert (topology.init, topology.peer, topology.exists) == ("pi-2", "pi-2", True)
    assert [topology.url_for(n) for n in ("pi-1", "pi-2")] == ["https://192.0.2.12:6443", ""]


SERVERS = st.lists(
    st.builds(
        dict,
        in_play=st.booleans(),
        reachable=st.booleans(),
        datastore=st.booleans(),
        active=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@given(SERVERS, st.booleans())
def test_a_cluster_is_only_started_where_none_can_exist(states, force):
    servers = [server(n, **state) for n, state in enumerate(states, start=1)]
    try:
        topology = decide(servers, [], force_init=force)
    except PifleetError:
        return
    if topology.init:
        assert not any(s.reachable and s.datastore for s in servers)
        assert force or all(s.reachable for s in servers)
        assert topology.init == servers[0].name and servers[0].in_play
    else:
        assert any(s.name == topology.peer and s.reachable and s.datastore for s in servers)


def facts(**k3s: object) -> dict[str, object]:
    return {"pi_facts_result": {"pi": {"k3s": {"version": "v1.34.5+k3s1", **k3s}, "address": "192.0.2.1"}}, "k3s_version": "v1.34.5+k3s1"}


def test_agents_outside_the_run_keep_a_server_from_starting_a_second_cluster():
    outside = [{"item": "a1", **facts(agent_data=True)["pi_facts_result"]}, {"item": "a2", "unreachable": True}]
    with pytest.raises(AnsibleFilterError, match="a1 joined one before"):
        k3s_topology({"s1": facts(), "a1": {}, "a2": {}}, ["s1"], ["s1"], outside)
    topology = k3s_topology({"s1": facts(), "a1": {}, "a2": {}}, ["s1"], ["s1"], outside[1:])
    # that a2 is silent stops the one that begins, where it finds that there was a cluster: post_bootstrap, begins.yml
    assert (topology["init"], topology["answered"]) == ("s1", ["s1"])


def test_servers_on_an_external_datastore_have_a_cluster():
    up = {"unit_state": {"active": "active"}, "token": True}
    hostvars = {"s1": facts(datastore="external", **up), "s2": facts(), "a1": facts(agent_data=True, **up)}
    topology = k3s_topology(hostvars, ["s1", "s2"], list(hostvars))
    assert (topology["init"], topology["peer"], topology["datastore"], topology["doubtful"]) == (None, "s1", "external", ["s2"])


def test_only_hosts_that_do_not_serve_are_unsettled():
    up = {"active": "active"}
    hostvars = {
        "s1": facts(datastore="sqlite", unit_state=up, token=True),
        "a1": facts(agent_data=True, unit_state=up, token=True),
        "a2": facts(agent_data=True, unit_state={"active": "activating"}),
        "a3": facts(),
        "a4": facts(agent_data=True, unit_state=up),
    }
    topology = k3s_topology(hostvars, ["s1"], list(hostvars))
    assert topology["addresses"] == {"s1": "192.0.2.1"}
    assert topology["unsettled"] == topology["doubtful"] == ["a2", "a3", "a4"]
    assert k3s_topology(hostvars, ["s1"], list(hostvars), begun={"a1": {}})["doubtful"] == ["a1", "a2", "a3", "a4"]
    # a server that does not run can be asked nothing: it is started first
    hostvars["s1"] = facts(datastore="sqlite")
    assert k3s_topology(hostvars, ["s1"], list(hostvars), begun={"a1": {}})["doubtful"] == []
