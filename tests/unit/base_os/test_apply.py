# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans carried out on a folder, with the commands recorded; killed at every step and continued."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._base_os import gate
from ansible_collections.pifleet.ops.plugins.module_utils._base_os import snapshot as at
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.apply import Applier
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.hosts_file import HostEntry
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.local_host import LocalHost
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.plan import make_plan
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.snapshot import Desired, take
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.apt import Apt
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import CommandError, Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from .test_plan import DPHYS, node

DESIRED = Desired(
    hostname="pi-cluster-1",
    hosts=(HostEntry("192.168.0.11", ("pi-cluster-1",)),),
    packages=("ca-certificates",),
    ntp_servers=("10.0.0.1",),
    sysctls={"net.ipv4.ip_forward": "1"},
    kernel_modules=("br_netfilter",),
    journal_max_use="200M",
    swap_policy="disable",
    sd_card_wear=True,
)


class Killed(BaseException):
    """The process ends here, as with SIGKILL: nothing may catch it."""


@dataclass
class FakeClock:
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Node:
    """A node on a folder: commands do to its files what the real ones do. The process is killed at point number *kill_at*."""

    root: Path
    kill_at: int = -1
    ran: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 0, env: Mapping[str, str] | None = None) -> Completed:
        self.point()
        self.ran.append(" ".join(argv))
        if argv[:2] == ["apt-get", "install"]:
            with self.file("/var/lib/dpkg/status").open("a") as status:
                status.write(f"\nPackage: {argv[-1]}\nStatus: install ok installed\n")
        elif argv[0] == "modprobe":
            self.file(f"/sys/module/{argv[1]}").mkdir(parents=True)
        elif argv[:2] == ["systemctl", "disable"]:
            self.file(f"/etc/systemd/system/multi-user.target.wants/{argv[-1]}").unlink()
        elif argv[0] == "swapoff":
            self.file("/proc/swaps").write_text("Filename Type Size Used Priority\n")
        self.point()
        return Completed(tuple(argv), 0, "", "")

    def point(self) -> None:
        """A point at which the process may be killed: before and after each command and each write."""
        if self.kill_at == 0:
            raise Killed
        self.kill_at -= 1

    def file(self, path: str) -> Path:
        return Path(f"{self.root}{path}")

    def applier(self) -> Applier:
        return Applier(str(self.root), self.run, FakeClock(), lock_timeout=10)


class Settled(LocalHost):
    """A node with a synchronised clock, whatever the machine that runs the test has."""

    def synchronised(self) -> bool | None:
        return True

    def machine(self) -> str:
        return "aarch64"


def on_disk(root: Path) -> Node:
    """The bookworm of the plan's tests, as files."""
    root.mkdir()
    for path, text in node(**DPHYS).files.items():
        (target := Path(f"{root}{path}")).parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return Node(root)


def converge(made: Node, desired: Desired = DESIRED) -> int:
    """Plan and carry out, as the module does; the number of changes."""
    snapshot = take(Settled(str(made.root)), desired)
    plan = make_plan(snapshot, desired)
    made.applier().carry_out(plan, snapshot.memo, snapshot.boot_id, snapshot.cgroup.cmdline_path, lambda: None)
    return len(plan.changes)


def tree(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_node_converges_and_stays(tmp_path: Path) -> None:
    made = on_disk(tmp_path / "node")
    assert converge(made) > 10
    assert converge(made) == 0
    assert made.file("/etc/hostname").read_text() == "pi-cluster-1\n"
    assert made.file("/proc/sys/kernel/hostname").read_text() == "pi-cluster-1"
    assert made.file("/proc/sys/net/ipv4/ip_forward").read_text() == "1"
    assert made.file("/boot/firmware/cmdline.txt").read_text().endswith(" cgroup_memory=1 cgroup_enable=memory\n")
    assert at.read_memo(made.file(at.STATE).read_text()) == at.Memo((), "boot-1")
    assert made.ran == [
        "systemctl restart systemd-timesyncd.service",
        "apt-get install --yes --no-install-recommends -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "
        "ca-certificates",
        "modprobe br_netfilter",
        "systemctl restart systemd-journald.service",
        "systemctl disable --now dphys-swapfile.service",
        "swapoff /var/swap",
    ]


def killed(made: Node, point: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Converge, killed at that point; whether there was such a point."""
    write_atomic = atomic_file.write_atomic

    def write(path: str, data: bytes | str, mode: int) -> None:
        made.point()
        write_atomic(path, data, mode)
        made.point()

    made.kill_at = point
    with monkeypatch.context() as patched:
        patched.setattr(atomic_file, "write_atomic", write)
        try:
            converge(made)
        except Killed:
            return True
        finally:
            made.kill_at = -1
    return False


def test_killed_at_every_command_and_every_write_the_next_run_ends_in_the_same_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = on_disk(tmp_path / "whole")
    converge(whole)
    expected = tree(whole.root)
    point = 0
    while killed(made := on_disk(tmp_path / f"killed-{point}"), point, monkeypatch):
        converge(made)
        assert converge(made) == 0, f"killed at point {point}"
        assert tree(made.root) == expected, f"killed at point {point}"
        restarted = {command for command in made.ran if "restart" in command}
        assert restarted == {"systemctl restart systemd-timesyncd.service", "systemctl restart systemd-journald.service"}
        point += 1
    assert point >= 34, "each command and each write has two"


def test_a_command_line_edited_by_hand_is_restarted_for_once_only(tmp_path: Path) -> None:
    made = on_disk(tmp_path / "node")
    made.file("/boot/firmware/cmdline.txt").write_text("console=tty1 cgroup_memory=1 cgroup_enable=memory\n")
    converge(made, Desired())
    assert at.read_memo(made.file(at.STATE).read_text()).cmdline_boot == "boot-1"
    converge(made, Desired())
    made.file("/proc/sys/kernel/random/boot_id").write_text("boot-2\n")
    with pytest.raises(PifleetError, match="was restarted since"):
        converge(made, Desired())


def test_mode_and_links_of_a_file_stay(tmp_path: Path) -> None:
    made = on_disk(tmp_path / "node")
    made.file("/boot/firmware/cmdline.txt").chmod(0o755)
    made.file("/etc/hosts").rename(made.file("/etc/hosts.real"))
    made.file("/etc/hosts").symlink_to("hosts.real")
    converge(made)
    assert made.file("/boot/firmware/cmdline.txt").stat().st_mode & 0o777 == 0o755
    assert made.file("/etc/hosts").is_symlink()
    assert "192.168.0.11 pi-cluster-1" in made.file("/etc/hosts.real").read_text()


def test_a_file_that_is_a_mount_point_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = on_disk(tmp_path / "node")
    inode = made.file("/etc/hosts").stat().st_ino
    real = os.replace

    def replace(source: str, target: str) -> None:
        if str(target).endswith("/etc/hosts"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    converge(made)
    assert made.file("/etc/hosts").stat().st_ino == inode
    assert converge(made) == 0
    assert [p.name for p in made.file("/etc").glob(".hosts*")] == []


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EIO, "")])
def test_a_write_that_fails_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str) -> None:
    made = on_disk(tmp_path / "node")
    made.file("/sys/fs/cgroup/cgroup.controllers").write_text("memory\n")
    before = made.file("/etc/hosts").read_text()

    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(PifleetError, match="/etc/hosts cannot be changed") as failed:
        converge(made, Desired(hosts=DESIRED.hosts))
    assert hint in failed.value.hint
    assert made.file("/etc/hosts").read_text() == before


def test_a_unit_that_does_not_start_says_where_to_look(tmp_path: Path) -> None:
    made = on_disk(tmp_path / "node")

    def run(argv: Sequence[str], **_: object) -> Completed:
        return Completed(tuple(argv), 1, "", "Job for systemd-journald.service failed.")

    snapshot = take(Settled(str(made.root)), Desired(journal_max_use="1M"))
    plan = make_plan(snapshot, Desired(journal_max_use="1M"))
    with pytest.raises(CommandError, match="Job for systemd-journald") as failed:
        Applier(str(made.root), run, FakeClock(), 0).carry_out(plan, snapshot.memo, "boot-1", None, lambda: None)
    assert "journalctl -u systemd-journald.service" in failed.value.hint


def test_the_gate_stands_between_the_clock_and_the_packages(tmp_path: Path) -> None:
    made = on_disk(tmp_path / "node")
    snapshot = take(LocalHostUnsettled(str(made.root)), DESIRED)
    plan = make_plan(snapshot, DESIRED)

    def closed() -> None:
        raise PifleetError("not synchronised")

    with pytest.raises(PifleetError, match="not synchronised"):
        made.applier().carry_out(plan, snapshot.memo, "boot-1", None, closed)
    assert made.ran == ["systemctl restart systemd-timesyncd.service"]


class LocalHostUnsettled(Settled):
    def synchronised(self) -> bool | None:
        return False


# --------------------------------------------------------------------------------------------------------------------- gate
def test_the_gate_opens_as_soon_as_the_clock_is_synchronised() -> None:
    answers = iter([False, False, True])
    slept: list[float] = []
    gate.wait_until_synchronised(lambda: next(answers), slept.append, 60)
    assert slept == [1.0, 1.0]


@pytest.mark.parametrize("timeout", [0, 3])
def test_the_gate_is_bounded(timeout: int) -> None:
    slept: list[float] = []
    with pytest.raises(PifleetError, match=f"not synchronised after {timeout} s"):
        gate.wait_until_synchronised(lambda: False, slept.append, timeout)
    assert len(slept) == timeout


@pytest.mark.parametrize(
    ("rc", "out", "expected"),
    [
        (0, "C0A80001,192.168.0.1,2,1760000000.1,0.0001,0.0,0.0,1.5,0.0,0.02,0.03,0.001,64.5,Normal\n", True),
        (0, "00000000,,0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised\n", False),
        (1, "", False),
    ],
)
def test_chrony_is_asked_where_the_kernel_does_not_know(rc: int, out: str, expected: bool) -> None:
    assert gate.chrony_is_synchronised(lambda argv, **_: Completed(tuple(argv), rc, out, "")) is expected


# ---------------------------------------------------------------------------------------------------------------------- apt
class Scripted:
    """A runner that answers apt-get from a list of (rc, stderr)."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.answers, self.ran = list(answers), list[str]()

    def __call__(
        self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 0, env: Mapping[str, str] | None = None
    ) -> Completed:
        assert stdin == "", "nothing may wait for an answer"
        assert (env or {}).get("DEBIAN_FRONTEND") == "noninteractive"
        self.ran.append(argv[1])
        rc, stderr = self.answers.pop(0)
        return Completed(tuple(argv), rc, "", stderr)


LOCK = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4242 (apt-get)\n"


def apt(script: Scripted, clock: FakeClock | None = None) -> Apt:
    clock = clock or FakeClock()
    return Apt(script, clock.sleep, clock.monotonic, lock_timeout=10)


def test_lists_are_updated_only_when_they_are_too_old() -> None:
    fresh = Scripted((0, ""))
    apt(fresh).install(["curl"])
    assert fresh.ran == ["install"]
    stale = Scripted((100, "E: Unable to locate package curl"), (0, ""), (0, ""))
    apt(stale).install(["curl"])
    assert stale.ran == ["install", "update", "install"]


def test_what_apt_said_is_scrubbed() -> None:
    with pytest.raises(CommandError) as failed:
        apt(Scripted((100, "E: Failed to fetch https://me:s3cr3t-t0ken@mirror/x  401  Unauthorized"))).install(["curl"])
    assert "s3cr3t" not in str(failed.value) and "mirror" in str(failed.value)


def test_a_lock_is_waited_for_and_its_holder_named_when_it_stays() -> None:
    clock = FakeClock()
    script = Scripted((100, LOCK), (100, LOCK), (0, ""))
    apt(script, clock).install(["curl"])
    assert clock.now == 4.0
    with pytest.raises(CommandError, match=r"held by 4242 \(apt-get\) for 10 s"):
        apt(Scripted(*[(100, LOCK)] * 20)).install(["curl"])


@pytest.mark.parametrize(
    ("stderr", "hint"),
    [
        ("E: Unable to locate package kurl", "base_os_packages"),
        ("Err:1 http://deb.debian.org trixie InRelease\n  Temporary failure resolving 'deb.debian.org'", "network"),
        ("E: Failed to fetch http://x/y.deb  404  Not Found", "network"),
        ("E: You don't have enough free space in /var/cache/apt/archives/.", "disk is full"),
        ("E: Release file for http://x is not valid yet (invalid for another 3h).", "clock is wrong"),
        ("E: something else", "Run the command on the node"),
    ],
)
def test_the_cause_of_a_failed_install_is_named(stderr: str, hint: str) -> None:
    with pytest.raises(CommandError) as failed:
        apt(Scripted((100, stderr), (0, ""), (100, stderr))).install(["curl"])
    assert hint in failed.value.hint
    assert "`apt-get install` failed with exit code 100" in failed.value.what


def test_what_the_update_said_is_the_cause_of_what_the_install_says() -> None:
    script = Scripted(
        (100, "E: Unable to locate package curl"),
        (0, "W: Failed to fetch http://x  Could not connect"),
        (100, "E: Unable to locate package curl"),
    )
    with pytest.raises(CommandError) as failed:
        apt(script).install(["curl"])
    assert "network" in failed.value.hint
    assert "Could not connect" in failed.value.what


def test_a_killed_dpkg_is_finished() -> None:
    script = Scripted((0, ""))
    apt(script).repair()
    assert script.ran == ["--force-confdef"]
