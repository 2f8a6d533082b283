# SPDX-License-Identifier: GPL-3.0-or-later
"""Other fleets than the lab's, by their inventories alone: one that differs in everything, and one with three servers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._rebuild_report import STEPS, verify

from tests.integration.rebuild.conftest import LEDGER, reports_of, rows
from tests.integration.rebuild.test_2_kills import wait_for_step
from tests.support.fleet import ROOT, Fleet


def started(name: str) -> Iterator[Fleet]:
    fleet = Fleet(ROOT / "inventory" / name)
    fleet.lab("down", "-i", str(fleet.inventory))
    fleet.up()
    yield fleet
    fleet.lab("down", "-i", str(fleet.inventory))


@pytest.fixture(scope="module")
def second() -> Iterator[Fleet]:
    """Other host names, an ssh user whose sudo asks for a password, two nodes, another data folder, another version."""
    yield from started("lab-second")


@pytest.fixture(scope="module")
def three_servers() -> Iterator[Fleet]:
    """The reports of the rebuilds that the tests make, of the first server, are removed."""
    first = Fleet(ROOT / "inventory/lab-ha").servers[0]
    before = reports_of(first)
    yield from started("lab-ha")
    for report in reports_of(first) - before:
        report.unlink()


def test_a_wrong_sudo_password_is_refused_with_nothing_changed(second: Fleet) -> None:
    run = second.play("-e", "ansible_become_password=wrong")
    assert run.rc in (2, 4)
    assert run.changed == set()
    assert all("password" in f["msg"].lower() for f in run.failures), run.failures
    assert "Traceback" not in run.output


def test_a_port_of_the_api_that_is_taken_is_reported_with_its_holder(second: Fleet) -> None:
    server = second.servers[0]
    second.sh(server, "systemd-run --quiet --unit squatter python3 -m http.server 6443")
    try:
        run = second.play("--limit", server, "-e", "k3s_join_timeout=60").require(2)
    finally:
        second.sh(server, "systemctl stop squatter")
    (failed,) = run.failures
    assert failed["state"] == "port_in_use"
    assert "6443" in failed["evidence"]
    assert "python3" in failed["hint"] + failed["evidence"]


def test_another_fleet_needs_inventory_changes_only(second: Fleet) -> None:
    """From a server that is half installed, and a worker with nothing on it: --check predicts that too."""
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


ACCEPT = ("-e", "rebuild_accept_new_host_key=true")


def test_a_wiped_first_server_is_rebuilt_through_its_peers_and_starts_no_second_cluster(three_servers: Fleet) -> None:
    first, peer, *_rest = three_servers.servers
    ca = three_servers.sh(peer, "sha256sum </var/lib/rancher/k3s/server/tls/server-ca.crt")
    others = [h for h in three_servers.hosts if h != first]
    units = three_servers.invocations(others)
    three_servers.wipe(first, stale_host_key=True)
    run = three_servers.play("--limit", first, *ACCEPT).require()
    assert {host for host, _ in run.changed} == {first}
    assert three_servers.sh(first, "sha256sum </var/lib/rancher/k3s/server/tls/server-ca.crt") == ca
    assert "cluster-init" not in three_servers.sh(first, "cat /etc/rancher/k3s/config.yaml /etc/rancher/k3s/config.yaml.d/*")
    assert etcd_members(three_servers, peer) == set(three_servers.servers)
    assert three_servers.invocations(others) == units
    assert three_servers.play().require().changed == set()


# What makes a restarted container one that booted anew, and its k3s slow to come.
BOOTED = r"""
cat >/etc/systemd/system/boot-id.service <<'END'
[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cat /proc/sys/kernel/random/uuid >/run/boot-id; mount --bind /run/boot-id /proc/sys/kernel/random/boot_id'
[Install]
WantedBy=sysinit.target
END
mkdir -p /etc/systemd/system/k3s.service.d
printf '[Service]\nExecStartPre=/bin/sleep 10\n' >/etc/systemd/system/k3s.service.d/slow.conf
systemctl enable --quiet boot-id
systemctl daemon-reload
"""
NOT_BOOTED = """
systemctl disable --quiet boot-id
rm -r /etc/systemd/system/boot-id.service /etc/systemd/system/k3s.service.d
systemctl daemon-reload
"""
#: stands for what base_os finds on a Pi without memory controller, and in no container
TO_RESTART = ("-e", json.dumps({"__base_os_result": {"reboot_required": True, "reboot_reasons": ["test"], "boot_id": "", "left_out": []}}))


def test_servers_that_serve_are_restarted_one_after_the_other(three_servers: Fleet) -> None:
    servers = three_servers.servers
    for server in servers:
        three_servers.sh(server, BOOTED)
    try:
        run = three_servers.play("--limit", "control_plane", "--tags", "base_os", *TO_RESTART).require()
        assert {t["host"] for t in run.of("Restart the node") if t["changed"]} == set(servers)
        booted = {s: int(three_servers.sh(s, "stat -c %Y /run/boot-id")) for s in servers}
        back = {s: int(three_servers.sh(s, 'date +%s -d "$(systemctl show k3s -p ActiveEnterTimestamp --value)"')) for s in servers}
        assert all(back[before] <= booted[after] for before, after in pairwise(servers)), (booted, back)
        assert etcd_members(three_servers, servers[0]) == set(servers)
    finally:
        for server in servers:
            three_servers.sh(server, NOT_BOOTED)
    assert three_servers.play().require().changed == set()


def test_a_restart_that_is_not_allowed_holds_up_nobody_else(three_servers: Fleet) -> None:
    """Not even the run, which Ansible ends with a batch of hosts that all failed."""
    run = three_servers.play("--limit", "control_plane", "--tags", "base_os", *TO_RESTART, "-e", "base_os_allow_reboot=false")
    assert run.rc == 2
    told = {t["host"]: t["msg"] for t in run.of("Fail a server that was not restarted")}
    assert set(told) == set(three_servers.servers)
    assert all("base_os_allow_reboot is false" in message for message in told.values()), told


def a_server_is_not_restarted_while_another_one_is_missed(three_servers: Fleet) -> None:
    first, _second, third = three_servers.servers
    three_servers.sh(third, "systemctl stop k3s")
    try:
        deadline = time.monotonic() + 120
        while third in three_servers.ready():
            assert time.monotonic() < deadline
            time.sleep(1)
        units = three_servers.invocations([first])
        run = three_servers.play("--limit", first, "--tags", "base_os", *TO_RESTART)
        assert run.rc == 2
        assert f"--limit {third}" in run.failures[-1]["msg"]
        assert not run.of("Restart the node")
        assert three_servers.invocations([first]) == units
    finally:
        three_servers.sh(third, "systemctl start k3s")
    three_servers.play().require()


@pytest.mark.parametrize("step", STEPS[1:])
def a_servers_rebuild_that_was_killed_goes_on(three_servers: Fleet, step: str) -> None:
    """Killed when *step* has just begun. The next run ends it, and etcd has its three members, no more."""
    first, peer, *_rest = three_servers.servers
    others = [h for h in three_servers.hosts if h != first]
    units, begun = three_servers.invocations(others), len(rows("SELECT id FROM rebuilds WHERE host = ?", first))
    three_servers.wipe(first, stale_host_key=True)
    process = three_servers.start("site.yml", "--limit", first, *ACCEPT)
    wait_for_step(process, first, step, begun)
    process.kill()

    run = three_servers.play("--limit", first, *ACCEPT).require()

    assert {host for host, _ in run.changed} <= {first}
    assert etcd_members(three_servers, peer) == set(three_servers.servers)
    assert set(three_servers.nodes(peer)) == three_servers.ready() == set(three_servers.hosts)
    assert three_servers.invocations(others) == units
    record = Rebuilds(Store(LEDGER)).of_host(first)[-1]
    assert (record.status, len(record.attempts), verify(record)) == ("succeeded", 2, [])
    assert three_servers.play("--limit", first).require().changed == set()


def a_server_is_not_rebuilt_while_etcd_has_no_quorum(three_servers: Fleet) -> None:
    """One is wiped, another hangs: nothing is begun that could not be ended."""
    first, peer, third = three_servers.servers
    three_servers.wipe(first, stale_host_key=True)
    three_servers.sh(third, "systemctl kill --signal=SIGSTOP k3s")
    try:
        run = three_servers.play("--limit", first, *ACCEPT)
    finally:
        three_servers.sh(third, "systemctl kill --signal=SIGCONT k3s")
    assert run.rc != 0
    assert run.changed == set()
    assert f"Mend {peer} first" in run.failures[-1]["msg"]
    # without a quorum k3s gives up and starts anew
    deadline = time.monotonic() + 180
    while "ok" not in three_servers.kubectl("get", "--raw=/readyz", server=peer, check=False):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert set(three_servers.nodes(peer)) == set(three_servers.hosts)
    three_servers.play("--limit", first, *ACCEPT).require()
    assert etcd_members(three_servers, peer) == set(three_servers.servers)


if os.environ.get("PIFLEET_TEST_FULL"):  # etcd's timeouts make them tests of minutes
    test_a_servers_rebuild_that_was_killed_goes_on = a_servers_rebuild_that_was_killed_goes_on
    test_a_server_is_not_restarted_while_another_one_is_missed = a_server_is_not_restarted_while_another_one_is_missed
    test_a_server_is_not_rebuilt_while_etcd_has_no_quorum = a_server_is_not_rebuilt_while_etcd_has_no_quorum
