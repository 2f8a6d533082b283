# SPDX-License-Identifier: GPL-3.0-or-later
"""What k3s left on a node, and the plan that removes it. Pure: facts in, plan out; the façade ``k3s_uninstall`` carries it out.

It covers what ``k3s-killall.sh`` and ``k3s-uninstall.sh`` remove (https://docs.k3s.io/installation/uninstall, written by
https://get.k3s.io) and what this collection adds. The traces that say that there was a k3s are removed last, so that a run that was
killed is finished by the next one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common.k3s_places import BINARY, STAMP
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import Change
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import install

#: the node's password: k3s-uninstall.sh keeps it too, so that the node may join again under its name
NODE_IDENTITY = "/etc/rancher/node"
SNAPSHOTS = "/var/lib/pifleet/snapshots"
#: where kube-proxy, kube-router, flannel and the CNI plugins of k3s make their interfaces: pkg/agent/flannel, k3s-killall.sh
INTERFACES = ("cni0", "flannel.1", "flannel-v6.1", "kube-ipvs0", "flannel-wg", "flannel-wg-v6")
BRIDGE = "cni0"
#: containers and volumes are mounted below these
MOUNTS = ("/run/k3s", "/var/lib/kubelet/pods", "/var/lib/kubelet/plugins")
NETNS = "/run/netns/cni-"
CONTAINERD_SOCKET = "/run/k3s/containerd/containerd.sock"
DEFAULT_CLUSTER_CIDR = "10.42.0.0/16"

_UNITS = tuple(f"{unit}.service" for unit in install.UNITS.values())
_OWN_CGROUPS = (*(f"/{unit}" for unit in _UNITS), "/kubepods")
_RULE = re.compile(r"KUBE-|CNI-|flannel", re.IGNORECASE)


def program_data(data_dir: str) -> tuple[str, ...]:
    """What k3s writes while it runs, in the order of removal.

    Of the data folder only what k3s makes there: it may be a disk of its own with other things on it.
    """
    own = [f"{data_dir}/{name}" for name in ("agent", "data", "server", "storage")]
    logs = ("/var/log/pods", "/var/log/containers")
    return ("/run/k3s", "/run/flannel", *own, "/var/lib/kubelet", "/var/lib/cni", *logs)


def installed_files() -> tuple[str, ...]:
    """What an installation consists of, in the order of removal: what says that there is one comes last."""
    scripts = [f"/usr/local/bin/{name}" for name in ("k3s-killall.sh", "k3s-uninstall.sh", "k3s-agent-uninstall.sh")]
    inputs = [install.inputs_path(role) for role in install.UNITS]
    environment = [install.env_path(role) for role in install.UNITS]
    units = [install.unit_path(role) for role in install.UNITS]
    staged = [install.STAGED_BINARY, install.STAGED_IMAGES]
    return (*scripts, *inputs, *environment, *units, *staged, "/etc/rancher/k3s", BINARY, STAMP)


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the node. *cgroups*: content of its ``/proc/<pid>/cgroup``."""

    pid: int
    parent: int
    argv: tuple[str, ...]
    cgroups: str


@dataclass(frozen=True, slots=True)
class Unit:
    """One of k3s's units. *active*, *enabled*: in systemd's words; *installed*: its file is there."""

    name: str
    active: str
    enabled: str
    installed: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is on the node.

    *files*: of the paths that a plan may remove, those that exist (a folder that is an empty mount point does not count);
    *managed*: further files that the last installation noted as its own; *links*: ``kubectl`` and so on that point to k3s;
    *mounts*: all mount points; *interfaces*: master by name; *routes*: destinations of routes that no kernel interface made;
    *rules*: what each ``iptables-save`` program printed, by program.
    """

    data_dir: str
    units: tuple[Unit, ...]
    files: tuple[str, ...]
    managed: tuple[str, ...]
    links: tuple[str, ...]
    processes: tuple[Process, ...]
    mounts: tuple[str, ...]
    interfaces: Mapping[str, str]
    routes: tuple[str, ...]
    rules: Mapping[str, str]
    cluster_cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that stays on the node, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """*changes* in order; the other fields carry them out, in the order of their names here; *kept* is what stays."""

    changes: tuple[Change, ...]
    stops: tuple[str, ...]
    disables: tuple[str, ...]
    kills: tuple[int, ...]
    unmounts: tuple[str, ...]
    interfaces: tuple[str, ...]
    routes: tuple[str, ...]
    rules: Mapping[str, str]
    files: tuple[str, ...]
    kept: tuple[Kept, ...]


def make_plan(facts: Facts, *, remove_identity: bool = False, remove_snapshots: bool = False) -> Plan:
    """Return what removes k3s from the node that *facts* describe. Empty on a node that never had one."""
    stops = tuple(u.name for u in facts.units if u.active not in ("inactive", "failed", ""))
    disables = tuple(u.name for u in facts.units if u.enabled == "enabled")
    extra = ((NODE_IDENTITY,) if remove_identity else ()) + ((SNAPSHOTS,) if remove_snapshots else ())
    further = [p for p in facts.managed if p not in installed_files() and not p.startswith("/etc/rancher/k3s/")]
    wanted = [*program_data(facts.data_dir), *extra, *facts.links, *further, *installed_files()]
    files = tuple(dict.fromkeys(p for p in wanted if p in facts.files or p in facts.links))
    traces = bool(set(files) - set(extra)) or any(u.installed for u in facts.units)
    # network settings are only ours where k3s was: elsewhere the same names may be another program's
    kills = containers(facts.processes, facts.data_dir) if traces else ()
    unmounts = mounts_of_k3s(facts.mounts) if traces else ()
    interfaces = interfaces_of_k3s(facts.interfaces) if traces else ()
    routes = routes_of_cluster(facts.routes, facts.cluster_cidrs) if traces else ()
    rules = {
        p: left for p, saved in sorted(facts.rules.items()) if traces and (left := without_own_rules(saved, facts.cluster_cidrs)) != saved
    }
    changes = [
        *(Change("unit", name, "running", "running", "stopped") for name in stops),
        *(Change("unit", name, "enabled", "enabled", "disabled") for name in disables),
        *([Change("process", "containers", "running", f"{len(kills)} processes", "")] if kills else []),
        *(Change("mount", path, "mounted", path) for path in unmounts),
        *(Change("interface", name, "present", name) for name in interfaces),
        *(Change("route", destination, "present", destination) for destination in routes),
        *(Change("rules", program, "present", own_rules(facts.rules[program], facts.cluster_cidrs)) for program in rules),
        *(Change("file", path, "present", path) for path in files),
    ]
    kept = _kept(facts, remove_identity, remove_snapshots, files)
    return Plan(tuple(changes), stops, disables, kills, unmounts, interfaces, routes, rules, files, kept)


def _kept(facts: Facts, remove_identity: bool, remove_snapshots: bool, files: Sequence[str]) -> tuple[Kept, ...]:
    kept = []
    if NODE_IDENTITY in facts.files and not remove_identity:
        kept.append(Kept(NODE_IDENTITY, "the node's password, with which it may join again under its name"))
    if SNAPSHOTS in facts.files and not remove_snapshots:
        kept.append(Kept(SNAPSHOTS, "snapshots of the datastore"))
    below = [m for m in facts.mounts if any(m.startswith(f"{f}/") for f in files) and m not in mounts_of_k3s(facts.mounts)]
    kept += [Kept(mount, "a file system of its own, which is not k3s's") for mount in sorted(below)]
    return tuple(kept)


def containers(processes: Iterable[Process], data_dir: str) -> tuple[int, ...]:
    """Return the containers' processes: k3s's containerd shims, what they started, and what is left in k3s's control groups.

    Stopping the unit leaves them running (KillMode=process). Those of a Docker Engine on the same node are none of them.
    """
    processes = list(processes)
    roots = {p.pid for p in processes if _is_shim(p, data_dir) or any(g in p.cgroups for g in _OWN_CGROUPS)}
    while True:
        children = {p.pid for p in processes if p.parent in roots} - roots
        if not children:
            return tuple(sorted(roots))
        roots |= children


def _is_shim(process: Process, data_dir: str) -> bool:
    program = process.argv[0] if process.argv else ""
    if "containerd-shim" not in program:
        return False
    return program.startswith(f"{data_dir}/data/") or CONTAINERD_SOCKET in process.argv


def mounts_of_k3s(mounts: Iterable[str]) -> tuple[str, ...]:
    """Return the mount points of containers and volumes, deepest first."""
    own = {m for m in mounts if m.startswith(NETNS) or any(m == root or m.startswith(f"{root}/") for root in MOUNTS)}
    return tuple(sorted(own, reverse=True))


def interfaces_of_k3s(interfaces: Mapping[str, str]) -> tuple[str, ...]:
    """Return the interfaces to delete: the ends of pods first, then those that k3s names."""
    pods = sorted(name for name, master in interfaces.items() if master == BRIDGE)
    return (*pods, *(name for name in INTERFACES if name in interfaces))


def routes_of_cluster(routes: Iterable[str], cidrs: Iterable[str]) -> tuple[str, ...]:
    """Return the destinations inside the cluster's pod networks."""
    networks = [n for c in cidrs if (n := _network(c))]
    return tuple(r for r in routes if (n := _network(r)) and any(_inside(n, c) for c in networks))


def _inside(inner: ipaddress.IPv4Network | ipaddress.IPv6Network, outer: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    same = inner.version == outer.version
    return same and int(outer[0]) <= int(inner[0]) and int(inner[-1]) <= int(outer[-1])


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def without_own_rules(saved: str, cidrs: Iterable[str]) -> str:
    """Return the output of ``iptables-save`` without the lines of k3s, for ``iptables-restore``."""
    own = set(own_rules(saved, cidrs).splitlines())
    return "".join(f"{line}\n" for line in saved.splitlines() if line not in own) if own else saved


def own_rules(saved: str, cidrs: Iterable[str]) -> str:
    """Return the lines of ``iptables-save`` that are k3s's: chains and rules of kube-proxy, CNI and flannel, and of the pod network."""
    networks = tuple(cidrs)
    lines = [line for line in saved.splitlines() if line[:1] in ("-", ":")]
    return "".join(f"{line}\n" for line in lines if _RULE.search(line) or any(f" {c} " in f"{line} " for c in networks))
