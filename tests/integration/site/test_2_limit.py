# SPDX-License-Identifier: GPL-3.0-or-later
"""--limit to any subset is safe: it touches nothing outside, starts no second cluster, turns no worker into a server."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from tests.integration.site.conftest import FULL
from tests.support.fleet import Fleet


def subsets(hosts: list[str]) -> list[tuple[str, ...]]:
    return [*chain.from_iterable(combinations(hosts, n) for n in range(1, len(hosts) + 1))]


def test_every_subset_of_a_converged_cluster_changes_nothing(converged: Fleet) -> None:
    units = converged.invocations()
    chosen = subsets(converged.hosts)
    for limit in chosen if FULL else chosen[:: len(chosen) // 3]:
        run = converged.play("--limit", ",".join(limit)).require()
        assert run.changed == set(), limit
        assert {t["host"] for t in run.tasks} <= set(limit)
    assert converged.invocations() == units


def test_a_fresh_worker_joins_with_limit_to_it_and_nothing_else_is_touched(converged: Fleet) -> None:
    worker, others = converged.workers[-1], [h for h in converged.hosts if h != converged.workers[-1]]
    units = converged.invocations(others)
    converged.wipe(worker)
    converged.forget(worker)
    check = converged.play("--limit", worker, "--check").require()
    run = converged.play("--limit", worker).require()
    assert run.changed == check.changed
    assert {host for host, _ in run.changed} == {worker}
    assert converged.ready() == set(converged.hosts)
    assert converged.invocations(others) == units


def test_without_a_reachable_server_a_limited_run_stops_before_anything_changes(converged: Fleet) -> None:
    worker, server = converged.workers[-1], converged.servers[0]
    converged.sh(server, "systemctl stop ssh.socket ssh.service; ss -K sport = :22 || true")
    converged.sh(server, "pkill -x sshd || true", check=False)
    try:
        run = converged.play("--limit", worker, env={"ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ConnectTimeout=5"})
        assert run.rc != 0
        assert run.changed == set()
        assert f"{server} did not answer" in run.failures[-1]["msg"]
    finally:
        converged.sh(server, "systemctl start ssh.socket ssh.service || systemctl start ssh")


def test_an_only_server_that_lost_its_data_starts_no_second_cluster(converged: Fleet) -> None:
    """Its workers, outside the limit, say that there was one. (The next test begins on nodes with nothing on them.)"""
    server = converged.servers[0]
    converged.wipe(server)
    run = converged.play("--limit", server)
    assert run.rc != 0
    assert run.changed == set()
    assert "joined one before: its server has lost its data" in run.output
    assert "playbooks/restore.yml -e snapshot=latest" in run.output


def test_a_rebuild_begins_no_cluster(fleet: Fleet) -> None:
    """The only server is asked for, and no node remembers a cluster."""
    fleet.wipe()
    for args in (("--limit", fleet.servers[0], "--tags", "rebuild"), ("-e", f"node={fleet.servers[0]}")):
        run = fleet.play(*args, playbook="site.yml" if "--limit" in args else "playbooks/rebuild.yml")
        assert run.rc != 0
        assert run.changed == set()
        assert "No server of the inventory holds a cluster" in run.failures[-1]["msg"]


@pytest.mark.parametrize("limit", ["workers", "pi-cluster-4.local"])
def test_a_limit_without_the_first_server_never_starts_a_cluster(fleet: Fleet, limit: str) -> None:
    """On the nodes of the test before, which have nothing on them."""
    run = fleet.play("--limit", limit)
    assert run.rc != 0
    assert run.changed == set()
    assert "not part of this run" in run.output
    for host in fleet.hosts:
        assert fleet.sh(host, "ls /etc/systemd/system/k3s* /usr/local/bin/k3s 2>/dev/null || true") == ""
