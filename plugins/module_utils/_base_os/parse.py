# SPDX-License-Identifier: GPL-3.0-or-later
"""Parsers of the files of a node: text in, values out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# `uname -m` → name of the k3s release's architecture. ARMv6 (Pi 1, Zero) is missing on purpose: k3s is built for ARMv7 and later.
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "armv7l": "arm", "armv8l": "arm"}
_CONFIG_KEY = re.compile(r"""^(?P<key>[\w-]+)[ \t]*:[ \t]*(?P<quote>["']?)(?P<value>[^"'\n#]*?)(?P=quote)[ \t]*(?:#.*)?$""", re.M)


def architecture(machine: str) -> str:
    """Return ``amd64``, ``arm64`` or ``arm``, or nothing for a machine that k3s has no build for."""
    return _ARCHITECTURES.get(machine, "")


def meminfo(text: str) -> dict[str, int]:
    """Return /proc/meminfo in KiB."""
    return {m[1]: int(m[2]) for m in re.finditer(r"^(\w+):\s+(\d+)", text, re.M)}


def cpu_count(ranges: str) -> int:
    """Return how many CPUs a list such as ``0-3,5`` names (/sys/devices/system/cpu/online)."""
    ends = (part.split("-") for part in ranges.strip().split(",") if part)
    return sum(int(e[-1]) - int(e[0]) + 1 for e in ends)


def swaps(text: str) -> dict[str, str]:
    """Return {device or file: kind} of active swap in /proc/swaps; the kind is ``file``, ``partition`` or ``zram``."""
    rows = (line.split() for line in text.splitlines()[1:])
    return {row[0]: "zram" if row[0].startswith("/dev/zram") else row[1] for row in rows if len(row) > 1}


def mount_options(mounts: str, point: str) -> list[str]:
    """Return the options of what is mounted last at *point* in /proc/self/mounts; none where nothing is."""
    rows = (line.split() for line in mounts.splitlines())
    found = [row[3].split(",") for row in rows if len(row) > 3 and row[1] == point]
    return found[-1] if found else []


def container_kind(marker: str | None, environ: str | None, dockerenv: bool, containerenv: bool) -> str:
    """Return what kind of container this is, empty on a machine of its own.

    *marker*: /run/systemd/container (systemd copies ``$container`` there); *environ*: /proc/1/environ; then the files of Docker and Podman.
    """
    if marker and marker.strip():
        return marker.strip()
    for entry in (environ or "").split("\0"):
        if entry.startswith("container=") and len(entry) > len("container="):
            return entry.split("=", 1)[1]
    return "docker" if dockerenv else "podman" if containerenv else ""


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """A usable default route of IPv4: its interface and metric."""

    interface: str
    metric: int


def default_route(routes: str) -> DefaultRoute | None:
    """Return the IPv4 default route with the lowest metric in /proc/net/route, or None. Routes that reject (RTF_REJECT) do not count."""
    found = []
    for row in (line.split() for line in routes.splitlines()[1:]):
        if len(row) > 7 and row[1] == row[7] == "00000000" and int(row[3], 16) & 0x201 == 0x001:
            found.append(DefaultRoute(row[0], int(row[6])))
    return min(found, key=lambda r: r.metric, default=None)


def has_default_route6(routes: str) -> bool:
    """Whether /proc/net/ipv6_route has a usable default route (up, not rejecting, not on the loopback)."""
    rows = (line.split() for line in routes.splitlines())
    return any(len(r) > 9 and r[0] == "0" * 32 and r[1] == "00" and int(r[8], 16) & 0x201 == 0x001 and r[9] != "lo" for r in rows)


def listening(tables: Iterable[str], ports: Iterable[int]) -> dict[str, int]:
    """Return {socket inode: port} of the *ports* that something listens on, from /proc/net/tcp and tcp6."""
    wanted = {f"{port:04X}": port for port in ports}
    found: dict[str, int] = {}
    for table in tables:
        for row in (line.split() for line in table.splitlines()[1:]):
            port = row[1].rsplit(":", 1)[1] if len(row) > 9 and row[3] == "0A" else ""
            if port in wanted:
                found[row[9]] = wanted[port]
    return found


def config_value(config: str, key: str) -> str:
    """Return a top-level scalar of a k3s config.yaml, empty where it is not set. (A node has no YAML parser.)"""
    return next((m["value"].strip() for m in _CONFIG_KEY.finditer(config) if m["key"] == key), "")


def k3s_role(unit: str) -> str | None:
    """Return ``server`` or ``agent``, from the ExecStart= of a unit file, or None when it starts neither."""
    joined = re.sub(r"\\\s*\n", " ", unit)
    start = re.search(r"^ExecStart=(.*)$", joined, re.M)
    words = start[1].replace("'", " ").replace('"', " ").split() if start else []
    return next((word for word in words if word in ("server", "agent")), None)
