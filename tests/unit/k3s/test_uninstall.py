# SPDX-License-Identifier: GPL-3.0-or-later
"""What is removed from a node, and what is nobody's to remove."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.pifleet.ops.plugins.module_utils._k3s import uninstall
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.uninstall import Facts, Process, Unit, make_plan

DATA = "/var/lib/rancher/k3s"
SAVED = """\
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:DOCKER - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -s 10.42.0.0/16 ! -d 10.42.0.0/16 -j MASQUERADE
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A KUBE-SERVICES -d 10.43.0.1/32 -j KUBE-SVC-1
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
COMMIT
"""
BARE = Facts(
    data_dir=DATA,
    units=(Unit("k3s.service", "inactive", "", False), Unit("k3s-agent.service", "inactive", "", False)),
    files=(),
    managed=(),
    links=(),
    processes=(Process(1, 0, ("/sbin/init",), "0::/init.scope"),),
    mounts=("/", "/proc", "/var/lib/kubelet"),
    interfaces={"lo": "", "eth0": "", "docker0": ""},
    routes=("default", "192.0.2.0/24"),
    rules={},
    cluster_cidrs=("10.42.0.0/16",),
)
AGENT = replace(
    BARE,
    units=(Unit("k3s.service", "inactive", "", False), Unit("k3s-agent.service", "active", "enabled", True)),
    files=(
        f"{DATA}/agent",
        f"{DATA}/data",
        "/etc/rancher/k3s",
        "/etc/rancher/node",
        "/usr/local/bin/k3s",
        "/var/lib/kubelet",
        "/var/lib/pifleet/k3s.json",
        "/var/lib/pifleet/snapshots",
        "/etc/systemd/system/k3s-agent.service",
        "/etc/sysctl.d/90-kubelet.conf",
    ),
    managed=("/etc/sysctl.d/90-kubelet.conf",),
    links=("/usr/local/bin/kubectl",),
    processes=(
        *BARE.processes,
        Process(90, 1, ("/usr/bin/containerd-shim-runc-v2", "-address", "/run/k3s/containerd/containerd.sock"), "0::/system.slice"),
        Process(91, 90, ("/pause",), "0::/elsewhere"),
        Process(92, 91, ("nginx",), "0::/elsewhere"),
        Process(93, 1, (f"{DATA}/data/abc/bin/containerd-shim-runc-v2", "-id", "x"), "0::/elsewhere"),
        Process(94, 1, ("stray",), "0::/kubepods/besteffort/pod1"),
        Process(
            80, 1, ("/usr/bin/containerd-shim-runc-v2", "-address", "/run/containerd/containerd.sock"), "0::/system.slice/docker.service"
        ),
        Process(81, 80, ("postgres",), "0::/docker/1"),
    ),
    mounts=(
        *BARE.mounts,
        "/run/k3s/containerd/x/rootfs",
        "/run/k3s/containerd/x/rootfs/sub",
        "/run/netns/cni-1",
        "/run/netns/mine",
        f"{DATA}/agent/disk",
    ),
    interfaces={**BARE.interfaces, "veth1": "cni0", "cni0": "", "flannel.1": "", "veth9": "docker0"},
    routes=("default", "192.0.2.0/24", "10.42.1.0/24", "10.43.0.0/24"),
    rules={"iptables": SAVED, "ip6tables": "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"},
)


def test_a_node_without_k3s_is_left_alone():
    assert make_plan(BARE).changes == ()


def test_without_a_trace_of_k3s_the_network_of_another_program_is_left_alone():
    """Podman has chains CNI-* too, and a home network may be 10.42.0.0/16."""
    other = replace(BARE, interfaces=AGENT.interfaces, routes=AGENT.routes, rules=AGENT.rules, mounts=("/run/netns/cni-1",))
    assert make_plan(other).changes == ()


def test_everything_that_k3s_made_goes():
    plan = make_plan(AGENT)
    assert (plan.stops, plan.disables) == (("k3s-agent.service",), ("k3s-agent.service",))
    assert plan.kills == (90, 91, 92, 93, 94)
    assert plan.unmounts == ("/run/netns/cni-1", "/run/k3s/containerd/x/rootfs/sub", "/run/k3s/containerd/x/rootfs")
    assert plan.interfaces == ("veth1", "cni0", "flannel.1")
    assert plan.routes == ("10.42.1.0/24",)
    assert set(plan.rules) == {"iptables"}
    assert set(plan.files) == {*AGENT.files, *AGENT.links} - {"/etc/rancher/node", "/var/lib/pifleet/snapshots"}
    assert [(c.kind, c.target) for c in plan.changes][:3] == [
        ("unit", "k3s-agent.service"),
        ("unit", "k3s-agent.service"),
        ("process", "containers"),
    ]


def test_what_says_that_there_was_a_k3s_goes_last():
    assert make_plan(AGENT).files[-3:] == ("/etc/rancher/k3s", "/usr/local/bin/k3s", "/var/lib/pifleet/k3s.json")


def test_rules_of_other_programs_stay():
    assert make_plan(AGENT).rules["iptables"] == (
        "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\nCOMMIT\n"
    )


def test_password_and_snapshots_stay_unless_asked_for():
    kept = {k.path for k in make_plan(AGENT).kept}
    assert kept == {"/etc/rancher/node", "/var/lib/pifleet/snapshots", f"{DATA}/agent/disk"}
    plan = make_plan(AGENT, remove_identity=True, remove_snapshots=True)
    assert {"/etc/rancher/node", "/var/lib/pifleet/snapshots"} <= set(plan.files)
    assert {k.path for k in plan.kept} == {f"{DATA}/agent/disk"}


def test_a_run_that_was_killed_is_finished_by_the_next_one():
    """Whatever was removed already, as long as one trace is left the rest goes too."""
    plan = make_plan(AGENT)
    for done in range(len(plan.files)):
        left = plan.files[done:]
        rest = make_plan(replace(AGENT, files=left, links=tuple(link for link in AGENT.links if link in left), units=BARE.units))
        assert rest.files == left
        assert rest.rules == plan.rules and rest.interfaces == plan.interfaces


def test_after_it_nothing_is_left_to_do():
    assert make_plan(replace(BARE, files=("/etc/rancher/node", "/var/lib/pifleet/snapshots"))).changes == ()


def test_own_routes_only():
    assert uninstall.routes_of_cluster(["default", "10.42.3.0/24", "2001:db8::/64", "10.0.0.0/8"], ["10.42.0.0/16", "fd00:42::/56"]) == (
        "10.42.3.0/24",
    )
