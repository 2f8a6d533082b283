# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts each part of a bootstrap is about."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.pifleet.ops.plugins.filter.k3s_hosts import RULES, k3s_hosts

TOPOLOGY = {"init": None, "running": True, "doubtful": ["a2"], "unsettled": ["a2", "a3"]}
UP = {"pi_facts_result": {"pi": {}}, "k3s_topology": TOPOLOGY}


def chosen(what: str, **hostvars: dict[str, Any]) -> list[str]:
    return k3s_hosts(hostvars, list(hostvars), what)


def test_those_that_did_not_answer() -> None:
    assert chosen("silent", a1={"pi_facts_result": {"unreachable": True}}, a2=UP, a3={}) == ["a1"]


def test_the_one_that_begins_a_cluster() -> None:
    topology = {"k3s_topology": {"init": "s1", "running": False, "doubtful": [], "unsettled": []}}
    assert chosen("beginning", s1=topology, a1=topology, a2={}) == ["s1"]
    assert chosen("beginning", s1=UP, a1=UP) == []


def test_those_in_whose_way_something_stands() -> None:
    assert chosen("unsettled", a1=UP, a2=UP, a3=UP, a4={}) == ["a2", "a3"]


def test_those_that_serve() -> None:
    stopped = {"k3s_topology": {**TOPOLOGY, "running": False, "doubtful": []}}
    assert chosen("serving", a1=UP, a2=UP, a3={}) == ["a1"]
    assert chosen("serving", a1=stopped) == []


def test_those_to_be_restarted() -> None:
    assert chosen("restart", a1={"__base_os_result": {"reboot_required": True}}, a2={"__base_os_result": {"reboot_required": False}}) == [
        "a1"
    ]


def test_those_that_were_not_restarted() -> None:
    assert chosen("not_restarted", s1=UP, s2={"__base_os_gave_up": "it did not come back"}) == ["s2"]


def test_those_to_be_installed_do_not_serve_or_differ() -> None:
    same, other = {"__k3s_agent_installed": {"plan": []}}, {"__k3s_server_installed": {"plan": [{"kind": "file"}]}}
    assert chosen("install", a1=UP | same, a2=UP, s1=UP | other, gone={}) == ["a2", "s1"]
    skipped = {"__k3s_server_installed": {"changed": False, "skipped": True}}
    differs = {"__k3s_agent_installed": {"plan": [{"kind": "file"}]}}
    assert chosen("install", a1=UP | skipped | differs, a3=UP | skipped | same) == ["a1"]
    fresh = {"k3s_topology": {"init": "s1", "running": False, "doubtful": [], "unsettled": []}}
    assert chosen("install", s1=fresh, a1=fresh) == ["s1", "a1"]


def test_servers_that_did_not_come_up() -> None:
    assert chosen("broken", s1=UP, s2=UP | {"__k3s_server_gave_up": "port_in_use"}, a1={}) == ["s2"]


def test_those_to_be_looked_after() -> None:
    cluster = {"__post_bootstrap_cluster": {"unsettled": ["a1"]}}
    assert chosen("unfinished", A1=cluster, a2=cluster, a3=cluster | {"k3s_rebuild": {"state": "rebuild"}}) == ["A1", "a3"]
    # the run did not come so far
    assert chosen("unfinished", a3={"k3s_rebuild": {"state": "rebuild"}}) == []


@pytest.mark.parametrize("what", RULES)
def test_where_nothing_is_known_nobody_is_chosen(what: str) -> None:
    assert k3s_hosts(None, ["a1"], what) == []
    assert k3s_hosts({"a1": {}}, ["a1"], what) == []
    assert k3s_hosts({"a1": {"pi_facts_result": None, "__post_bootstrap_cluster": {"skipped": True}}}, ["a1"], what) == []


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(AnsibleFilterError, match="'all' is none of silent"):
        k3s_hosts({}, [], "all")
