# SPDX-License-Identifier: GPL-3.0-or-later
"""Other fleets, by their inventories alone: one that differs in everything, and one with three servers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.fleet import ROOT, Fleet


def started(name: str) -> Iterator[Fleet]:
    fleet = Fleet(ROOT / "inventory" / name)
    fleet.up()
    fleet.wipe()
    try:
        yield fleet
    finally:
        fleet.lab("down", "-i", str(fleet.inventory))


@pytest.fixture(scope="module")
def second() -> Iterator[Fleet]:
    """Other host names, an ssh user whose sudo asks for a password, two nodes, another data folder, another version."""
    yield from started("lab-second")


@pytest.fixture(scope="module")
def three_servers() -> Iterator[Fleet]:
    yield from started("lab-ha")


def test_a_wrong_sudo_password_is_refused_with_nothing_changed(second: Fleet) -> None:
    run = second.play("-e", "ansible_become_password=wrong")
    assert run.rc in (2, 4)
    assert run.changed == set()
    assert all("password" in f["msg"].lower() for f in run.failures), run.failures
    assert "Traceback" not in run.output


def test_another_fleet_needs_inventory_changes_only(second: Fleet) -> None:
    check = second.play("--check").require()
    assert second.play().require().changed == check.changed
    assert second.play().require().changed == set()
    variables = second.vars_of(second.hosts[0])
    assert second.ready() == set(second.hosts)
    assert {n["status"]["nodeInfo"]["kubeletVersion"] for n in second.nodes().values()} == {variables["k3s_version"]}
    assert variables["k3s_data_dir"] != "/var/lib/rancher/k3s"
    for host in second.hosts:
        second.sh(host, f"test -s {variables['k3s_data_dir']}/agent/client-kubelet.crt && ! test -e /var/lib/rancher/k3s/agent")


def etcd_members(fleet: Fleet, server: str) -> set[str]:
    """Names of the nodes that the API calls voters of etcd."""
    nodes = json.loads(fleet.kubectl("get", "nodes", "-l", "node-role.kubernetes.io/etcd=true", "-o", "json", server=server))["items"]
    return {
        n["metadata"]["name"] for n in nodes if any(c["type"] == "EtcdIsVoter" and c["status"] == "True" for c in n["status"]["conditions"])
    }


def test_three_servers_make_one_cluster_of_voters(three_servers: Fleet) -> None:
    check = three_servers.play("--check").require()
    assert three_servers.play().require().changed == check.changed
    assert three_servers.play().require().changed == set()
    assert three_servers.ready() == set(three_servers.hosts)
    assert etcd_members(three_servers, three_servers.servers[0]) == set(three_servers.servers)


def test_a_wiped_first_server_is_rebuilt_through_its_peers_and_starts_no_second_cluster(three_servers: Fleet) -> None:
    first, peer, *_rest = three_servers.servers
    ca = three_servers.sh(peer, "sha256sum </var/lib/rancher/k3s/server/tls/server-ca.crt")
    others = [h for h in three_servers.hosts if h != first]
    units = three_servers.invocations(others)
    three_servers.wipe(first, stale_host_key=True)
    run = three_servers.play("--limit", first, "-e", "rebuild_accept_new_host_key=true").require()
    assert {host for host, _ in run.changed} == {first}
    assert three_servers.sh(first, "sha256sum </var/lib/rancher/k3s/server/tls/server-ca.crt") == ca
    assert "cluster-init" not in three_servers.sh(first, "cat /etc/rancher/k3s/config.yaml /etc/rancher/k3s/config.yaml.d/*")
    assert etcd_members(three_servers, peer) == set(three_servers.servers)
    assert three_servers.invocations(others) == units
    # the kubeconfig named the peer while the first server was away, and names the first one again
    assert {task.rsplit(" : ")[-1] for _host, task in three_servers.play().require().changed} <= {"Fetch the kubeconfig"}
    assert three_servers.play().require().changed == set()
