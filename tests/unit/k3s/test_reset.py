# SPDX-License-Identifier: GPL-3.0-or-later
"""A reset takes nodes out of a cluster that lives on, and leaves no agent without one."""

from __future__ import annotations

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.reset import Host, ResetPlan, plan_reset


def host(name: str, *, in_run: bool = True, api: bool = False, silent: bool = False) -> Host:
    return Host(name, name, name.startswith("s"), in_run, api, silent)


def test_the_whole_fleet_just_goes():
    assert plan_reset([host("s1"), host("a1")], []) == ResetPlan(True, "", ())


def test_nodes_leave_a_cluster_that_lives_on():
    hosts = [host("s1", in_run=False), host("s2", in_run=False, api=True), host("s3"), host("a1"), host("a2", in_run=False)]
    assert plan_reset(hosts, ["s1", "s2", "s3", "a2"]) == ResetPlan(False, "s2", ("s3",))


def test_a_server_that_stays_and_does_not_answer_holds_it_up():
    hosts = [host("s1", in_run=False), host("a1")]
    with pytest.raises(PifleetError, match="No API answers on s1"):
        plan_reset(hosts, [])
    assert plan_reset(hosts, [], forced=True) == ResetPlan(True, "", ())


def test_no_agent_is_left_without_its_cluster():
    hosts = [host("s1"), host("a1"), host("a2", in_run=False)]
    with pytest.raises(PifleetError, match="a2 would be left without one"):
        plan_reset(hosts, [])
    assert plan_reset(hosts, [], forced=True).whole


def test_a_server_that_does_not_answer_does_not_count_as_gone():
    hosts = [host("s1"), host("s2", silent=True), host("s3"), host("a1", silent=True)]
    with pytest.raises(PifleetError, match="s2 did not answer and would keep the cluster's data"):
        plan_reset(hosts, [])
    assert plan_reset(hosts, [], forced=True).whole
    assert plan_reset([host("s1"), host("a1", silent=True)], []).whole, "what an agent keeps belongs to no cluster any more"
    # a dead node leaves a cluster that lives on
    assert plan_reset([host("s1", in_run=False, api=True), host("s2", silent=True)], ["s1", "s2"]).leaving == ("s2",)
