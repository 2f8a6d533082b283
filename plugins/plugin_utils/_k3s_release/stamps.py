# SPDX-License-Identifier: GPL-3.0-or-later
"""Remembers which files were verified, so that a converged re-run does not read them again.

A stamp is what the file system says of a file (device, inode, size, times of change). Replacing, editing or touching the file changes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file

_FORMAT = 1


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stamp(path: Path) -> list[int]:
    seen = os.stat(path)
    return [seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]


class Stamps:
    """The remembered files of one cache folder, in ``verified.json``. A damaged or foreign file of that name is an empty memory."""

    def __init__(self, cache_dir: Path) -> None:
        self._path = cache_dir / "verified.json"
        self._known = _load(self._path)
        self._new = False

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of *path*: the remembered one where the file has not changed since, else of its content now."""
        key = os.path.realpath(path)
        stamp = _stamp(path)
        known = self._known.get(key)
        if known and known.get("stamp") == stamp and isinstance(known.get("sha256"), str):
            return str(known["sha256"])
        digest = sha256_of(path)
        if _stamp(path) == stamp:
            self._known[key] = {"stamp": stamp, "sha256": digest, "whole": False}
            self._new = True
        return digest

    def is_whole(self, path: Path) -> bool:
        """Whether the content was once found to be what its name says. Ask after ``sha256``."""
        return bool(self._known.get(os.path.realpath(path), {}).get("whole"))

    def mark_whole(self, path: Path) -> None:
        """Remember that it was."""
        entry = self._known.get(os.path.realpath(path))
        if entry is not None:
            entry["whole"] = True
            self._new = True

    def save(self) -> None:
        """Write what was learnt, without files that are gone. Raises OSError."""
        if self._new:
            files = {key: value for key, value in sorted(self._known.items()) if os.path.exists(key)}
            atomic_file.write_atomic(
                self._path, json.dumps({"format": _FORMAT, "files": files}, indent=1) + "\n", mode=0o600, folder_mode=0o700
            )
            self._new = False


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(atomic_file.read_text(path) or "{}")
    except (ValueError, OSError):
        return {}
    files = data.get("files") if isinstance(data, dict) and data.get("format") == _FORMAT else None
    return {k: v for k, v in files.items() if isinstance(v, dict)} if isinstance(files, dict) else {}
