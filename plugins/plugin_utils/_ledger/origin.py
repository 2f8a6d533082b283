# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a run comes from: who started it, from which revision, with which collection."""

from __future__ import annotations

import json
import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file

#: (uid_t)-1: the kernel's word for "nobody logged in" (a service, cron before PAM, a container)
_NO_LOGIN = 0xFFFFFFFF
_COLLECTION = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Revision:
    """*commit*: full hash of what is checked out, None outside of a git work tree; *dirty*: there are uncommitted or untracked files."""

    commit: str | None
    dirty: bool | None


def revision_of(root: Path, run: argv.Runner = argv.run) -> Revision:
    """Return the revision of *root*, with one git command that writes nothing (not even git's index)."""
    done = run(
        ["git", "--no-optional-locks", "-C", str(root), "status", "--porcelain=v2", "--branch", "--untracked-files=normal"], timeout=30
    )
    if not done.ok:
        return Revision(None, None)
    lines = done.stdout.splitlines()
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), "")
    return Revision(commit if re.fullmatch(r"[0-9a-f]{40,64}", commit) else None, any(not line.startswith("#") for line in lines))


def login(loginuid: Path = Path("/proc/self/loginuid")) -> str:
    """Return who is at the controller: the user of the login session, which the kernel keeps through su and sudo, else of the process.

    Never from the environment or a variable, where anyone could write any name (audit's loginuid: proc(5)).
    """
    try:
        uid = int(atomic_file.read_text(loginuid) or _NO_LOGIN)
    except (ValueError, OSError):
        uid = _NO_LOGIN
    uid = os.getuid() if uid == _NO_LOGIN else uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def collection_version(root: Path = _COLLECTION) -> str:
    """Return the version of the collection that runs: of its manifest where installed, of galaxy.yml in a checkout."""
    manifest = atomic_file.read_text(root / "MANIFEST.json")
    if manifest:
        return str(json.loads(manifest)["collection_info"]["version"])
    match = re.search(r"^version:\s*[\"']?([^\s\"'#]+)", atomic_file.read_text(root / "galaxy.yml") or "", re.M)
    return match[1] if match else ""
