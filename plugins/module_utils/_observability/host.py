# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages, files and units of a node that is observed: from what is there and what is wanted to steps in order, and these carried out.

Killed at any step, the next run plans what is left: which units are still to be restarted is noted before the first file is written.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file, dpkg
from ansible_collections.pifleet.ops.plugins.module_utils._common.apt import Apt
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import Change
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub

MEMO = "/var/lib/pifleet/observability.json"
_UNITS = "/etc/systemd/system/"
_HINTS = {
    errno.ENOSPC: "The disk is full: free some space, then run again.",
    errno.EROFS: "The file system is read-only: mount it writable, then run again.",
    errno.EACCES: "Run with root rights: set `become: true`.",
}
_START_LIMIT = 90.0  # seconds for a service to be ready on a slow card


@dataclass(frozen=True, slots=True)
class File:
    """*secret*: its content is in no plan or diff. *owner*: a user that may come with the packages."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: str = "root"
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """*target*: that starts it; *restarted_by*: files; *check*: a command that refuses bad ones before; *ready*: address that answers with
    success when it serves."""

    name: str
    target: str = "multi-user.target"
    restarted_by: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    ready: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """*absent*: files that are not to be there; *unwanted*: units that are not to run."""

    packages: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    units: tuple[Unit, ...] = ()
    absent: tuple[str, ...] = ()
    unwanted: tuple[Unit, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A change, and what it needs of what is wanted."""

    change: Change
    file: File | None = None
    unit: Unit | None = None


class Clock(Protocol):
    """The process's clocks."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


# ------------------------------------------------------------------------------------------------------------------- plan
def make_plan(root: str, wanted: Wanted) -> tuple[Step, ...]:
    """Return what to do on the node below *root* (``/`` but in tests). Only reads. Raises PifleetError where a file may not be read."""
    root = root.rstrip("/")
    status = atomic_file.read_text(f"{root}/var/lib/dpkg/status") or ""
    names = os.listdir(f"{root}/var/lib/dpkg/updates") if os.path.isdir(f"{root}/var/lib/dpkg/updates") else []
    found = dpkg.package_state(status, names, wanted.packages)
    packages = [Step(Change("package", name, "missing", "", name)) for name in found.missing]
    if packages and found.interrupted:
        packages.insert(0, Step(Change("dpkg", "dpkg", "interrupted", "", "dpkg --configure -a")))
    files = [step for file in wanted.files for step in _file(root, file)]
    gone = [Step(Change("file", path, "unwanted")) for path in wanted.absent if os.path.lexists(root + path)]
    pending = _pending(root)
    written = {step.change.target for step in (*files, *gone)}
    units = [step for unit in wanted.units for step in _unit(root, unit, written, pending)]
    stopped = [Step(_change(unit, "unwanted"), unit=unit) for unit in wanted.unwanted if _enabled(root, unit)]
    # a unit that goes is stopped before its files are removed
    return (*packages, *files, *stopped, *gone, *units)


def _file(root: str, file: File) -> list[Step]:
    try:
        have = atomic_file.read_bytes(root + file.path)
    except PermissionError as denied:
        raise PifleetError(f"cannot read {file.path}: {denied.strerror}.", _HINTS[errno.EACCES]) from denied
    if have is None:
        reason = "missing"
    elif have != file.content:
        reason = "differs"
    elif not _fits(root + file.path, file):
        reason = "mode"
    else:
        return []
    before, after = ("", "") if file.secret else (_shown(have or b""), _shown(file.content))
    return [Step(Change("file", file.path, reason, before, after), file=file)]


def _fits(path: str, file: File) -> bool:
    found = os.stat(path)
    return found.st_mode & 0o7777 == file.mode and found.st_uid == _uid(file.owner)


def _uid(owner: str) -> int | None:
    """The user's number, None before the package that brings the user is installed. Tests run as somebody who may not give files away."""
    if owner == "root":
        return 0 if os.geteuid() == 0 else os.geteuid()
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        return None


def _shown(content: bytes) -> str:
    try:
        return scrub(content.decode())
    except UnicodeDecodeError:
        return f"{len(content)} bytes\n"


def _change(unit: Unit, reason: str) -> Change:
    return Change("unit", unit.name, reason, "", f"{unit.name}: {reason}")


def _unit(root: str, unit: Unit, written: set[str], pending: Sequence[str]) -> list[Step]:
    if not _enabled(root, unit):
        return [Step(_change(unit, "not_enabled"), unit=unit)]
    if written.intersection((*unit.restarted_by, _UNITS + unit.name)):
        return [Step(_change(unit, "config_changed"), unit=unit)]
    if unit.name in pending:
        return [Step(_change(unit, "interrupted"), unit=unit)]
    if unit.name.endswith(".service") and not _running(root, unit.name):
        return [Step(_change(unit, "not_running"), unit=unit)]
    return []


def _enabled(root: str, unit: Unit) -> bool:
    return os.path.lexists(f"{root}/etc/systemd/system/{unit.target}.wants/{unit.name}")


def _running(root: str, name: str) -> bool:
    """Whether a service runs: systemd keeps a control group for it just as long (v2; v1; v1 beside v2)."""
    return any(os.path.exists(f"{root}/sys/fs/cgroup{part}/system.slice/{name}") for part in ("", "/systemd", "/unified"))


def _pending(root: str) -> tuple[str, ...]:
    try:
        return tuple(str(name) for name in json.loads(atomic_file.read_text(root + MEMO) or "{}").get("pending", ()))
    except (ValueError, AttributeError):
        return ()


# ------------------------------------------------------------------------------------------------------------------ apply
class Applier:
    """Changes the node below *root* through *run*. *answers*: whether there is success at an address."""

    def __init__(self, root: str, run: argv.Runner, clock: Clock, lock_timeout: float, answers: Callable[[str], bool]) -> None:
        self._root, self._run, self._clock, self._answers = root.rstrip("/"), run, clock, answers
        hint = "No source of this node has a package of that name: Debian 12 and 13, Raspberry Pi OS and Ubuntu (universe) do."
        self._apt = Apt(run, clock.sleep, clock.monotonic, lock_timeout, hint)
        self._left: tuple[str, ...] = ()

    def carry_out(self, plan: Sequence[Step]) -> None:
        """Carry out *plan*. Raises PifleetError naming the step that failed; another run goes on from there."""
        starts = [s.change.target for s in plan if s.change.kind == "unit" and s.change.reason != "unwanted"]
        self._remember(tuple(starts))
        reloaded = False
        for kind, group in groupby(plan, key=lambda step: step.change.kind):
            steps = list(group)
            if kind == "package":
                self._apt.install([step.change.target for step in steps])
                continue
            if kind == "unit" and not reloaded:
                self._must(["systemctl", "daemon-reload"])
                reloaded = True
            for step in steps:
                self._tell(step)
        self._remember(())

    def _tell(self, step: Step) -> None:
        try:
            if step.change.kind == "dpkg":
                self._apt.repair()
            elif step.change.kind == "unit" and step.unit:
                self._switch(step.unit, step.change.reason)
            elif step.file:
                self._write(step.file)
            else:
                os.unlink(self._root + step.change.target)
                atomic_file.fsync_folder(os.path.dirname(self._root + step.change.target))
        except OSError as error:
            what = f"{step.change.kind} {step.change.target} cannot be changed: {error.strerror or error}."
            raise PifleetError(what, _HINTS.get(error.errno or 0, "")) from error

    def _write(self, file: File) -> None:
        uid = _uid(file.owner)
        if uid is None:
            raise PifleetError(f"{file.path} belongs to {file.owner}, and there is no such user.", "Which package makes it?")
        # for its owner alone until it has one
        atomic_file.write_atomic(self._root + file.path, file.content, 0o600 if file.owner != "root" else file.mode)
        if file.owner != "root":
            os.chown(self._root + file.path, uid, -1)
            os.chmod(self._root + file.path, file.mode)

    def _switch(self, unit: Unit, reason: str) -> None:
        hint = f"`systemctl status {unit.name}` and `journalctl -u {unit.name}` on the node say why."
        if reason == "unwanted":
            self._must(["systemctl", "disable", "--now", unit.name], hint)
            return
        if unit.check:
            self._must(unit.check, "What runs was left as it is. Correct what is said above.")
        if reason == "not_enabled":
            self._must(["systemctl", "enable", unit.name], hint)
        # one that failed too often is not started again otherwise; where it has not, there is nothing to reset
        self._run(["systemctl", "reset-failed", unit.name], timeout=20)
        # it may have been started by its package, with other files
        self._must(["systemctl", "start" if reason == "not_running" else "restart", unit.name], hint, _START_LIMIT)
        if unit.ready:
            self._wait(unit, hint)
        self._remember(tuple(name for name in self._left if name != unit.name))

    def _wait(self, unit: Unit, hint: str) -> None:
        until = self._clock.monotonic() + _START_LIMIT
        while not self._answers(unit.ready):
            if self._run(["systemctl", "is-failed", "--quiet", unit.name], timeout=20).ok:
                raise PifleetError(f"{unit.name} ends at once.", hint)
            if self._clock.monotonic() >= until:
                raise PifleetError(f"{unit.name} does not answer at {unit.ready} after {_START_LIMIT:g} seconds.", hint)
            self._clock.sleep(0.5)

    def _remember(self, pending: tuple[str, ...]) -> None:
        path = self._root + MEMO
        if pending:
            atomic_file.write_atomic(path, json.dumps({"pending": list(pending)}) + "\n")
        elif os.path.exists(path):
            os.unlink(path)
        self._left = pending

    def _must(self, command: Sequence[str], hint: str = "", timeout: float = 90.0) -> None:
        argv.check(self._run(command, timeout=timeout), hint)
