# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet as its inventory describes it: the lab has no other list of nodes, addresses or users."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import read_text, write_atomic
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import paths

DATA_DIR = "/var/lib/rancher/k3s"


@dataclass(frozen=True, slots=True)
class Node:
    """One inventory host. *password* is the user's sudo password; empty: sudo asks for none."""

    name: str
    address: str
    user: str
    password: str
    data_dir: str
    k3s_version: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """The hosts of ``k3s_cluster`` in an inventory. *name* is the inventory's folder name unless the user gave another."""

    name: str
    inventory: Path
    subnet: ipaddress.IPv4Network
    nodes: tuple[Node, ...]

    @property
    def versions(self) -> tuple[str, ...]:
        return tuple(sorted({node.k3s_version for node in self.nodes}))

    def chosen(self, names: Sequence[str]) -> tuple[Node, ...]:
        """The nodes called *names* (all when empty); a first label such as ``pi-cluster-4`` is enough."""
        if not names:
            return self.nodes
        found = []
        for name in names:
            matches = [node for node in self.nodes if name in (node.name, node.name.split(".")[0])]
            if not matches:
                known = ", ".join(node.name for node in self.nodes)
                raise PifleetError(f"{self.inventory}: there is no node {name} in the group k3s_cluster.", f"Its nodes: {known}.")
            found.extend(matches)
        return tuple(found)


def load(inventory: Path, name: str = "") -> Fleet:
    """Read *inventory* (a folder or a hosts file) through Ansible, so that group_vars count as they do in a playbook."""
    if not inventory.exists():
        raise PifleetError(f"{inventory}: there is no such inventory.", "Give one with -i, such as -i inventory/lab.")
    folder = inventory if inventory.is_dir() else inventory.parent
    fleet = name or folder.resolve().name
    return from_listing(_listing(inventory, folder, fleet), fleet, inventory)


def from_listing(listing: Mapping[str, Any], name: str, inventory: Path) -> Fleet:
    """The fleet in the output of ``ansible-inventory --list``."""
    hostvars = listing.get("_meta", {}).get("hostvars", {})
    names = _members(listing, "k3s_cluster")
    if not names:
        raise PifleetError(f"{inventory}: the group k3s_cluster has no host.", "The lab starts the hosts of this group.")
    nodes = tuple(_node(host, hostvars.get(host, {}), inventory) for host in names)
    addresses = [node.address for node in nodes]
    for address in addresses:
        if addresses.count(address) > 1:
            raise PifleetError(f"{inventory}: more than one host has the address {address}.", "Give each its own ansible_host.")
    wanted = hostvars.get(names[0], {}).get("lab_subnet") or f"{addresses[0]}/24"
    subnet = ipaddress.IPv4Network(wanted, strict=False)
    for node in nodes:
        if ipaddress.IPv4Address(node.address) not in subnet:
            raise PifleetError(
                f"{inventory}: {node.name} has the address {node.address}, outside the lab's network {subnet}.", "Set lab_subnet."
            )
    return Fleet(name, inventory, subnet, nodes)


def _members(listing: Mapping[str, Any], group: str) -> list[str]:
    found = list(listing.get(group, {}).get("hosts", []))
    for child in listing.get(group, {}).get("children", []):
        found += [host for host in _members(listing, child) if host not in found]
    return found


def _node(host: str, variables: Mapping[str, Any], inventory: Path) -> Node:
    def text(key: str, default: str = "") -> str:
        value = str(variables.get(key) or default)
        if "{{" in value:
            raise PifleetError(
                f"{inventory}: {key} of {host} is a template; the lab needs its value before any playbook runs.", "Write it out."
            )
        return value

    address = text("ansible_host")
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        what = f"{inventory}: {host} has no IPv4 address in ansible_host (it is {address!r})."
        raise PifleetError(what, "Every node of a lab inventory needs one.") from None
    version = text("k3s_version")
    if not version:
        raise PifleetError(f"{inventory}: {host} has no k3s_version.", "Set it in group_vars.")
    return Node(host, address, text("ansible_user", "root"), text("ansible_become_password"), text("k3s_data_dir", DATA_DIR), version)


def _listing(inventory: Path, folder: Path, fleet: str) -> Mapping[str, Any]:
    """What ``ansible-inventory`` says; kept until a file of the inventory changes, because asking takes most of a second."""
    state = paths.fleet_state(fleet) / "inventory.json"
    digest = hashlib.sha256(str(inventory.resolve()).encode())
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes() + b"\0")
    key = digest.hexdigest()
    kept = read_text(state)
    if kept is not None and json.loads(kept)["key"] == key:
        listing: Mapping[str, Any] = json.loads(kept)["listing"]
        return listing
    program = Path(sys.executable).with_name("ansible-inventory")
    done = run([str(program), "-i", str(inventory), "--list"], env={"ANSIBLE_CONFIG": str(paths.CHECKOUT / "ansible.cfg")})
    listing = json.loads(check(done, "The inventory cannot be read.").stdout)
    write_atomic(state, json.dumps({"key": key, "listing": listing}), 0o600)
    return listing
