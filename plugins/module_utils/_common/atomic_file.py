# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way files are written: whole, durable, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def read_bytes(path: str | Path) -> bytes | None:
    """Return the content of *path*, or None where there is no such file."""
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_text(path: str | Path) -> str | None:
    """Return the content of *path* as text (undecodable bytes replaced), or None where there is no such file."""
    data = read_bytes(path)
    return None if data is None else data.decode("utf-8", errors="replace")


def fsync_folder(folder: str | Path) -> None:
    """Make a rename or an unlink in *folder* durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: str | Path, data: bytes | str, mode: int = 0o644, *, folder_mode: int = 0o755) -> None:
    """Replace *path* by *data* so that a reader, or a run after a kill, sees the old content or the new one.

    Temporary file in the same folder (created 0600, so that a secret is never readable under another mode),
    fsync, chmod, rename, fsync of the folder. Missing folders are made with *folder_mode*.

    Raises OSError (disk full, read-only file system) with *path* unchanged and the temporary file removed.
    """
    target = Path(path)
    missing = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=folder_mode, exist_ok=True)
        folder.chmod(folder_mode)
    payload = data.encode() if isinstance(data, str) else data
    fd, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    fsync_folder(target.parent)
