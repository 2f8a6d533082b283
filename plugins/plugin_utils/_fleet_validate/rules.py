# SPDX-License-Identifier: GPL-3.0-or-later
"""What one host's spec cannot see: the fleet as a whole, and formats that k3s and Kubernetes ask for. Pure but for ``artifact_dir``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.config import RESERVED, RESERVED_VARIABLES, VARIABLE_HINT, not_variables
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import git
from ansible_collections.pifleet.ops.plugins.plugin_utils._fleet_validate.fleet import Fleet, Host, Problem, Rule, parse_address
from ansible_collections.pifleet.ops.plugins.plugin_utils._k3s_release.names import VERSION

Network = IPv4Network | IPv6Network

#: RFC 1123 subdomain, as Kubernetes wants node names: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: https://docs.k3s.io/cli/token: K10<SHA-256 of the CA>::<user>:<password>
_SECURE_TOKEN = re.compile(r"K10[0-9a-f]{64}::[^\s:]+:[^\s:]+")
#: the short form; ":" would divide user and password, and the rest does not survive the CSV and environment files it is written to
_SHORT_TOKEN = re.compile(r"[A-Za-z0-9._~+/=@%^!-]+")
_TAINT = re.compile(r"[^\s=:]+(=[^\s=:]*)?:(NoSchedule|PreferNoSchedule|NoExecute)")
_TAINT_HINT = "Write it as key=value:NoSchedule (or PreferNoSchedule, NoExecute)."
#: k3s' own: https://docs.k3s.io/cli/server#networking
_CIDR_DEFAULTS = {"cluster-cidr": "10.42.0.0/16", "service-cidr": "10.43.0.0/16"}
_DEFAULT_POOLS = ({"base": "10.213.0.0/16"},)  # of the role stacks
#: settings that k3s refuses to join with when they differ: https://docs.k3s.io/cli/server#critical-configuration-values
_CRITICAL = (
    "cluster-cidr",
    "service-cidr",
    "cluster-dns",
    "cluster-domain",
    "disable-cloud-controller",
    "egress-selector-mode",
    "flannel-backend",
)


def groups(fleet: Fleet) -> Iterator[Problem]:
    """Empty control_plane, hosts in both groups, in none, or outside of k3s_cluster."""
    if not fleet.control_plane:
        yield Problem((), "group control_plane", "has no host", "Put one host into it, or three for high availability.")
    servers, workers, cluster = set(fleet.control_plane), set(fleet.workers), set(fleet.cluster)
    for name in (host.name for host in fleet.hosts):
        if name in servers & workers:
            yield Problem((name,), "groups control_plane and workers", "host is in both", "Leave it in one of them.")
        if name not in servers | workers:
            yield Problem((name,), "group k3s_cluster", "host is neither in control_plane nor in workers", "Put it into one of them.")
        if name not in cluster:
            yield Problem((name,), "group k3s_cluster", "host is not in it", "Make control_plane and workers children of k3s_cluster.")


def number_of_servers(fleet: Fleet) -> Iterator[Problem]:
    """Embedded etcd needs an odd number (https://docs.k3s.io/datastore/ha-embedded)."""
    count = len(fleet.control_plane)
    external = [host for host in fleet.servers if host.text("k3s_datastore_endpoint")]
    if count and count % 2 == 0 and not external:
        hint = f"Use {count - 1} or {count + 1}, or set k3s_datastore_endpoint: {count} survive no more losses than {count - 1}."
        yield Problem(fleet.control_plane, "group control_plane", f"has {count} hosts, an even number of etcd servers", hint)
    if external and len(external) != count:
        without = tuple(h.name for h in fleet.servers if h not in external)
        yield Problem(without, "k3s_datastore_endpoint", "is not set, but is on other servers", "Set it for the whole control_plane.")


def names(fleet: Fleet) -> Iterator[Problem]:
    """Node names (the inventory's, lower case) and the hostnames (their first label) that base_os gives."""
    nodes: dict[str, list[str]] = {}
    hostnames: dict[str, list[str]] = {}
    for host in fleet.hosts:
        node = host.name.lower()
        nodes.setdefault(node, []).append(host.name)
        if len(node) > 253 or not all(_LABEL.fullmatch(label) for label in node.split(".")):
            hint = "Use letters, digits, - and dots, each part beginning and ending with a letter or digit, of at most 63 characters."
            yield Problem((host.name,), "inventory name", "is no name that Kubernetes takes for a node (RFC 1123)", hint)
        elif parse_address(node):
            hint = "Give the node a name, and put the address into ansible_host."
            yield Problem((host.name,), "inventory name", "is an address, and nodes are named after it", hint)
        elif str(host.vars.get("base_os_manage_hostname", True)).lower() not in ("false", "no", "0", "off"):
            hostnames.setdefault(node.split(".")[0], []).append(host.name)
    for node, same in nodes.items():
        if len(same) > 1:
            yield Problem(
                tuple(same), "inventory name", f"hosts would all be the node {node}", "Names differ by more than upper and lower case."
            )
    for short, same in hostnames.items():
        if len({name.lower() for name in same}) > 1:
            yield Problem(
                tuple(same), "inventory name", f"hosts would all get the hostname {short}", "Let the first parts of the names differ."
            )


def addresses(fleet: Fleet) -> Iterator[Problem]:
    """Each host its own address, for ssh and for k3s."""
    doors: dict[tuple[str, str], list[str]] = {}
    nodes: dict[str, list[str]] = {}
    for host in fleet.hosts:
        if host.text("ansible_connection") in ("", "ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh"):
            doors.setdefault((host.connects_to.lower(), host.text("ansible_port") or "22"), []).append(host.name)
        for address in host.node_ips:
            if host.text("k3s_node_ip") or not address.is_loopback:
                nodes.setdefault(str(address), []).append(host.name)
    seen: set[tuple[str, ...]] = set()
    for (door, _port), same in doors.items():
        if len(same) > 1:
            seen.add(tuple(same))
            yield Problem(tuple(same), "ansible_host", f"hosts have the same address {door}", "Give each host its own.")
    for node_ip, same in nodes.items():
        if len(same) > 1 and tuple(same) not in seen:
            yield Problem(tuple(same), "k3s_node_ip, ansible_host", f"hosts have the same address {node_ip}", "Give each host its own.")


def address_formats(fleet: Fleet) -> Iterator[Problem]:
    """k3s resolves no mDNS: where it needs an address it gets one."""
    for host in fleet.hosts:
        node_ip, endpoint = host.text("k3s_node_ip"), host.text("k3s_api_endpoint")
        for part in node_ip.split(",") if node_ip else ():
            address = parse_address(part)
            if address is None:
                hint = "Write the address of the node, such as 192.0.2.11 (IPv4 and IPv6 parted by a comma), or leave it out."
                yield _of(host, "k3s_node_ip", f"is {part.strip()!r}, which is no address", hint)
            elif address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
                yield _of(host, "k3s_node_ip", f"is {address}, which other nodes cannot reach", "Write the node's address in its network.")
        if endpoint and parse_address(endpoint) is None:
            yield from _endpoint_name(host, endpoint)


def _endpoint_name(host: Host, endpoint: str) -> Iterator[Problem]:
    labels = endpoint.lower().rstrip(".").split(".")
    if "/" in endpoint or ":" in endpoint:
        yield _of(host, "k3s_api_endpoint", f"is {endpoint!r}", "Give the address alone, without https:// and port (which is 6443).")
    elif len(labels) < 2 or labels[-1] == "local" or not all(_LABEL.fullmatch(label) for label in labels):
        what = f"is {endpoint!r}, which k3s cannot resolve (it asks no mDNS and no /etc/hosts of the controller)"
        yield _of(host, "k3s_api_endpoint", what, "Write an address, such as 192.0.2.10, or a name that DNS knows everywhere.")


def versions(fleet: Fleet) -> Iterator[Problem]:
    """One version of k3s for the fleet, written as a release is called."""
    found = fleet.values("k3s_version")
    for version, hosts in found.items():
        if not VERSION.fullmatch(version):
            hint = "Write it as its release is called, such as v1.34.4+k3s1."
            yield Problem(tuple(hosts), fleet.place(hosts, "k3s_version"), f"is {version!r}, which is no version of k3s", hint)
    yield from _differs(fleet, "k3s_version", "Set it once, for the group k3s_cluster; playbooks/upgrade.yml changes it node by node.")


def same_everywhere(fleet: Fleet) -> Iterator[Problem]:
    """What the nodes of one cluster have in common."""
    for variable in ("k3s_api_endpoint", "k3s_token", "k3s_agent_token"):
        yield from _differs(fleet, variable, "Set it once, for the group k3s_cluster.", shown=variable == "k3s_api_endpoint")
    for key in _CRITICAL:
        found: dict[str, list[str]] = {}
        for host in fleet.servers:
            found.setdefault(str(_config(host).get(key, "")), []).append(host.name)
        if len(found) > 1:
            hint = "Set it once, for the group control_plane: k3s servers with different values do not join."
            yield Problem(
                fleet.control_plane, fleet.place(fleet.control_plane, "k3s_server_config", key), "differs among the servers", hint
            )


def tokens(fleet: Fleet) -> Iterator[Problem]:
    """The value itself is never told."""
    for variable in ("k3s_token", "k3s_agent_token"):
        for value, hosts in fleet.values(variable).items():
            secure = value.startswith("K10")
            if secure and not _SECURE_TOKEN.fullmatch(value):
                hint = "Copy all of the file server/token: K10, 64 hexadecimal digits, two colons, a name, a colon, a password."
                yield Problem(tuple(hosts), fleet.place(hosts, variable), "begins with K10 but is no whole token of k3s", hint)
            elif not secure and not _SHORT_TOKEN.fullmatch(value):
                hint = "Use letters, digits and . _ ~ + / = @ % ^ ! - only, for instance from `openssl rand -hex 32`."
                yield Problem(
                    tuple(hosts),
                    fleet.place(hosts, variable),
                    "has characters that a token cannot have (blanks, colons, quotes, ...)",
                    hint,
                )


def networks(fleet: Fleet) -> Iterator[Problem]:
    """Networks of pods, services and nodes are apart."""
    for host in fleet.servers[:1]:
        found: list[tuple[str, Network]] = []
        for key, default in _CIDR_DEFAULTS.items():
            for part in str(_config(host).get(key) or default).split(","):
                try:
                    found.append((key, ip_network(part.strip())))
                except ValueError as error:
                    yield _of(
                        host,
                        f"k3s_server_config: {key}",
                        f"is {part.strip()!r}, which is no network ({error})",
                        "Write such as 10.42.0.0/16.",
                    )
        for at, (key, network) in enumerate(found):
            for other_key, other in found[at + 1 :]:
                if network.overlaps(other):
                    yield _of(
                        host, f"k3s_server_config: {key}, {other_key}", f"{network} and {other} overlap", "Choose networks that are apart."
                    )
        for key, network in found:
            inside = tuple(h.name for h in fleet.hosts if any(address in network for address in h.node_ips))
            if inside:
                hint = f"Choose another {key} in k3s_server_config, or other addresses."
                yield Problem(inside, host.place("k3s_server_config", key), f"{network} holds the addresses of nodes", hint)


def stack_pools(fleet: Fleet) -> Iterator[Problem]:
    """Networks of stacks are apart from those of the nodes, and of k3s."""
    config = _config(fleet.servers[0]) if fleet.servers else {}
    of_k3s = [part for key, default in _CIDR_DEFAULTS.items() for part in str(config.get(key) or default).split(",")]
    for host in fleet.hosts:
        given = host.vars.get("stacks_address_pools")
        for pool in given if isinstance(given, list) else _DEFAULT_POOLS:
            base = str(pool.get("base") if isinstance(pool, dict) else pool)
            try:
                network = ip_network(base)
            except ValueError as error:
                yield _of(host, "stacks_address_pools", f"has {base!r}, which is no network ({error})", "Write such as 10.213.0.0/16.")
                continue
            inside = [str(address) for other in fleet.hosts for address in other.node_ips if address in network]
            taken = [part.strip() for part in of_k3s if _overlaps(network, part.strip())]
            for what in [*(f"the node's address {address}" for address in inside[:1]), *(f"k3s' network {part}" for part in taken[:1])]:
                yield _of(host, "stacks_address_pools", f"has {base}, which holds {what}", "Choose a network that nothing else uses.")


def _overlaps(network: Network, other: str) -> bool:
    try:
        return network.overlaps(ip_network(other))
    except (ValueError, TypeError):  # no network, which is told elsewhere, or one of the other family
        return False


def own_settings(fleet: Fleet) -> Iterator[Problem]:
    """Keys of k3s's configuration and environment that the collection sets itself. Values are never told: they may be tokens."""
    everybody = (*fleet.control_plane, *fleet.workers)
    for members, variable, reserved in (
        (fleet.control_plane, "k3s_server_config", RESERVED),
        (fleet.workers, "k3s_agent_config", RESERVED),
        (everybody, "k3s_extra_env", RESERVED_VARIABLES),
    ):
        found: dict[str, list[str]] = {}
        for host in (fleet.by_name[name] for name in members):
            given = host.vars.get(variable)
            for key in sorted(set(given) & set(reserved)) if isinstance(given, dict) else ():
                found.setdefault(key, []).append(host.name)
        for key, hosts in found.items():
            yield Problem(tuple(hosts), fleet.place(hosts, variable, key), "is set by the collection", f"Use {reserved[key]} instead.")


def environments(fleet: Fleet) -> Iterator[Problem]:
    """What systemd reads as a variable. Values are never told."""
    for host in fleet.hosts:
        given = host.vars.get("k3s_extra_env")
        for name in not_variables(given) if isinstance(given, dict) else ():
            yield _of(host, "k3s_extra_env", f"has {name}, which is no environment variable", VARIABLE_HINT)


def taints(fleet: Fleet) -> Iterator[Problem]:
    for host in fleet.hosts:
        given = host.vars.get("k3s_node_taints")
        for taint in given if isinstance(given, list) else ():
            if not _TAINT.fullmatch(str(taint)):
                yield _of(host, "k3s_node_taints", f"has {taint!r}, which is no taint", _TAINT_HINT)


def artifact_dir(is_dir: Callable[[str], bool] = os.path.isdir) -> Rule:
    """Return the rule that the folders to install from are there. *is_dir* is the port to the controller's file system."""
    hints = {
        "k3s_artifact_dir": "Create it with the files of the release, or leave it empty to download them.",
        "stacks_artifact_dir": "Create it with .deb files and archives of images, or leave it empty.",
    }

    def rule(fleet: Fleet) -> Iterator[Problem]:
        for variable, hint in hints.items():
            for folder, hosts in fleet.values(variable).items():
                if not is_dir(os.path.expanduser(folder)):
                    what = f"is {folder}, which is no folder of the controller"
                    yield Problem(tuple(hosts), fleet.place(hosts, variable), what, hint)

    return rule


def stack_sources(fleet: Fleet) -> Iterator[Problem]:
    """Where stacks come from, in words that git understands."""
    for host in fleet.hosts:
        try:
            folder, token = host.text("stacks_folder") or "stacks", host.text("stacks_repository_token")
            git.refuse_settings(host.text("stacks_repository"), host.text("stacks_revision"), folder, token)
        except PifleetError as error:
            variable, what = error.what.split(" ", maxsplit=1)
            yield _of(host, variable, what.rstrip("."), error.hint)


RULES: tuple[Rule, ...] = (
    groups,
    number_of_servers,
    names,
    addresses,
    address_formats,
    versions,
    same_everywhere,
    tokens,
    networks,
    stack_pools,
    stack_sources,
    own_settings,
    environments,
    taints,
    artifact_dir(),
)


def _of(host: Host, variable: str, what: str, hint: str) -> Problem:
    name, _separator, key = variable.partition(": ")
    return Problem((host.name,), host.place(name, key), what, hint)


def _config(host: Host) -> dict[str, Any]:
    given = host.vars.get("k3s_server_config")
    return given if isinstance(given, dict) else {}


def _differs(fleet: Fleet, variable: str, hint: str, *, shown: bool = True) -> Iterator[Problem]:
    found = fleet.values(variable)
    if len(found) > 1:
        values = "; ".join(f"{value} on {', '.join(hosts)}" for value, hosts in found.items()) if shown else "values are not shown"
        yield Problem((), variable, f"differs among the hosts: {values}", hint)
