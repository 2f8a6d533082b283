# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out a plan of base_os, step by step in its order. Killed at any step, the next run plans what is left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._base_os import parse
from ansible_collections.pifleet.ops.plugins.module_utils._base_os import snapshot as at
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.plan import Plan, Step
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.apt import Apt
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

# What a unit's step asks of systemd, by its reason.
_VERBS: dict[str, tuple[str, ...]] = {
    "not_enabled": ("enable", "--now"),
    "not_running": ("start",),
    "config_changed": ("restart",),
    "interrupted": ("restart",),
    "unwanted": ("disable", "--now"),
}
_RESTARTS = ("config_changed", "interrupted")
_HINTS = {
    errno.ENOSPC: "The disk is full: free some space, then run again.",
    errno.EROFS: "The file system is read-only: mount it writable, then run again.",
    errno.EACCES: "Run with root rights: set `become: true`.",
    errno.EPERM: "The node forbids it even to root: an immutable file (`lsattr`), or a container without the right.",
    errno.EINVAL: "The kernel refuses the value.",
}


class Clock(Protocol):
    """The process's clocks: *monotonic* seconds, and *sleep*."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


class Applier:
    """Adapter that changes the node below *root* through *run*."""

    def __init__(self, root: str, run: argv.Runner, clock: Clock, lock_timeout: float) -> None:
        self._root, self._run, self._clock = root.rstrip("/"), run, clock
        self._apt = Apt(run, clock.sleep, clock.monotonic, lock_timeout)
        self._memo = at.Memo()
        self._do: dict[str, Callable[[Step], None]] = {
            "file": self._write_file,
            "dpkg": lambda _: self._apt.repair(),
            "unit": self._unit,
            "hostname": lambda step: self._write_kernel(at.KERNEL_HOSTNAME, step.change.target),
            "module": self._load_module,
            "sysctl": lambda step: self._write_kernel(at.sysctl_path(step.change.target), step.content or ""),
            "swap": self._swapoff,
            "mount": lambda step: self._must(["mount", "-o", "remount,noatime", step.change.target]),
        }

    def carry_out(self, plan: Plan, memo: at.Memo, boot_id: str, cmdline_path: str | None, gate: Callable[[], None]) -> None:
        """Carry out *plan*; *gate* returns once the clock is synchronised, or raises.

        *memo*: what an earlier run noted; *boot_id*: of this boot. Raises PifleetError naming the step that failed; the steps before it are
        done, and another run goes on from there.
        """
        self._memo = memo
        self._note(plan, boot_id, cmdline_path)
        self._carry_out(plan.clock_steps)
        if plan.wait_for_clock:
            gate()
        self._carry_out(plan.steps)

    def _carry_out(self, steps: Sequence[Step]) -> None:
        for kind, group in groupby(steps, key=lambda step: step.change.kind):
            if kind == "package":
                self._apt.install([step.change.target for step in group])
                continue
            for step in group:
                try:
                    self._do[kind](step)
                except OSError as error:
                    what = f"{step.change.kind} {step.change.target} cannot be changed: {error.strerror or error}."
                    raise PifleetError(what, _HINTS.get(error.errno or 0, "")) from error

    # ------------------------------------------------------------------------------------------------------------ memo
    def _note(self, plan: Plan, boot_id: str, cmdline_path: str | None) -> None:
        """Note, before the files are written, which units have to be restarted, and the boot in which the command line is edited, or was
        found edited and without effect yet: a later boot that still lacks it was started with another file."""
        restarts = tuple(dict.fromkeys(c.target for c in plan.changes if c.kind == "unit" and c.reason in _RESTARTS))
        edits = any(c.kind == "file" and c.target == cmdline_path for c in plan.changes)
        found_edited = "memory_cgroup" in plan.reboot_reasons and not self._memo.cmdline_boot
        self._remember(at.Memo(restarts, boot_id if edits or found_edited else self._memo.cmdline_boot))

    def _remember(self, memo: at.Memo) -> None:
        if memo != self._memo:
            try:
                self._replace(at.STATE, at.write_memo(memo), 0o644)
            except OSError as error:
                raise PifleetError(f"{at.STATE} cannot be written: {error.strerror}.", _HINTS.get(error.errno or 0, "")) from error
            self._memo = memo

    # ----------------------------------------------------------------------------------------------------------- steps
    def _write_file(self, step: Step) -> None:
        path = self._root + step.change.target
        if step.content is None:
            os.unlink(path)
            atomic_file.fsync_folder(os.path.dirname(path))
            return
        real = os.path.realpath(path)
        mode = os.stat(real).st_mode & 0o7777 if os.path.exists(real) else 0o644
        self._replace(step.change.target, step.content, mode)

    def _replace(self, path: str, content: str, mode: int) -> None:
        real = os.path.realpath(self._root + path)
        try:
            atomic_file.write_atomic(real, content, mode)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            self._overwrite(real, content.encode())

    def _overwrite(self, path: str, data: bytes) -> None:
        """Write into the file as it is: Docker mounts /etc/hosts and /etc/hostname singly into a container, and a mount point cannot be
        renamed over. One write, then the length: what a kill in between leaves is found and repaired by the next run."""
        with Path(path).open("rb+", buffering=0) as stream:
            stream.write(data)
            stream.truncate(len(data))
            os.fsync(stream.fileno())

    def _write_kernel(self, path: str, value: str) -> None:
        with Path(self._root + path).open("w") as stream:
            stream.write(value)

    def _unit(self, step: Step) -> None:
        name, reason = step.change.target, step.change.reason
        if name.endswith(".swap"):  # made by a generator from the configuration that was written before
            self._must(["systemctl", "daemon-reload"])
        self._must(["systemctl", *_VERBS[reason], name], f"`systemctl status {name}` and `journalctl -u {name}` on the node say why.")
        if reason in _RESTARTS:
            self._remember(at.Memo(tuple(unit for unit in self._memo.pending if unit != name), self._memo.cmdline_boot))

    def _load_module(self, step: Step) -> None:
        hint = (
            "Where the kernel was updated and not restarted yet, restart the node; Ubuntu's Pi kernel has it in linux-modules-extra-raspi."
        )
        self._must(["modprobe", step.change.target], hint)

    def _swapoff(self, step: Step) -> None:
        active = parse.swaps(atomic_file.read_text(self._root + "/proc/swaps") or "")
        if step.change.target in active:  # stopping its service may have been enough
            self._must(["swapoff", step.change.target], "Free memory: what is in the swap does not fit into it.", timeout=600.0)

    def _must(self, command: Sequence[str], hint: str = "", timeout: float = 90.0) -> None:
        argv.check(self._run(command, timeout=timeout), hint)
