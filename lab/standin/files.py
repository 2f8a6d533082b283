# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files with the right mode from their first byte."""

from __future__ import annotations

import contextlib
import os


def write(path: str, data: str, mode: int = 0o600) -> None:
    """Replace *path* as a whole; its folders are made 0755."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fresh = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(data)
        os.fchmod(stream.fileno(), mode)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, path)


def read(path: str) -> str:
    with open(path) as stream:
        return stream.read()


def read_or(path: str, default: str = "") -> str:
    try:
        return read(path)
    except FileNotFoundError:
        return default
