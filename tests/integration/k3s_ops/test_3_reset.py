# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes leave their cluster before k3s is removed, and nothing of k3s stays on them, nor anything else is touched."""

from __future__ import annotations

import time

import pytest

from tests.integration.k3s_ops.conftest import FULL, OLD, Ops, deployment, with_version

# past the modules: what a person would look for
TRACES = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /opt/k3s-standin -o -path /var/log/journal \\) -prune -o -name '*k3s*' -print;"
    " ls -d /var/lib/rancher/k3s /etc/rancher/k3s /var/lib/cni /run/flannel; ls -A /var/lib/kubelet;"
    " grep -E ' (/run/k3s|/var/lib/kubelet/|/run/netns/cni)' /proc/mounts;"
    " ip -o link | grep -E 'cni0|flannel|veth'; ip route | grep '^10[.]42';"
    " { iptables-save; ip6tables-save; } | grep -E 'KUBE|CNI|flannel|10[.]42';"
    " ps -eo args | grep -E '[c]ontainerd-shim|[k]ubelet|/[p]ause' | grep -v ^bash; systemctl list-unit-files --no-legend 'k3s*'; true"
)


def traces(fleet: Ops, host: str) -> str:
    return fleet.sh(host, TRACES).strip()


@pytest.fixture(scope="module")
def up(fleet: Ops) -> Ops:
    with_version(fleet, OLD)
    fleet.apply(deployment("web", 3))
    fleet.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    return fleet


@pytest.mark.parametrize("args", [(), ("-e", "confirm=other")])
def test_nothing_happens_without_the_fleets_name(up: Ops, args: tuple[str, ...]) -> None:
    units = up.invocations()
    run = up.reset(*args).require(2)
    assert "-e confirm=lab-ops" in run.output and run.changed == set()
    assert up.invocations() == units


def test_no_agent_is_left_without_its_cluster(up: Ops) -> None:
    units = up.invocations()
    run = up.reset("--limit", up.servers[0], *up.confirmed).require(2)
    assert "would be left without one" in " ".join(run.output.split()) and run.changed == set()
    assert up.invocations() == units


def test_one_node_leaves_the_cluster_and_nothing_of_k3s_stays_on_it(up: Ops) -> None:
    node, others = up.workers[-1], [h for h in up.hosts if h != up.workers[-1]]
    units = up.invocations(others)
    assert traces(up, node), "the oracle sees what there is to remove"
    up.sh(node, "iptables -N MINE && iptables -A MINE -s 192.0.2.1 -j DROP; ip link add mine type dummy; touch /var/lib/rancher/mine")
    check = up.reset("--limit", node, "--check").require()
    assert node in up.ready() and node not in up.cordoned()
    run = up.reset("--limit", node, *up.confirmed).require()
    assert run.changed == check.changed and {host for host, _ in run.changed} == {node}
    assert node not in up.nodes()
    assert f"{node}.node-password.k3s" not in up.kubectl("-n", "kube-system", "get", "secrets")
    assert traces(up, node) == ""
    assert "192.0.2.1" in up.sh(node, "iptables-save") and "mine" in up.sh(node, "ip link; ls /var/lib/rancher")
    assert "/etc/rancher/node" in run.output and up.sh(node, "ls /etc/rancher/node/password")
    assert up.invocations(others) == units
    assert up.reset("--limit", node, *up.confirmed).require().changed == set()
    up.kubectl("rollout", "status", "deployment/web", "--timeout=90s")


def test_it_joins_again(up: Ops) -> None:
    node = up.workers[-1]
    up.play("--limit", node).require()
    assert up.ready() == set(up.hosts)


@pytest.mark.parametrize("moment", [0.5, 1.5, 2.5] if FULL else [1.0])
def test_the_whole_fleet_also_after_a_kill(up: Ops, moment: float) -> None:
    process = up.start("playbooks/reset.yml", *up.confirmed)
    deadline = time.monotonic() + 120
    while not any("Plan the reset" in t["task"] for t in process.results()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(moment)
    process.kill()
    time.sleep(3)  # what runs on a node goes on for a moment
    run = up.reset(*up.confirmed, "-e", "k3s_reset_remove_node_identity=true").require()
    for host in up.hosts:
        assert traces(up, host) == "", host
        assert up.sh(host, "ls -d /etc/rancher/node 2>/dev/null || true") == ""
    assert "/var/lib/pifleet/snapshots" in run.output or not up.sh(up.servers[0], "ls /var/lib/pifleet/snapshots 2>/dev/null || true")
    assert up.reset(*up.confirmed).require().changed == set()
    up.play().require()
    assert up.ready() == set(up.hosts)
