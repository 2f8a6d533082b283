# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the payloads of this collection's modules from one run of Ansible to the next.

In each run Ansible packs a module, with all it imports of the collection and of its own library, when it first needs it: 0.1 to 0.3 s a
module, while the hosts wait. It keeps what it packed in `ansiballz_cache` of the run's temporary folder, a file a module, and looks there
first (ansible/executor/module_common.py, `_find_module_utils`); a release of Ansible that does it in another way finds nothing, and packs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import write_atomic

#: names of the payloads that are kept; modules of others may change without a word
OURS = "ansible_collections.pifleet.ops."
#: folders of older sources that stay, for other checkouts
KEPT = 4


class PayloadCache:
    """*folder*: of all payloads; *plugins*: of the sources; *ansible*: its version. A folder of its own for each state of these."""

    def __init__(self, folder: Path, plugins: Path, ansible: str) -> None:
        self._folder, self._plugins, self._ansible = folder, plugins, ansible
        self._mine = folder / _digest(plugins, ansible)

    def restore(self, run: Path) -> int:
        """Put what is kept into the folder *run*; how many payloads. What others could have written is left alone: payloads are code."""
        if not (_is_private(self._folder) and _is_private(self._mine)):
            return 0
        run.mkdir(mode=0o700, exist_ok=True)
        return sum(_copied(payload, run / payload.name) for payload in sorted(self._mine.glob(f"{OURS}*")))

    def keep(self, run: Path) -> int:
        """Keep what the run packed into *run*; how many payloads were new. Raises OSError.

        None where the sources changed meanwhile: nobody knows then which of them a payload has.
        """
        new = [p for p in sorted(run.glob(f"{OURS}*")) if p.suffix != ".lock" and not (self._mine / p.name).exists()]
        if not new or self._folder / _digest(self._plugins, self._ansible) != self._mine:
            return 0
        for payload in new:
            write_atomic(self._mine / payload.name, payload.read_bytes(), 0o600, folder_mode=0o700)
        self._drop_old()
        return len(new)

    def _drop_old(self) -> None:
        folders = sorted((f for f in self._folder.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime, reverse=True)
        for folder in folders[KEPT:]:
            shutil.rmtree(folder, ignore_errors=True)


def _copied(payload: Path, target: Path) -> bool:
    """Whether *payload* is at *target* now: another run may just remove it, and the disk may be full. Half of one is never left."""
    try:
        shutil.copyfile(payload, target)
    except OSError:
        target.unlink(missing_ok=True)
        return False
    return True


def _digest(plugins: Path, ansible: str) -> str:
    found = hashlib.sha256(f"{ansible} {sys.version}".encode())
    for kind in ("modules", "module_utils"):
        for path in sorted((plugins / kind).rglob("*.py")):
            source = path.read_bytes()
            found.update(f"\0{path.relative_to(plugins)}\0{len(source)}\0".encode() + source)
    return found.hexdigest()[:32]


def _is_private(folder: Path) -> bool:
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return folder.is_dir() and status.st_uid == os.geteuid() and not status.st_mode & 0o022
