# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of base_os: from a snapshot and what is desired to an ordered list of steps. Check mode, --diff and the run all use this one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._base_os import cmdline, fstab, hosts_file, parse
from ansible_collections.pifleet.ops.plugins.module_utils._base_os import snapshot as at
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.facts import TIME_SERVICES
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.snapshot import Desired, Snapshot
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import Change, Skipped
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub

SUPPORTED = {"debian": ("12", "13"), "raspbian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
SUPPORTED_TEXT = "Supported are Debian 12 and 13, Raspberry Pi OS bookworm and trixie, Ubuntu 22.04 and 24.04."
HEADER = "# Managed by pifleet.ops (role base_os): a change made here is overwritten.\n"
TIMESYNCD_UNIT = "systemd-timesyncd.service"
CHRONY_UNIT = "chrony.service"
ZRAM_UNIT = "dev-zram0.swap"
# A journal in memory stays small, whatever the SD card could hold: a Pi may have 1 GB in all.
VOLATILE_JOURNAL = "64M"
# Free space below which nothing is begun, in MB: for what apt downloads and unpacks, and for a file on its file system.
ROOM_FOR_PACKAGES = 64
ROOM_FOR_FILE = 1
# A container has its own copy of these; all other kernel parameters are its host's (and net.bridge.* comes with the host's module).
_OF_A_CONTAINER = ("net.ipv4.", "net.ipv6.")

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_ADDRESS = re.compile(r"[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
_SYSCTL = re.compile(r"[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)+")


@dataclass(frozen=True, slots=True)
class Step:
    """A change, and for a file its whole new content (None: the file goes). The change's own texts are for --diff and scrubbed."""

    change: Change
    content: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """*clock_steps* first; then, where *wait_for_clock*, until the clock is synchronised; then *steps*.

    *reboot_reasons*: why the node has to restart afterwards (``memory_cgroup``, ``swap``), by its effective state, so that a run killed
    before the restart is continued by the next one.
    """

    clock_steps: tuple[Step, ...]
    wait_for_clock: bool
    steps: tuple[Step, ...]
    skipped: tuple[Skipped, ...]
    reboot_reasons: tuple[str, ...]

    @property
    def all_steps(self) -> tuple[Step, ...]:
        return self.clock_steps + self.steps

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(step.change for step in self.all_steps)


def make_plan(node: Snapshot, desired: Desired) -> Plan:
    """Return what to do. Raises PifleetError, before anything is touched, for a node or an input that cannot work."""
    _refuse_input(desired)
    _refuse_node(node)
    refuse_skew(node.now, desired, settled=bool(node.container_kind or node.synchronised))
    skipped: list[Skipped] = []
    reasons: list[str] = []
    time_packages, clock = _clock(node, desired, skipped)
    memory = _memory(node, skipped, reasons)
    swap_packages, swap = _swap(node, desired, skipped, reasons)
    packages = [name for name in (*desired.packages, *swap_packages) if name in node.packages.missing and name not in time_packages]
    clock_steps = _with_repair(node, time_packages) + clock
    steps = [
        *(_packages(packages) if time_packages else _with_repair(node, packages)),
        *_hostname(node, desired, skipped),
        *_hosts(node, desired),
        *_modules(node, desired, skipped),
        *_sysctls(node, desired, skipped),
        *_journal(node, desired),
        *swap,
        *_mounts(node, desired, skipped),
        *memory,
    ]
    restarted = {s.change.target for s in (*clock_steps, *steps) if s.change.reason == "config_changed"}
    steps += [_unit(unit, "interrupted") for unit in node.memo.pending if unit in node.installed and unit not in restarted]
    waits = not node.container_kind and node.synchronised is not True
    plan = Plan(tuple(clock_steps), waits, tuple(steps), tuple(skipped), tuple(dict.fromkeys(reasons)))
    _refuse_without_room(node, plan)
    return plan


# ------------------------------------------------------------------------------------------------------------ refusals
def _refuse_input(desired: Desired) -> None:
    if desired.hostname is not None and not _LABEL.fullmatch(desired.hostname):
        raise PifleetError(
            f"{desired.hostname!r} cannot be a host name.",
            "Lower-case letters, digits and inner hyphens, at most 63: rename the inventory host.",
        )
    for entry in desired.hosts or ():
        if (
            not entry.names
            or not all(_NAME.fullmatch(name) for name in entry.names)
            or (entry.address and not _ADDRESS.fullmatch(entry.address))
        ):
            raise PifleetError(
                f"No line of {at.HOSTS} can be made of the address {entry.address!r} and the names {', '.join(entry.names) or '(none)'}.",
                "Set ansible_host or k3s_node_ip to an IP address.",
            )
    for key in desired.sysctls or {}:
        if not _SYSCTL.fullmatch(key):
            raise PifleetError(f"{key!r} cannot be the name of a kernel parameter.", "Correct base_os_sysctls.")


def _refuse_node(node: Snapshot) -> None:
    if node.os.version_id not in SUPPORTED.get(node.os.id, ()):
        name = node.os.pretty or f"{node.os.id} {node.os.version_id}".strip() or "an unknown operating system"
        raise PifleetError(f"The node runs {name}, which is not supported.", SUPPORTED_TEXT)
    if not parse.architecture(node.machine):
        raise PifleetError(f"There is no k3s for the machine type {node.machine}.", "Supported are x86_64, aarch64 and armv7l.")
    if not node.init:
        raise PifleetError(
            "The node does not run systemd.", "k3s needs it: install systemd-sysv, or start the container with systemd as first process."
        )
    if not node.default_route:
        raise PifleetError(
            "The node has no default route, and k3s does not start without one.",
            "Give it a gateway; a node without any needs a dummy route: `ip route add default via 203.0.113.254 dev dummy0 metric 1000`.",
        )


def refuse_skew(now: float, desired: Desired, *, settled: bool, passed: float = 0.0) -> None:
    """Raise PifleetError where the node's clock is too far from the controller's, unless a time service may still correct it (*settled*).

    *passed*: seconds since the controller's clock was read.
    """
    if desired.clock_reference is None or desired.max_clock_skew <= 0 or not settled:
        return
    skew = now - desired.clock_reference - passed
    if abs(skew) > desired.max_clock_skew:
        raise PifleetError(
            f"The node's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the controller's; "
            f"{desired.max_clock_skew:g} s are allowed.",
            "Certificates would not be valid yet, or any more: correct the clock that is wrong "
            "(base_os_ntp_servers, base_os_max_clock_skew).",
        )


def _refuse_without_room(node: Snapshot, plan: Plan) -> None:
    files = [step for step in plan.all_steps if step.change.kind == "file"]
    for step in files:
        if step.change.target in node.read_only:
            raise PifleetError(
                f"{step.change.target} has to be changed and lies on a read-only file system. Nothing was changed.",
                "Mount it writable (`mount -o remount,rw`), and switch the overlay file system or write protection off in raspi-config.",
            )
    needed = {step.change.target: ROOM_FOR_FILE for step in files}
    if files:
        needed[at.STATE] = ROOM_FOR_FILE
    if any(change.kind in ("package", "dpkg") for change in plan.changes):
        needed[at.PACKAGES] = ROOM_FOR_PACKAGES
    for path, megabytes in needed.items():
        if node.free_mb[path] < megabytes:
            raise PifleetError(
                f"The disk is full: {node.free_mb[path]} MB free for {path}, {megabytes} MB needed. Nothing was changed.",
                "Free some space (`apt-get clean`, `journalctl --vacuum-size=50M`), then run again.",
            )


# ---------------------------------------------------------------------------------------------------------------- parts
def _clock(node: Snapshot, desired: Desired, skipped: list[Skipped]) -> tuple[list[str], list[Step]]:
    """Return (packages, steps) that give the node a time service: the one that is there, else systemd-timesyncd."""
    if node.container_kind:
        skipped.append(Skipped("time synchronisation", f"a {node.container_kind} container has the clock of its host"))
        return [], []
    there = [unit for unit in TIME_SERVICES if unit in node.installed]
    service = next((unit for unit in there if unit in node.enabled), there[0] if there else TIMESYNCD_UNIT)
    files = {TIMESYNCD_UNIT: (at.TIMESYNCD, "[Time]\nNTP={}\n", " "), CHRONY_UNIT: (at.CHRONY, "server {} iburst\n", " iburst\nserver ")}
    steps: list[Step] = []
    if service in files and desired.ntp_servers is not None:
        path, form, between = files[service]
        steps += _file(node, path, HEADER + form.format(between.join(desired.ntp_servers)) if desired.ntp_servers else None)
    elif desired.ntp_servers:
        skipped.append(
            Skipped("ntp servers", f"{service} is kept as it is configured; only chrony and systemd-timesyncd are given servers")
        )
    if not there:
        return [at.TIME_PACKAGE], steps + ([_unit(service, "config_changed")] if steps else [])
    if service not in node.enabled:
        return [], [*steps, _unit(service, "not_enabled")]
    if service not in node.running:
        return [], [*steps, _unit(service, "not_running")]
    return [], steps + ([_unit(service, "config_changed")] if steps else [])


def _memory(node: Snapshot, skipped: list[Skipped], reasons: list[str]) -> list[Step]:
    """Return the edit of the kernel command line that the memory controller needs; none while the controller works."""
    if node.container_kind:
        skipped.append(Skipped("kernel command line and reboot", f"a {node.container_kind} container runs on the kernel of its host"))
    if node.cgroup.memory:
        return []
    if node.container_kind:
        raise PifleetError(
            "The container has no memory controller.",
            "Enable it on the container's host: `cgroup_enable=memory` on its kernel command line.",
        )
    path = node.cgroup.cmdline_path
    if path is None:
        raise PifleetError(
            f"The memory controller is off, and the node has none of {', '.join(cmdline.CMDLINE_FILES)}.",
            "Add `cgroup_enable=memory` to the kernel command line in its boot loader, remove `cgroup_disable=memory`, and restart it.",
        )
    wanted = cmdline.with_memory(node.files[path], path)
    reasons.append("memory_cgroup")
    if wanted != node.files[path]:
        return _file(node, path, wanted)
    if node.cgroup.booted_with_memory:
        raise PifleetError(
            "The kernel was started with `cgroup_enable=memory` and has no memory controller all the same.",
            "Update the kernel and the firmware (`apt full-upgrade`), or use the kernel of the distribution.",
        )
    if node.memo.cmdline_boot not in ("", node.boot_id):
        raise PifleetError(
            f"{path} asks for the memory controller, the node was restarted since, and /proc/cmdline does not have it.",
            "The firmware reads another file: see os_prefix= and cmdline= in config.txt, and whether the boot partition is mounted there.",
        )
    return []


def _hostname(node: Snapshot, desired: Desired, skipped: list[Skipped]) -> list[Step]:
    name = desired.hostname
    if name is None:
        return []
    steps = _file(node, at.HOSTNAME, name + "\n") if node.files.get(at.HOSTNAME, "").strip() != name else []
    if node.hostname != name:
        if at.KERNEL_HOSTNAME in node.read_only:
            skipped.append(Skipped("host name", f"this {node.container_kind or 'system'} may not change it while running"))
        else:
            steps.append(Step(Change("hostname", name, "differs", node.hostname, name)))
            if at.AVAHI in node.enabled:  # it announces the name as .local and does not notice that it changed
                steps.append(_unit(at.AVAHI, "config_changed"))
    return steps


def _hosts(node: Snapshot, desired: Desired) -> list[Step]:
    if desired.hosts is None:
        return []
    steps = []
    for path in (at.HOSTS, at.HOSTS_TEMPLATE):
        if path == at.HOSTS or path in node.files:
            steps += _file(node, path, hosts_file.with_block(node.files.get(path, ""), desired.hosts, path))
    return steps


def _modules(node: Snapshot, desired: Desired, skipped: list[Skipped]) -> list[Step]:
    if desired.kernel_modules is None:
        return []
    if node.container_kind:
        if desired.kernel_modules:
            names = ", ".join(desired.kernel_modules)
            skipped.append(Skipped("kernel modules", f"a {node.container_kind} container uses those of its host: load {names} there"))
        return []
    steps = _file(node, at.MODULES, HEADER + "".join(f"{m}\n" for m in desired.kernel_modules) if desired.kernel_modules else None)
    return steps + [Step(Change("module", name, "not_loaded", "", name)) for name in desired.kernel_modules if name not in node.modules]


def _sysctls(node: Snapshot, desired: Desired, skipped: list[Skipped]) -> list[Step]:
    if desired.sysctls is None:
        return []
    kept: dict[str, str] = {}
    of_host: list[str] = []
    steps: list[Step] = []
    for key, value in sorted(desired.sysctls.items()):
        found = node.sysctls[key]
        if node.container_kind and not (key.startswith(_OF_A_CONTAINER) and found.writable):
            of_host.append(key)
            continue
        if found.value is None and not _comes_with_module(key, desired):
            raise PifleetError(
                f"The kernel has no parameter {key}.", "Correct base_os_sysctls, or add the module it belongs to to base_os_kernel_modules."
            )
        wanted = " ".join(value.split())
        kept[key] = wanted
        if found.value != wanted:
            before = f"{key} = {found.value}" if found.value is not None else ""
            steps.append(Step(Change("sysctl", key, "differs", before, f"{key} = {wanted}"), wanted))
    if of_host:
        skipped.append(Skipped(f"kernel parameters {', '.join(of_host)}", f"a {node.container_kind} container has the values of its host"))
    text = HEADER + "".join(f"{key} = {value}\n" for key, value in kept.items())
    return _file(node, at.SYSCTLS, text if kept else None) + steps


def _comes_with_module(key: str, desired: Desired) -> bool:
    return key.startswith("net.bridge.") and "br_netfilter" in (desired.kernel_modules or ())


def _journal(node: Snapshot, desired: Desired) -> list[Step]:
    if desired.journal_max_use is None and desired.sd_card_wear is None:
        return []
    lines = [f"SystemMaxUse={desired.journal_max_use}\n"] if desired.journal_max_use else []
    if desired.sd_card_wear:
        lines += ["Storage=volatile\n", f"RuntimeMaxUse={VOLATILE_JOURNAL}\n"]
    steps = _file(node, at.JOURNALD, HEADER + "[Journal]\n" + "".join(lines) if lines else None)
    return [*steps, _unit(at.JOURNALD_UNIT, "config_changed")] if steps else []


def _swap(node: Snapshot, desired: Desired, skipped: list[Skipped], reasons: list[str]) -> tuple[list[str], list[Step]]:
    """Return (packages, steps) for the swap policy, without the entries of fstab."""
    if desired.swap_policy == "keep":
        return [], []
    if node.container_kind:
        skipped.append(Skipped("swap", f"a {node.container_kind} container has the swap of its host"))
        return [], []
    zram = desired.swap_policy == "zram"
    unwanted = at.FILE_SWAP_SERVICES if zram else (*at.FILE_SWAP_SERVICES, *at.ZRAM_SWAP_SERVICES)
    steps = [_unit(unit, "unwanted") for unit in unwanted if unit in node.enabled]
    packages: list[str] = []
    has_rpi_swap = at.RPI_SWAP_MAIN in node.files
    has_service = zram and any(unit in node.enabled for unit in at.ZRAM_SWAP_SERVICES)
    if has_rpi_swap:
        steps += _file(node, at.RPI_SWAP, f"{HEADER}[Main]\nMechanism={'zram' if zram else 'none'}\n")
    if zram and not has_rpi_swap and not has_service:
        packages.append(at.ZRAM_PACKAGE)
        # The old names of the options: the generator of Ubuntu 22.04 knows no others, and newer ones still obey them.
        steps += _file(node, at.ZRAM_GENERATOR, HEADER + "[zram0]\nzram-fraction = 0.5\nmax-zram-size = 4096\n")
    elif not zram and at.ZRAM_PACKAGE not in node.packages.missing:
        steps += _file(node, at.ZRAM_GENERATOR, HEADER + "[zram0]\nzram-fraction = 0\n")  # a device of size 0 is discarded
    steps += [
        Step(Change("swap", device, "unwanted", f"{device} ({kind})", ""))
        for device, kind in sorted(node.swaps.items())
        if not (zram and kind == "zram")
    ]
    if zram and has_rpi_swap and (node.zram_writeback or "zram" not in node.swaps.values()):
        reasons.append("swap")  # rpi-swap sets swap up early in the boot and has no other way
    elif zram and "zram" not in node.swaps.values() and not has_service:
        steps.append(_unit(ZRAM_UNIT, "not_running"))
    return packages, steps


def _mounts(node: Snapshot, desired: Desired, skipped: list[Skipped]) -> list[Step]:
    """Return the edit of fstab (swap entries, noatime) and the remount that goes with it."""
    if node.container_kind:
        if desired.sd_card_wear:
            skipped.append(Skipped("mount option noatime", f"a {node.container_kind} container is mounted by its host"))
        return []
    before = text = node.files.get(at.FSTAB, "")
    steps: list[Step] = []
    if desired.swap_policy != "keep":
        text = fstab.without_swap(text)
    if desired.sd_card_wear:
        edited = fstab.with_noatime(text)
        if edited is None:
            skipped.append(Skipped("mount option noatime", f"{at.FSTAB} has no entry for the root file system"))
        elif "noatime" not in node.root_options:
            steps.append(Step(Change("mount", "/", "atime", ",".join(sorted(node.root_options)), "noatime")))
        text = text if edited is None else edited
    return (_file(node, at.FSTAB, text) if text != before else []) + steps


# -------------------------------------------------------------------------------------------------------------- helpers
def _file(node: Snapshot, path: str, wanted: str | None) -> list[Step]:
    have = node.files.get(path)
    if have == wanted:
        return []
    reason = "missing" if have is None else "unwanted" if wanted is None else "differs"
    return [Step(Change("file", path, reason, scrub(have or ""), scrub(wanted or "")), wanted)]


def _unit(name: str, reason: str) -> Step:
    return Step(Change("unit", name, reason, "", f"{name}: {reason}"))


def _packages(names: Iterable[str]) -> list[Step]:
    return [Step(Change("package", name, "missing", "", name)) for name in names]


def _with_repair(node: Snapshot, names: list[str]) -> list[Step]:
    repair = [Step(Change("dpkg", "dpkg", "interrupted", "", "dpkg --configure -a"))] if names and node.packages.interrupted else []
    return repair + _packages(names)
