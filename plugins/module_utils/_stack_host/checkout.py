# SPDX-License-Identifier: GPL-3.0-or-later
"""The note of what is checked out on a node. Small and quick to load: each reconcile reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file

LINK = "link"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: *mode* ``644``, ``755`` or ``link``; *content*: SHA-256 (hex) of a file, target of a link."""

    mode: str
    content: str


Manifest = Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Checkout:
    """What is, or shall be, in the folder. *files*: by path below it, in order; *folder*: the part of the repository that was taken;
    *archive_sha256*: of the archive that it came from."""

    revision: str
    commit_message: str
    folder: str
    archive_sha256: str
    files: Manifest


def to_json(checkout: Checkout) -> str:
    """Return *checkout* as the content of its file."""
    files = {path: [entry.mode, entry.content] for path, entry in sorted(checkout.files.items())}
    return json.dumps(
        {
            "version": 1,
            "revision": checkout.revision,
            "commit_message": checkout.commit_message,
            "folder": checkout.folder,
            "archive_sha256": checkout.archive_sha256,
            "files": files,
        },
        ensure_ascii=False,
    )


def from_json(text: str | None) -> Checkout | None:
    """Return the checkout noted in a file, None where the file is missing or damaged."""
    try:
        noted = json.loads(text or "")
        files = {str(path): Entry(str(mode), str(content)) for path, (mode, content) in noted["files"].items()}
        words = [str(noted[key]) for key in ("revision", "commit_message", "folder", "archive_sha256")]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return Checkout(words[0], words[1], words[2], words[3], files)


def decrypted(files: Manifest) -> set[str]:
    """Return where the plain forms of the encrypted ones of *files* lie: ``app.env`` beside ``app.sops.env``."""
    parts = (os.path.split(path) for path in files)
    return {os.path.join(folder, name.replace(".sops.", ".", 1)) for folder, name in parts if ".sops." in name}


def tracked(active: Path, tree: Path, path: str) -> frozenset[str] | None:
    """Return the paths below *path*, a folder of stacks, of the files that belong to desired state, what was decrypted from them included.

    *active*: the note of what is checked out at *tree*. None where *path* is no folder of that checkout: all its files count then.
    """
    noted = from_json(atomic_file.read_text(active))
    if noted is None or os.path.normpath(path) != os.path.join(tree, noted.folder):
        return None
    below = noted.folder + "/"
    return frozenset(name.removeprefix(below) for name in (*noted.files, *decrypted(noted.files)) if name.startswith(below))
