# SPDX-License-Identifier: GPL-3.0-or-later
"""The node as the plan for it looks at it: files below a root folder, and one question that only Compose can answer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file, os_release
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import desired_tree

_WANTS = "/etc/systemd/system/{}.wants/{}"


class Node:
    """Below *root*, which is ``/`` but in tests. Only reads."""

    def __init__(self, root: str = "/", run: argv.Runner = argv.run) -> None:
        self._root, self._run = root.rstrip("/"), run

    def path(self, path: str) -> str:
        """Where *path* of the node really is."""
        return self._root + path

    def text(self, path: str) -> str | None:
        """Return the content of a file, None where there is none. Raises PifleetError where it may not be read."""
        try:
            return atomic_file.read_text(self.path(path))
        except IsADirectoryError:
            return None
        except PermissionError as denied:
            raise PifleetError(f"cannot read {path}: {denied.strerror}.", "Run with root rights: set `become: true`.") from denied

    def sha256(self, path: str) -> str | None:
        """Return the SHA-256 (hex) of a file, None where there is none."""
        return desired_tree.sha256_of(Path(self.path(path)))

    def mode(self, path: str) -> int:
        """Return the permissions of a file, 0 where there is none."""
        try:
            return os.stat(self.path(path)).st_mode & 0o7777
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def exists(self, path: str) -> bool:
        """Whether there is something at *path*, be it a dangling link."""
        return os.path.lexists(self.path(path))

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a folder, none where there is none."""
        try:
            return sorted(os.listdir(self.path(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def enabled(self, unit: str, target: str) -> bool:
        """Whether the unit is started with *target*."""
        return self.exists(_WANTS.format(target, unit))

    def running(self, unit: str) -> bool:
        """Whether a service runs: systemd keeps a control group for it just as long (v2; v1; v1 beside v2)."""
        return any(self.exists(f"/sys/fs/cgroup{part}/system.slice/{unit}") for part in ("", "/systemd", "/unified"))

    def free_mb(self, path: str) -> int:
        """Return the free space (1024 × 1024 bytes) where *path* is or would be."""
        while path != "/" and not os.path.exists(self.path(path)):
            path = os.path.dirname(path)
        found = os.statvfs(self.path(path) or "/")
        return found.f_bavail * found.f_frsize >> 20

    def os_release(self) -> Mapping[str, str]:
        """Return the keys of os-release(5)."""
        text = self.text("/etc/os-release") or self.text("/usr/lib/os-release") or ""
        return os_release.parse(text)

    def compose_version(self) -> str:
        """Return what a Compose that no package brought says its version is, empty where it says nothing."""
        done = self._run(["docker", "compose", "version", "--short"], timeout=30)
        return done.stdout.strip() if done.ok else ""
