# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out a host plan, step by step in its order. Killed at any step, the next run plans what is left."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.apt import Apt
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import CommandError
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import host_plan, openpgp, places, turn
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.host_plan import DOCKER_UNIT, HostPlan, Step

_VERBS: Mapping[str, tuple[str, ...]] = {
    "not_enabled": ("enable", "--now"),
    "not_running": ("start",),
    "config_changed": ("restart",),
    "interrupted": ("restart",),
    "unwanted": ("disable", "--now"),
}
_HINTS = {
    errno.ENOSPC: "The disk is full: free some space, then run again.",
    errno.EROFS: "The file system is read-only: mount it writable, then run again.",
    errno.EACCES: "Run with root rights: set `become: true`.",
}
_LOAD_LIMIT = 900.0  # seconds for one archive of images on a slow card
_START_LIMIT = 180.0  # seconds for an engine that finds many containers to start


class HostApplier:
    """Adapter that changes the node below *root* through *run*.

    *sent*: where the controller's files are on the node, by name (``program`` for the program); *fetch*: returns the text at a URL, or
    raises OSError.
    """

    def __init__(
        self, root: str, run: argv.Runner, clock: turn.Clock, lock_timeout: float, sent: Mapping[str, str], fetch: Callable[[str], str]
    ) -> None:
        self._root, self._run, self._clock, self._sent, self._fetch = root.rstrip("/"), run, clock, sent, fetch
        hint = "Docker's packages are not in the node's sources: see stacks_docker_source and stacks_artifact_dir."
        self._apt = Apt(run, clock.sleep, clock.monotonic, lock_timeout, hint)
        self._pending: tuple[str, ...] = ()
        self._daemon_before: str | None = None
        self._daemon_written = False
        self._do: Mapping[str, Callable[[Step], None]] = {
            "dpkg": lambda _: self._apt.repair(),
            "key": self._key,
            "file": self._file,
            "unit": self._unit,
            "images": self._load_images,
        }

    def carry_out(self, plan: HostPlan, fingerprint: str) -> None:
        """Carry out *plan*; *fingerprint*: of the key that may be trusted. Raises PifleetError naming the step that failed: those before it
        are done, and another run goes on from there."""
        self._fingerprint = fingerprint
        restarts = [c.target for c in plan.changes if c.kind == "unit" and c.reason in ("config_changed", "interrupted")]
        self._remember(tuple(restarts))
        for kind, group in groupby(plan.steps, key=lambda step: step.change.kind):
            steps = list(group)
            if kind == "package":
                self._apt.install([self._sent.get(s.change.after, s.change.target) for s in steps])
                continue
            for step in steps:
                self._tell(step)
        self._remember(())

    def _tell(self, step: Step) -> None:
        try:
            self._do[step.change.kind](step)
        except OSError as error:
            what = f"{step.change.kind} {step.change.target} cannot be changed: {error.strerror or error}."
            raise PifleetError(what, _HINTS.get(error.errno or 0, "")) from error

    def _remember(self, pending: tuple[str, ...]) -> None:
        path = self._root + host_plan.MEMO
        if pending:
            atomic_file.write_atomic(path, host_plan.write_memo(pending))
        elif os.path.exists(path):
            os.unlink(path)
        self._pending = pending

    # ------------------------------------------------------------------------------------------------------------- steps
    def _key(self, step: Step) -> None:
        url = step.change.after.partition(" ")[0]
        try:
            text = self._fetch(url)
        except OSError as error:
            hint = "Check the node's network and DNS, or give Docker's .deb files in stacks_artifact_dir."
            raise PifleetError(f"The key of Docker's packages cannot be fetched from {url}: {error}.", hint) from error
        try:
            found = openpgp.fingerprint(text)
        except PifleetError as error:
            raise PifleetError(
                f"What is at {url} is not the key of Docker's packages: {error.what}", "Correct stacks_docker_repository."
            ) from error
        if found != self._fingerprint:
            raise PifleetError(
                f"The key at {url} has the fingerprint {found}, not {self._fingerprint}: it is not trusted.",
                "Correct stacks_docker_repository, or stacks_docker_key_fingerprint where Docker announced another key.",
            )
        atomic_file.write_atomic(self._root + step.change.target, text)

    def _file(self, step: Step) -> None:
        path = self._root + step.change.target
        if step.change.reason == "unwanted":
            os.unlink(path)
            atomic_file.fsync_folder(os.path.dirname(path))
            return
        if step.change.target == places.DAEMON:
            self._daemon_before, self._daemon_written = atomic_file.read_text(path), True
        content = step.content if step.content is not None else atomic_file.read_bytes(self._sent["program"]) or b""
        atomic_file.write_atomic(path, content, step.mode)

    def _unit(self, step: Step) -> None:
        name, reason = step.change.target, step.change.reason
        if name == host_plan.TIMER_UNIT and reason != "unwanted":
            self._must(["systemctl", "daemon-reload"])
        try:
            hint = f"`systemctl status {name}` and `journalctl -u {name}` on the node say why."
            self._must(["systemctl", *_VERBS[reason], name], hint, _START_LIMIT)
        except CommandError as error:
            if name == DOCKER_UNIT and self._daemon_written:
                self._put_back(error)
            raise
        self._remember(tuple(unit for unit in self._pending if unit != name))

    def _put_back(self, error: CommandError) -> None:
        """An engine that does not start with the new settings is started with the old ones: its containers are worth more."""
        path = self._root + places.DAEMON
        if self._daemon_before is None:
            os.unlink(path)
        else:
            atomic_file.write_atomic(path, self._daemon_before)
        self._run(["systemctl", "reset-failed", DOCKER_UNIT], timeout=30)
        back = self._run(["systemctl", "restart", DOCKER_UNIT], timeout=_START_LIMIT).ok
        if back:
            self._remember(tuple(unit for unit in self._pending if unit != DOCKER_UNIT))
        now = "and it runs again" if back else "and it does not start with the old ones either"
        what = f"The Docker Engine does not start with the new settings of {places.DAEMON}. They were put back, {now}. {error.what}"
        raise CommandError(what, f"Correct stacks_docker_config and stacks_address_pools. {error.hint}") from error

    def _load_images(self, step: Step) -> None:
        name = step.change.target
        done = self._run(["docker", "load", "--quiet", "--input", self._sent[name]], timeout=_LOAD_LIMIT)
        argv.check(done, f"Is {name} in stacks_artifact_dir an archive of `docker save`, and is there room for it?")
        path = self._root + host_plan.LOADED
        loaded = host_plan.read_loaded(atomic_file.read_text(path)) | {name: step.change.after}
        atomic_file.write_atomic(path, host_plan.write_loaded(loaded))

    def _must(self, command: Sequence[str], hint: str = "", timeout: float = 90.0) -> None:
        argv.check(self._run(command, timeout=timeout), hint)
