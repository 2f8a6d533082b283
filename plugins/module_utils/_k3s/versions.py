# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes an upgrade brings to a version, in which order, and what it refuses before anything is touched.

Pure: the state of the hosts and of the API's nodes in, a plan out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.cluster import ETCD_VOTER, KUBELET_MAX_MINORS_BEHIND, Node

#: On a Node that an upgrade cordoned, so that the upgrade, and nobody else's cordon, is lifted by it.
CORDONED_BY_UPGRADE = "pifleet.ops/cordoned-by-upgrade"
#: k3s puts the label on servers with embedded etcd: pkg/etcd/etcd.go.
ETCD_LABEL = "node-role.kubernetes.io/etcd"

_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?\+k3s(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version of k3s, in the order of releases. *pre*: sort key of a pre-release part; a release sorts after its candidates."""

    major: int
    minor: int
    patch: int
    pre: tuple[tuple[int, int, str], ...]
    k3s: int

    @property
    def line(self) -> tuple[int, int]:
        """Major and minor version: what may not be skipped."""
        return self.major, self.minor


def parse(text: str) -> Version:
    """Return the version that *text*, such as ``v1.34.4+k3s1`` or ``v1.34.4-rc1+k3s1``, stands for.

    Raises PifleetError for anything else. Form: https://docs.k3s.io/reference/release-notes.
    """
    found = _VERSION.fullmatch(text)
    if not found:
        raise PifleetError(f"{text!r} is no version of k3s.", "Write it as the release does, for instance v1.34.4+k3s1.")
    words = re.findall(r"\d+|[A-Za-z]+", found[4] or "")
    # a release is greater than each of its candidates: (1, ...) sorts after (0, ...)
    pre = tuple((0, int(w), "") if w.isdigit() else (0, 0, w) for w in words) or ((1, 0, ""),)
    return Version(int(found[1]), int(found[2]), int(found[3]), pre, int(found[5]))


@dataclass(frozen=True, slots=True)
class Host:
    """One host of the inventory.

    *node*: its name in the API; *server*: whether it is in ``control_plane``; *in_run*: whether this run may change it;
    *reachable*: whether it answered; *installed*: version of the k3s on its disk, empty when there is none; *active*: its unit runs.
    """

    name: str
    node: str
    server: bool
    in_run: bool
    reachable: bool
    installed: str = ""
    active: bool = False


@dataclass(frozen=True, slots=True)
class UpgradePlan:
    """What an upgrade does, each list in inventory order.

    *servers*, *agents*: hosts that are brought to *version*, in this order; *cordoned*: those among them that an interrupted upgrade
    left cordoned; *revived*: servers that an interrupted upgrade left down, which are started without being drained, because there
    is no API to ask; *done*: hosts that need nothing; *api*: the server whose API is asked; *etcd*: whether the datastore is etcd.
    """

    version: str
    servers: tuple[str, ...]
    agents: tuple[str, ...]
    cordoned: tuple[str, ...]
    revived: tuple[str, ...]
    done: tuple[str, ...]
    api: str
    etcd: bool

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host that is changed, in order."""
        return self.servers + self.agents


@dataclass(frozen=True, slots=True)
class Installed:
    """What a host has, for a bootstrap. *in_use*: its unit runs, or it holds a cluster's data or an agent's certificates."""

    name: str
    server: bool
    in_run: bool
    version: str
    in_use: bool
    wanted: str

    @property
    def differs(self) -> bool:
        return bool(self.version) and self.in_use and self.version != self.wanted


def version_conflicts(hosts: Sequence[Installed]) -> dict[str, str]:
    """Return, by host of the run, why a bootstrap must not go on with it: a k3s in use is only ever upgraded by the upgrade.

    Nor may a node join with another version than the servers have: it could be newer than they are.
    """
    servers = [h for h in hosts if h.server and h.differs]
    found = {}
    for host in hosts:
        cause = host if host.differs else next(iter(servers), None)
        if host.in_run and cause is not None:
            who = "It" if cause is host else f"The server {cause.name}"
            found[host.name] = (
                f"{who} runs k3s {cause.version}, and k3s_version is {cause.wanted}: a bootstrap changes no version. "
                f"Nothing was changed on {host.name}. {_way_out(cause)}"
            )
    return found


def _way_out(cause: Installed) -> str:
    keep = f"set k3s_version to {cause.version}"
    if _VERSION.fullmatch(cause.version) and _VERSION.fullmatch(cause.wanted) and parse(cause.version) > parse(cause.wanted):
        return f"A downgrade needs a snapshot of the older version (docs/runbooks/snapshot-restore.md): {keep}."
    return f"Run `ansible-playbook playbooks/upgrade.yml -e k3s_version={cause.wanted}`, or {keep}."


def plan_upgrade(hosts: Sequence[Host], nodes: Mapping[str, Node] | None, target: str, api: str) -> UpgradePlan:
    """Return what brings the hosts of the run to version *target*.

    *hosts*: the whole inventory, in order; *nodes*: the API's nodes by name, None where no API answered; *api*: the host that was asked.

    Raises PifleetError, naming the hosts and what to do, for whatever must not be upgraded: see the functions called here.
    """
    parse(target)
    _refuse_unreachable(hosts)
    run = [h for h in hosts if h.in_run]
    _refuse_missing_k3s(run)
    if nodes is None:
        return _revival(run, target)
    _refuse_strangers(run, nodes)
    _refuse_downgrade(run, nodes, target)
    _refuse_skip(run, nodes, target)
    _refuse_skew(hosts, nodes, target)
    _refuse_unhealthy(hosts, nodes)
    todo = [h for h in run if not _is_done(h, nodes[h.node], target)]
    return UpgradePlan(
        version=target,
        servers=tuple(h.name for h in todo if h.server),
        agents=tuple(h.name for h in todo if not h.server),
        cordoned=tuple(h.name for h in todo if _ours(nodes[h.node])),
        revived=(),
        done=tuple(h.name for h in run if h not in todo),
        api=api,
        etcd=any(is_etcd(n) for n in nodes.values()),
    )


def is_etcd(node: Node) -> bool:
    """Whether the node is a server with embedded etcd."""
    return ETCD_LABEL in node.labels


def _ours(node: Node) -> bool:
    return CORDONED_BY_UPGRADE in node.annotations


def _is_done(host: Host, node: Node, target: str) -> bool:
    """Running is what counts: a node whose binary was replaced but not restarted is not done, nor is one that we left cordoned."""
    return node.version == target and host.installed == target and not _ours(node)


def _revival(run: Sequence[Host], target: str) -> UpgradePlan:
    """The plan when no API answers: only an upgrade that was cut off goes on, with the servers that it left down."""
    down = [h for h in run if h.server and h.installed == target and not h.active]
    if not down:
        servers = _names(h for h in run if h.server) or "the servers"
        raise PifleetError(
            f"No API answers on {servers}, and an upgrade of a cluster that is not healthy would hide what is wrong.",
            "Bring it up first (`ansible-playbook site.yml`), or look at `journalctl -u k3s -n 50` on a server. Nothing was changed.",
        )
    others = [h for h in run if h not in down and h.installed != target]
    return UpgradePlan(
        version=target,
        servers=tuple(h.name for h in (*down, *(o for o in others if o.server))),
        agents=tuple(h.name for h in run if not h.server),
        cordoned=(),
        revived=tuple(h.name for h in down),
        done=(),
        api=down[0].name,
        etcd=False,
    )


def _refuse_unreachable(hosts: Sequence[Host]) -> None:
    """A server that does not answer, in the run or not, may be what keeps a quorum; a host of the run would be left behind silently."""
    silent = [h for h in hosts if not h.reachable and (h.server or h.in_run)]
    if silent:
        what = "server" if any(h.server for h in silent) else "host"
        raise PifleetError(
            f"The {what} {_names(silent)} cannot be reached.",
            "Make it reachable" + ("" if what == "server" else ", or leave it out with --limit") + ". Nothing was changed.",
        )


def _refuse_missing_k3s(run: Sequence[Host]) -> None:
    bare = [h for h in run if not h.installed]
    if bare:
        names = ",".join(h.name for h in bare)
        raise PifleetError(f"There is no k3s on {_names(bare)}.", f"Bootstrap first: `ansible-playbook site.yml --limit {names}`.")


def _refuse_strangers(run: Sequence[Host], nodes: Mapping[str, Node]) -> None:
    missing = [h for h in run if h.node not in nodes]
    if missing:
        names = ",".join(h.name for h in missing)
        raise PifleetError(
            f"{_names(missing)} is not in the cluster.",
            f"Let it join first (`ansible-playbook site.yml --limit {names}`), or leave it out with --limit. Nothing was changed.",
        )


def _refuse_downgrade(run: Sequence[Host], nodes: Mapping[str, Node], target: str) -> None:
    newer = [h for h in run if _running(h, nodes) > parse(target)]
    if newer:
        have = nodes[newer[0].node].version
        raise PifleetError(
            f"{_names(newer)} runs k3s {have}, newer than {target}: a downgrade is refused, because the datastore does not go back.",
            "Set a newer k3s_version, or go back with a snapshot taken before the upgrade (playbooks/restore.yml). Nothing was changed.",
        )


def _refuse_skip(run: Sequence[Host], nodes: Mapping[str, Node], target: str) -> None:
    """https://kubernetes.io/releases/version-skew-policy/: no minor version is skipped."""
    goal = parse(target)
    for host in run:
        have = _running(host, nodes)
        if have.major != goal.major or goal.minor - have.minor > 1:
            raise PifleetError(
                f"{host.name} runs k3s {nodes[host.node].version}: going to {target} would skip a minor version.",
                f"Upgrade to v{have.major}.{have.minor + 1} first. Nothing was changed.",
            )


def _refuse_skew(hosts: Sequence[Host], nodes: Mapping[str, Node], target: str) -> None:
    """After the upgrade no kubelet may be newer than a server, nor more than three minor versions older than one."""
    in_run = {h.node for h in hosts if h.in_run}
    after = {n.name: parse(target) if n.name in in_run else parse(n.version) for n in nodes.values() if n.version}
    servers = [after[n.name] for n in nodes.values() if n.role == "server" and n.name in after]
    for node in nodes.values():
        if node.role == "server" or node.name not in after or not servers:
            continue
        if after[node.name] > min(servers):
            what = f"would run {target}, newer than the servers" if node.name in in_run else f"runs k3s {node.version}, newer than a server"
            raise PifleetError(
                f"The agent {node.name} {what}: no node may be newer than a server.",
                "Upgrade the servers first: run without --limit, or with --limit control_plane. Nothing was changed.",
            )
        if max(servers).minor - after[node.name].minor > KUBELET_MAX_MINORS_BEHIND:
            raise PifleetError(
                f"The agent {node.name} runs k3s {node.version}, too old for servers with {target}.",
                "Upgrade it first, or take it out of the cluster. Nothing was changed.",
            )


def _refuse_unhealthy(hosts: Sequence[Host], nodes: Mapping[str, Node]) -> None:
    """A node that an interrupted upgrade left behind, marked as such, may be what this run is to mend."""
    in_run = {h.node for h in hosts if h.in_run}
    for node in nodes.values():
        if node.ready or (node.name in in_run and _ours(node)):
            continue
        if node.role == "server" or node.name in in_run:
            raise PifleetError(
                f"The cluster is not healthy: {node.name} is not Ready ({node.not_ready_reason}).",
                "Mend it first (`ansible-playbook site.yml` says what is wrong), or take it out of the cluster. Nothing was changed.",
            )
    for node in nodes.values():
        if is_etcd(node) and node.conditions.get(ETCD_VOTER) != "True" and not _ours(node):
            raise PifleetError(
                f"The cluster is not healthy: {node.name} is no voting member of etcd.",
                "Wait until it has caught up (`kubectl describe node` shows EtcdIsVoter), or mend it first. Nothing was changed.",
            )


def _running(host: Host, nodes: Mapping[str, Node]) -> Version:
    return parse(nodes[host.node].version or host.installed)


def _names(hosts: Iterable[Host]) -> str:
    return ", ".join(h.name for h in hosts)
