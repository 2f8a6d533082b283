# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees of files as the supported systems have them, and the role's work on one. Standard library only: emulated Python runs it too."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._base_os import cmdline
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.apply import Applier
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.hosts_file import HostEntry
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.local_host import LocalHost
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.plan import make_plan
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.snapshot import Desired, take
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed

HERE = Path(__file__).resolve().parent
WORDS = " cgroup_memory=1 cgroup_enable=memory"
DESIRED = Desired(
    hostname="pi-cluster-1",
    hosts=(HostEntry("192.168.0.11", ("pi-cluster-1", "pi-cluster-1.local")),),
    packages=("ca-certificates", "kmod"),
    sysctls={"net.ipv4.ip_forward": "1"},
    journal_max_use="200M",
    sd_card_wear=True,
)


@dataclass(frozen=True)
class Layout:
    """*tree*: the recorded files; *cmdline*: the file the firmware reads, None where the controller works without."""

    tree: Path
    cmdline: str | None


LAYOUTS = {
    name: Layout(HERE / name, path)
    for name, path in {
        "raspberry-pi-os-bookworm": "/boot/firmware/cmdline.txt",
        "raspberry-pi-os-trixie": "/boot/firmware/cmdline.txt",
        "raspberry-pi-os-upgraded": "/boot/cmdline.txt",
        "raspbian-bookworm-32-bit": "/boot/firmware/cmdline.txt",
        "ubuntu-22.04": "/boot/firmware/cmdline.txt",
        "ubuntu-24.04": "/boot/firmware/cmdline.txt",
        "ubuntu-24.04-a-b-boot": "/boot/firmware/current/cmdline.txt",
        "debian-12-mainline-kernel": None,
        "debian-13-mainline-kernel": None,
    }.items()
}


class EmulatedNode(LocalHost):
    """A node on a tree. Its clock is synchronised, and its commands do to the tree what the real ones do to a node."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.root = root

    def synchronised(self) -> bool | None:
        return True

    def run(self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 0, env: Mapping[str, str] | None = None) -> Completed:
        if argv[:3] == ["mount", "-o", "remount,noatime"]:
            mounts = self.root / "proc/self/mounts"
            mounts.write_text(mounts.read_text().replace(" / ext4 rw,relatime", " / ext4 rw,noatime"))
        return Completed(tuple(argv), 0, "", "")

    def restart(self) -> None:
        """Boot as a Pi does: the firmware's words, then the first line of the file it reads; the kernel obeys the last word."""
        path = cmdline.find_file(self.exists)
        if path is None:
            return
        firmware = (self.root / "proc/cmdline").read_text().split("  ")[0]
        line = f"{firmware}  {(self.root / path[1:]).read_text().splitlines()[0]}\n"
        (self.root / "proc/cmdline").write_text(line)
        controllers = "cpuset cpu io memory pids\n" if cmdline.asks_for_memory(line) else "cpuset cpu io pids\n"
        (self.root / "sys/fs/cgroup/cgroup.controllers").write_text(controllers)
        (self.root / "proc/sys/kernel/random/boot_id").write_text("66666666-7777-4888-9999-000000000000\n")


class _Clock:
    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float, /) -> None:
        raise AssertionError(f"nothing to wait {seconds} s for")


@dataclass(frozen=True)
class Outcome:
    changes: int
    reboot_reasons: tuple[str, ...]


def converge(root: Path) -> Outcome:
    """Plan and carry out on the tree, as the module does."""
    node = EmulatedNode(root)
    snapshot = take(node, DESIRED)
    plan = make_plan(snapshot, DESIRED)
    applier = Applier(str(root), node.run, _Clock(), lock_timeout=0)
    applier.carry_out(plan, snapshot.memo, snapshot.boot_id, snapshot.cgroup.cmdline_path, lambda: None)
    return Outcome(len(plan.changes), plan.reboot_reasons)


def all_layouts(work: Path) -> dict[str, dict[str, object]]:
    """Converge a copy of every layout in *work*, restart it, converge again; what happened, by layout."""
    report: dict[str, dict[str, object]] = {}
    for name, layout in LAYOUTS.items():
        root = Path(shutil.copytree(layout.tree, work / name))
        first = converge(root)
        edited = (root / layout.cmdline[1:]).read_text() if layout.cmdline else ""
        EmulatedNode(root).restart()
        last = converge(root)
        report[name] = {"first": first.reboot_reasons, "last": last.reboot_reasons, "changes_left": last.changes, "line": edited}
    return report
