# SPDX-License-Identifier: GPL-3.0-or-later
"""A real file system of a few megabytes, in memory, that can be filled and made read-only. Needs root, or sudo."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import TracebackType


class SmallDisk:
    """Mounted at *folder*, which is made."""

    def __init__(self, folder: Path, megabytes: int = 4) -> None:
        self.folder = folder
        self._megabytes = megabytes

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir()
        options = f"size={self._megabytes}m,mode=0700,uid={os.geteuid()},gid={os.getegid()}"
        _as_root("mount", "-t", "tmpfs", "-o", options, "pifleet-test", str(self.folder))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _as_root("umount", "--lazy", str(self.folder))

    def fill(self) -> None:
        """Leave no byte."""
        with (self.folder / "filler").open("ab", buffering=0) as stream:
            for size in (1 << 16, 1 << 12):
                try:
                    while True:
                        stream.write(bytes(size))
                except OSError:
                    pass

    def free(self) -> None:
        (self.folder / "filler").unlink()

    def grow(self, megabytes: int) -> None:
        """Give it more room."""
        _as_root("mount", "-o", f"remount,size={megabytes}m", str(self.folder))

    def read_only(self, on: bool) -> None:
        """Make it read-only, or writable again. Waits for who writes just now."""
        deadline = time.monotonic() + 30
        while True:
            try:
                _as_root("mount", "-o", f"remount,{'ro' if on else 'rw'}", str(self.folder))
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def _as_root(*command: str) -> None:
    subprocess.run([*([] if os.geteuid() == 0 else ["sudo", "--non-interactive"]), *command], check=True)
