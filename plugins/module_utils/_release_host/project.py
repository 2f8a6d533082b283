# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a Compose project on a node: brought in place one by one, each whole, beside what containers keep there."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
#: name.sops.ext is decrypted to name.ext beside it
_ENCRYPTED = re.compile(r"(?P<stem>.+)\.sops(?P<ext>\.[^./]+)")


@dataclass(frozen=True, slots=True)
class Places:
    """Where releases live on a node, below *root*."""

    root: str
    environment: str
    project: str

    def __post_init__(self) -> None:
        for name in (self.environment, self.project):
            if not _NAME.fullmatch(name):
                raise PifleetError(f"{name!r} is no name of an environment or a Compose project.")

    @property
    def projects(self) -> str:
        """The folder that stack_reconcile works on."""
        return os.path.join(self.root, "projects", self.environment)

    @property
    def folder(self) -> str:
        return os.path.join(self.projects, self.project)

    @property
    def manifest(self) -> str:
        """The list of the project's files that are ours."""
        return os.path.join(self.root, "files", f"{self.project}.json")

    @property
    def staged(self) -> str:
        """The project of a version that is not rolled out yet."""
        return os.path.join(self.root, "staged", self.project)

    @property
    def lock(self) -> str:
        """Held by who migrates the project."""
        return os.path.join(self.root, "locks", f"{self.project}.lock")


def decoded(files: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[int, bytes]]:
    """Return (mode, content) of each of *files* by path. Raises PifleetError for what is no file of a project."""
    found = {}
    for path, entry in sorted(files.items()):
        parts = path.split("/")
        if path.startswith("/") or "" in parts or ".." in parts or "\0" in path:
            raise PifleetError(f"{path!r} is no path below the project's folder.")
        try:
            found[path] = (int(entry["mode"], 8), base64.b64decode(entry["content"], validate=True))
        except (KeyError, ValueError, binascii.Error):
            raise PifleetError(f"{path} is no file with a mode and a content in base64.") from None
    return found


def changes(places: Places, files: Mapping[str, tuple[int, bytes]]) -> tuple[list[str], list[str]]:
    """Return the paths that would be written, and those that would be removed."""
    write = [path for path, (mode, data) in files.items() if not _is(os.path.join(places.folder, path), mode, data)]
    return write, sorted(set(_ours(places)) - set(files))


def bring(places: Places, files: Mapping[str, tuple[int, bytes]]) -> bool:
    """Make the project's files *files*, and return whether anything changed. What was never ours stays.

    Killed at any point, the next call finishes it. Raises PifleetError where the disk does not take it.
    """
    write, remove = changes(places, files)
    ours = _ours(places)
    if not write and not remove and sorted(files) == ours:
        return False
    try:
        # first what will be ours: a file that is there and in no list would never be removed
        atomic_file.write_atomic(places.manifest, json.dumps(sorted({*ours, *files})), 0o644)
        for path in write:
            mode, data = files[path]
            atomic_file.write_atomic(os.path.join(places.folder, path), data, mode)
        for path in remove:
            _remove(places.folder, path)
        atomic_file.write_atomic(places.manifest, json.dumps(sorted(files)), 0o644)
    except OSError as error:
        raise PifleetError(
            f"{error.filename or places.folder} cannot be written: {error.strerror}.", "Make room, or make it writable, and run again."
        ) from None
    return True


def stage(places: Places, files: Mapping[str, tuple[int, bytes]]) -> None:
    """Bring *files* to the folder of what is not rolled out yet, with what the project's secrets were last decrypted to."""
    try:
        for path, (mode, data) in files.items():
            atomic_file.write_atomic(os.path.join(places.staged, path), data, mode, folder_mode=0o700)
            secret = _ENCRYPTED.fullmatch(path)
            plain = atomic_file.read_bytes(os.path.join(places.folder, secret["stem"] + secret["ext"])) if secret else None
            if secret and plain is not None:
                atomic_file.write_atomic(os.path.join(places.staged, secret["stem"] + secret["ext"]), plain, 0o600, folder_mode=0o700)
    except OSError as error:
        raise PifleetError(f"{error.filename or places.staged} cannot be written: {error.strerror}.", "Make room, and run again.") from None


def _ours(places: Places) -> list[str]:
    try:
        found = json.loads(atomic_file.read_text(places.manifest) or "[]")
    except ValueError:
        return []
    return sorted(path for path in found if isinstance(path, str)) if isinstance(found, list) else []


def _is(path: str, mode: int, data: bytes) -> bool:
    try:
        return not os.path.islink(path) and atomic_file.read_bytes(path) == data and (os.stat(path).st_mode & 0o777) == mode
    except OSError:
        return False


def _remove(folder: str, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, path))
    parent = os.path.dirname(path)
    while parent:
        try:
            os.rmdir(os.path.join(folder, parent))
        except OSError:
            return  # somebody keeps something there
        parent = os.path.dirname(parent)
