# SPDX-License-Identifier: GPL-3.0-or-later
"""What a whole converged bootstrap needs to know of a node, gathered in one go from files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._base_os import cmdline, parse
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.host import Address, Host, Space
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.k3s_facts import K3sFacts, collect_k3s
from ansible_collections.pifleet.ops.plugins.module_utils._common import hardware, os_release
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

_IPV4 = 2
_GLOBAL = 0
# Time services in the order of precedence: where two are installed, Debian lets the first conflict with or disable systemd-timesyncd.
TIME_SERVICES = ("chrony.service", "ntpsec.service", "ntp.service", "openntpd.service", "systemd-timesyncd.service")


@dataclass(frozen=True, slots=True)
class OsFacts:
    """Keys of os-release(5); *raspberry_pi_os*: a Debian made by Raspberry Pi (its own id is debian, or raspbian on 32 bit)."""

    id: str
    version_id: str
    codename: str
    pretty: str
    raspberry_pi_os: bool


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface that has an address other hosts could use."""

    name: str
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CgroupFacts:
    """*version*: of the hierarchy that systemd uses; *controllers*: that work now; *memory*: its controller does, whatever any file
    says; *booted_with_memory* and *cmdline_has_memory*: the running kernel's command line, and the file for the next boot, enable it."""

    version: int
    controllers: tuple[str, ...]
    memory: bool
    booted_with_memory: bool
    cmdline_path: str | None
    cmdline_has_memory: bool


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """*epoch*: seconds by the node's clock while the facts were read; *service*: the enabled time service, empty when none is."""

    epoch: float
    synchronised: bool | None
    service: str


@dataclass(frozen=True, slots=True)
class SwapFacts:
    """Active swap, in megabytes of 1024 × 1024 bytes; *kinds*: of ``file``, ``partition``, ``zram``."""

    total_mb: int
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ThrottledFacts:
    """The firmware's flags, by name: those that are set *now*, and those that were *since_boot*."""

    now: tuple[str, ...]
    since_boot: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """A card or disk. None where it does not tell.

    *written_bytes*: to its ext4 file systems since they were made; *wear*: 0 new, 1 used up.
    """

    size_bytes: int | None
    written_bytes: int | None
    wear: float | None


@dataclass(frozen=True, slots=True)
class PiFacts:
    """The facts of one node. Holds no secret. None is what this hardware does not have.

    *boot_path*: folder of the boot firmware's files; *temperature*: of the processor in °C; *storage*: by device; *stacks*: desired
    state of stacks was brought to it once.
    """

    hostname: str
    machine_id: str
    boot_id: str
    os: OsFacts
    machine: str
    arch: str
    model: str | None
    revision: str | None
    boot_path: str | None
    throttled: ThrottledFacts | None
    temperature: float | None
    storage: Mapping[str, StorageFacts] | None
    memory_mb: int
    cpus: int
    page_size: int
    container: bool
    container_kind: str
    python: str
    default_route: bool
    address: str
    addresses: tuple[str, ...]
    interfaces: tuple[Interface, ...]
    cgroup: CgroupFacts
    clock: ClockFacts
    swap: SwapFacts
    disk: Mapping[str, Space]
    init: bool
    stacks: bool
    k3s: K3sFacts


def collect(host: Host, python: str, data_dir: str | None = None, unit: str | None = None) -> PiFacts:
    """Return the facts of *host*.

    *python*: version of the interpreter; *data_dir* and *unit*: those of k3s, found in its config and its unit files where not given.
    Raises PifleetError where a file cannot be read, or systemd does not answer.
    """
    memory = parse.meminfo(_text(host, "/proc/meminfo"))
    machine = host.machine()
    kind = container_kind(host)
    route = parse.default_route(_text(host, "/proc/net/route"))
    known = host.addresses()
    k3s = collect_k3s(host, data_dir, unit)
    board = host.hardware()
    cgroup = cgroup_facts(host)
    return PiFacts(
        hostname=_text(host, "/proc/sys/kernel/hostname").strip(),
        machine_id=_text(host, "/etc/machine-id").strip(),
        boot_id=_text(host, "/proc/sys/kernel/random/boot_id").strip(),
        os=os_facts(host),
        machine=machine,
        arch=parse.architecture(machine),
        model=_text(host, "/proc/device-tree/model").rstrip("\0\n") or None,
        revision=board.revision,
        boot_path=cgroup.cmdline_path and os.path.dirname(cgroup.cmdline_path),
        throttled=_throttled(board.throttled),
        temperature=board.temperature,
        storage=_storage(board) or None,
        memory_mb=memory.get("MemTotal", 0) // 1024,
        cpus=parse.cpu_count(_text(host, "/sys/devices/system/cpu/online")),
        page_size=host.page_size(),
        container=bool(kind),
        container_kind=kind,
        python=python,
        default_route=has_default_route(host),
        address=_address_of(route.interface, known) if route else "",
        addresses=tuple(a.address for a in known if _usable(a)),
        interfaces=_interfaces(host, known),
        cgroup=cgroup,
        clock=ClockFacts(host.now(), host.synchronised(), time_service(host)),
        swap=SwapFacts(memory.get("SwapTotal", 0) // 1024, tuple(sorted(set(parse.swaps(_text(host, "/proc/swaps")).values())))),
        disk={path: host.space(path) for path in ("/", k3s.data_dir)},
        init=host.exists("/run/systemd/system"),
        stacks=host.exists("/var/lib/pifleet/refresh"),
        k3s=k3s,
    )


def os_facts(host: Host) -> OsFacts:
    """Return which operating system this is."""
    release = os_release.parse(host.text("/etc/os-release") or _text(host, "/usr/lib/os-release"))
    return OsFacts(
        id=release.get("ID", ""),
        version_id=release.get("VERSION_ID", ""),
        codename=release.get("VERSION_CODENAME", ""),
        pretty=release.get("PRETTY_NAME", ""),
        raspberry_pi_os=release.get("ID") == "raspbian" or host.exists("/etc/rpi-issue"),
    )


def container_kind(host: Host) -> str:
    """Return what kind of container the node is, empty on a machine of its own."""
    try:
        environ = host.text("/proc/1/environ")
    except PifleetError:  # even root may not look into a first process that has more capabilities than itself
        environ = None
    return parse.container_kind(host.text("/run/systemd/container"), environ, host.exists("/.dockerenv"), host.exists("/run/.containerenv"))


def has_default_route(host: Host) -> bool:
    """Whether there is a usable default route: k3s refuses to start where neither of these two files has one."""
    return parse.default_route(_text(host, "/proc/net/route")) is not None or parse.has_default_route6(_text(host, "/proc/net/ipv6_route"))


def cgroup_facts(host: Host) -> CgroupFacts:
    """Return the effective state of cgroups, and what the boot files ask for.

    With version 2 only cgroup.controllers counts: since Linux 6.12 /proc/cgroups lists no memory controller on a Pi although it works
    (https://github.com/raspberrypi/linux/issues/6980).
    """
    controllers = host.text("/sys/fs/cgroup/cgroup.controllers")
    if controllers is not None:
        effective = tuple(controllers.split())
    else:
        rows = [line.split() for line in _text(host, "/proc/cgroups").splitlines()]
        effective = tuple(r[0] for r in rows if r and r[-1] == "1" and host.exists(f"/sys/fs/cgroup/{r[0]}"))
    path = cmdline.find_file(host.exists)
    asked = path is not None and cmdline.asks_for_memory(_text(host, path))
    booted = cmdline.asks_for_memory(_text(host, "/proc/cmdline"))
    return CgroupFacts(1 if controllers is None else 2, effective, "memory" in effective, booted, path, asked)


def time_service(host: Host) -> str:
    """Return the enabled time service (a unit name), empty when none is enabled."""
    folders = ("/etc/systemd/system/sysinit.target.wants", "/etc/systemd/system/multi-user.target.wants")
    return next((name for name in TIME_SERVICES if any(host.exists(f"{folder}/{name}") for folder in folders)), "")


def _throttled(told: int | None) -> ThrottledFacts | None:
    flags = {
        "undervoltage": hardware.UNDERVOLTAGE,
        "frequency_capped": hardware.CAPPED,
        "throttled": hardware.THROTTLED,
        "soft_temperature_limit": hardware.SOFT_LIMIT,
    }
    if told is None:
        return None
    occurred = tuple(name for name, flag in flags.items() if told & hardware.since_boot(flag))
    return ThrottledFacts(tuple(name for name, flag in flags.items() if told & flag), occurred)


def _storage(board: hardware.Hardware) -> dict[str, StorageFacts]:
    return {
        disk: StorageFacts(board.size.get(disk), board.written.get(disk), board.wear.get(disk))
        for disk in sorted({*board.size, *board.written, *board.wear})
    }


def _text(host: Host, path: str) -> str:
    return host.text(path) or ""


def _usable(address: Address) -> bool:
    """Whether other hosts can use it for long: no loopback, no link-local, no temporary IPv6 address (those change by the day)."""
    return address.interface != "lo" and address.scope == _GLOBAL and (address.family == _IPV4 or not address.secondary)


def _address_of(interface: str, known: Sequence[Address]) -> str:
    """Return the interface's own IPv4 address: a /32 beside it is a virtual address that may move to another node at any time."""
    mine = [a for a in known if a.interface == interface and a.family == _IPV4 and a.scope == _GLOBAL]
    own = [a for a in mine if a.prefix < 32 and not a.secondary]
    return next((a.address for a in own or mine), "")


def _interfaces(host: Host, known: Sequence[Address]) -> tuple[Interface, ...]:
    by_name: dict[str, list[str]] = {}
    for address in known:
        if _usable(address):
            by_name.setdefault(address.interface, []).append(f"{address.address}/{address.prefix}")
    return tuple(
        Interface(name, _text(host, f"/sys/class/net/{name}/address").strip(), tuple(found)) for name, found in sorted(by_name.items())
    )
