# SPDX-License-Identifier: GPL-3.0-or-later
"""What an inventory says, and what is wrong with it, as data. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Host:
    """A host of the inventory. *vars*: its resolved variables; *origins*: file and line of each, where known;
    *unresolved*: what templates fail with, by variable; *later*: variables that only facts of the run can give."""

    name: str
    vars: Mapping[str, Any]
    origins: Mapping[str, str] = field(default_factory=dict)
    unresolved: Mapping[str, str] = field(default_factory=dict)
    later: frozenset[str] = frozenset()

    def text(self, variable: str) -> str:
        """Return a variable as text, empty where it is not set or null."""
        value = self.vars.get(variable)
        return "" if value is None else str(value).strip()

    def place(self, variable: str, key: str = "") -> str:
        """Return a variable (and a key in it) as a person finds it: with file and line, where they are known."""
        shown = f"{variable}: {key}" if key else variable
        return f"{shown} ({self.origins[variable]})" if variable in self.origins else shown

    @cached_property
    def connects_to(self) -> str:
        return self.text("ansible_host") or self.name

    @cached_property
    def node_ips(self) -> tuple[Address, ...]:
        """The addresses k3s will use as far as the inventory tells: one, or one of each family; empty where only facts can say."""
        given = self.text("k3s_node_ip")
        return tuple(a for a in map(parse_address, given.split(",") if given else [self.connects_to]) if a)


@dataclass(frozen=True)
class Fleet:
    """*hosts*: all of k3s_cluster, control_plane and workers, in inventory order; the groups by name, in that order too."""

    hosts: tuple[Host, ...]
    cluster: tuple[str, ...]
    control_plane: tuple[str, ...]
    workers: tuple[str, ...]

    @cached_property
    def by_name(self) -> dict[str, Host]:
        return {host.name: host for host in self.hosts}

    @property
    def servers(self) -> tuple[Host, ...]:
        return tuple(self.by_name[name] for name in self.control_plane)

    def place(self, hosts: Iterable[str], variable: str, key: str = "") -> str:
        """Return where a variable of several hosts stands: with file and line, when it is the same for all of them."""
        places = {self.by_name[name].place(variable, key) for name in hosts}
        return places.pop() if len(places) == 1 else (f"{variable}: {key}" if key else variable)

    def values(self, variable: str) -> dict[str, list[str]]:
        """Return the hosts of each value that a variable has, empty ones left out."""
        found: dict[str, list[str]] = {}
        for host in self.hosts:
            if host.text(variable):
                found.setdefault(host.text(variable), []).append(host.name)
        return found


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. *hosts*: whom it concerns, none where it is the inventory as a whole; *where*: variable or group;
    *hint*: what to do."""

    hosts: tuple[str, ...]
    where: str
    what: str
    hint: str


Rule = Callable[[Fleet], Iterable[Problem]]


def parse_address(text: str) -> Address | None:
    """Return *text* as an address, None where it is none."""
    try:
        return ip_address(text.strip())
    except ValueError:
        return None
