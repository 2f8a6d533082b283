# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a node as far as base_os decides by it: taken in one go, then planned on without looking again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._base_os import facts, parse
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.host import Host
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.hosts_file import HostEntry
from ansible_collections.pifleet.ops.plugins.module_utils._common.dpkg import PackageState, package_state

HOSTNAME = "/etc/hostname"
KERNEL_HOSTNAME = "/proc/sys/kernel/hostname"
HOSTS = "/etc/hosts"
# cloud-init with `manage_etc_hosts` (Raspberry Pi Imager sets it) writes /etc/hosts from this template at every boot.
HOSTS_TEMPLATE = "/etc/cloud/templates/hosts.debian.tmpl"
FSTAB = "/etc/fstab"
SYSCTLS = "/etc/sysctl.d/90-pifleet.conf"
MODULES = "/etc/modules-load.d/pifleet.conf"
JOURNALD = "/etc/systemd/journald.conf.d/90-pifleet.conf"
TIMESYNCD = "/etc/systemd/timesyncd.conf.d/90-pifleet.conf"
CHRONY = "/etc/chrony/sources.d/pifleet.sources"
RPI_SWAP_MAIN = "/etc/rpi/swap.conf"
RPI_SWAP = "/etc/rpi/swap.conf.d/90-pifleet.conf"
ZRAM_GENERATOR = "/etc/systemd/zram-generator.conf.d/90-pifleet.conf"
PACKAGES = "/var/cache/apt/archives"
STATE = "/var/lib/pifleet/base_os.json"

# Services that make swap at boot without a unit of systemd's own: Raspberry Pi OS bookworm, Debian's zram-tools, Ubuntu's zram-config.
FILE_SWAP_SERVICES = ("dphys-swapfile.service",)
ZRAM_SWAP_SERVICES = ("zramswap.service", "zram-config.service")
# Packages that a plan may need beside the desired ones.
TIME_PACKAGE = "systemd-timesyncd"
ZRAM_PACKAGE = "systemd-zram-generator"
OWN_PACKAGES = (TIME_PACKAGE, ZRAM_PACKAGE)
AVAHI = "avahi-daemon.service"
JOURNALD_UNIT = "systemd-journald.service"
UNIT_FOLDERS = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")
WANTS = tuple(f"/etc/systemd/system/{target}.target.wants" for target in ("multi-user", "sysinit", "local-fs", "swap"))


@dataclass(frozen=True, slots=True)
class Desired:
    """What base_os is asked for. None: leave that alone; empty: what an earlier run put there goes.

    *clock_reference*: the controller's clock, in seconds since the epoch, when the module was called; *max_clock_skew*: seconds.
    """

    hostname: str | None = None
    hosts: tuple[HostEntry, ...] | None = None
    packages: tuple[str, ...] = ()
    ntp_servers: tuple[str, ...] | None = None
    clock_reference: float | None = None
    max_clock_skew: float = 60.0
    swap_policy: str = "keep"
    sysctls: Mapping[str, str] | None = None
    kernel_modules: tuple[str, ...] | None = None
    journal_max_use: str | None = None
    sd_card_wear: bool | None = None


@dataclass(frozen=True, slots=True)
class Memo:
    """What an earlier run noted before it might be killed. *pending*: units whose files were written and that were not restarted yet;
    *cmdline_boot*: boot id of the boot in which the kernel command line was edited."""

    pending: tuple[str, ...] = ()
    cmdline_boot: str = ""


@dataclass(frozen=True, slots=True)
class Sysctl:
    """The effective value of a kernel parameter, None where the kernel has none of that name, and whether it can be written from here."""

    value: str | None
    writable: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """*files*: contents of those that exist; *read_only*: files that cannot be written; *free_mb*: free space where each file is or
    would be; *installed*, *enabled*, *running*: units; *swaps*: {device: kind}; *root_options*: mount options of the root."""

    os: facts.OsFacts
    machine: str
    container_kind: str
    init: bool
    default_route: bool
    boot_id: str
    hostname: str
    cgroup: facts.CgroupFacts
    files: Mapping[str, str]
    read_only: frozenset[str]
    free_mb: Mapping[str, int]
    sysctls: Mapping[str, Sysctl]
    modules: frozenset[str]
    packages: PackageState
    installed: frozenset[str]
    enabled: frozenset[str]
    running: frozenset[str]
    swaps: Mapping[str, str]
    zram_writeback: bool
    root_options: frozenset[str]
    synchronised: bool | None
    now: float
    memo: Memo


def take(host: Host, desired: Desired) -> Snapshot:
    """Return the state of *host* that a plan for *desired* needs. Raises PifleetError where a file cannot be read."""
    cgroup = facts.cgroup_facts(host)
    looked_at = (
        HOSTNAME,
        HOSTS,
        HOSTS_TEMPLATE,
        FSTAB,
        SYSCTLS,
        MODULES,
        JOURNALD,
        TIMESYNCD,
        CHRONY,
        RPI_SWAP_MAIN,
        RPI_SWAP,
        ZRAM_GENERATOR,
    )
    paths = (*looked_at, cgroup.cmdline_path) if cgroup.cmdline_path else looked_at
    units = (*facts.TIME_SERVICES, *FILE_SWAP_SERVICES, *ZRAM_SWAP_SERVICES, AVAHI, JOURNALD_UNIT)
    return Snapshot(
        os=facts.os_facts(host),
        machine=host.machine(),
        container_kind=facts.container_kind(host),
        init=host.exists("/run/systemd/system"),
        default_route=facts.has_default_route(host),
        boot_id=(host.text("/proc/sys/kernel/random/boot_id") or "").strip(),
        hostname=(host.text(KERNEL_HOSTNAME) or "").strip(),
        cgroup=cgroup,
        files={path: text for path in paths if (text := host.text(path)) is not None},
        read_only=frozenset(path for path in (*paths, KERNEL_HOSTNAME) if not host.writable(path)),
        free_mb={path: host.space(path).free_mb for path in (*paths, STATE, PACKAGES)},
        sysctls={key: _sysctl(host, key) for key in desired.sysctls or {}},
        modules=frozenset(_modules(host, desired.kernel_modules or ())),
        packages=package_state(
            host.text("/var/lib/dpkg/status") or "", host.names("/var/lib/dpkg/updates"), (*desired.packages, *OWN_PACKAGES)
        ),
        installed=frozenset(unit for unit in units if any(host.exists(f"{folder}/{unit}") for folder in UNIT_FOLDERS)),
        enabled=frozenset(unit for unit in units if any(host.exists(f"{folder}/{unit}") for folder in WANTS)),
        running=frozenset(unit for unit in units if _running(host, unit)),
        swaps=parse.swaps(host.text("/proc/swaps") or ""),
        zram_writeback=(host.text("/sys/block/zram0/backing_dev") or "none").strip() != "none",
        root_options=frozenset(parse.mount_options(host.text("/proc/self/mounts") or "", "/")),
        synchronised=host.synchronised(),
        now=host.now(),
        memo=read_memo(host.text(STATE)),
    )


def sysctl_path(key: str) -> str:
    """Return the file of a kernel parameter. As in sysctl.d(5), a ``/`` in the name stands for a dot in it (a VLAN's interface)."""
    return "/proc/sys/" + key.translate(str.maketrans("./", "/."))


def read_memo(text: str | None) -> Memo:
    """Return what an earlier run noted; nothing where the file is missing or not readable as that."""
    try:
        noted = json.loads(text or "{}")
        return Memo(tuple(str(unit) for unit in noted.get("pending", ())), str(noted.get("cmdline_boot", "")))
    except (ValueError, AttributeError, TypeError):
        return Memo()


def write_memo(memo: Memo) -> str:
    """Return *memo* as the content of its file."""
    return json.dumps({"pending": list(memo.pending), "cmdline_boot": memo.cmdline_boot}) + "\n"


def _sysctl(host: Host, key: str) -> Sysctl:
    path = sysctl_path(key)
    value = host.text(path)
    return Sysctl(None if value is None else " ".join(value.split()), value is not None and host.writable(path))


# A module that is built in may be neither in /sys/module nor, with a kernel of one's own, in any list: then what it brings tells.
_BROUGHT_BY = {"br_netfilter": "/proc/sys/net/bridge"}


def _modules(host: Host, wanted: Sequence[str]) -> Iterable[str]:
    """Yield those of the *wanted* modules that the kernel has, loaded or built in."""
    builtin = ""
    for name in wanted:
        if host.exists(f"/sys/module/{name.replace('-', '_')}") or host.exists(_BROUGHT_BY.get(name, "/nonexistent")):
            yield name
        else:
            builtin = builtin or host.text(f"/lib/modules/{(host.text('/proc/sys/kernel/osrelease') or '').strip()}/modules.builtin") or "-"
            if any(f"/{spelling}.ko" in builtin for spelling in (name.replace("_", "-"), name.replace("-", "_"))):
                yield name


def _running(host: Host, unit: str) -> bool:
    """Whether the unit runs: systemd keeps a control group for it just as long (v2; v1; v1 beside v2)."""
    return any(host.exists(f"/sys/fs/cgroup{part}/system.slice/{unit}") for part in ("", "/systemd", "/unified"))
