# SPDX-License-Identifier: GPL-3.0-or-later
"""The artifacts of fix runs: files below one folder of the fleet, one for each fix run. What goes in was scrubbed before."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import Artifact

#: type by name: the only list of artifacts
TYPES = {
    "plan.json": "plan_snapshot",
    "analyze.json": "analysis",
    "patch.diff": "patch_diff",
    "build.log": "build_log",
    "restart.log": "restart_log",
    "verify.log": "verify_log",
    "rollback.log": "rollback_log",
    "metrics.json": "metrics",
}
#: bytes of an artifact; of a longer log, the end counts
MOST = 8 << 20


class Artifacts:
    """*root*: of the fleet; *folder*: below it."""

    def __init__(self, root: Path, folder: str) -> None:
        self._root, self._folder = root, folder

    def write(self, fix_run_id: str, name: str, step: str, text: str) -> Artifact:
        """Write an artifact, in the place of an earlier one of that name, and return what the ledger keeps of it. Raises PifleetError."""
        content = text.encode()
        if len(content) > MOST:
            content = b"... the beginning was left out\n" + content[-MOST:]
        path = f"{self._folder}/{fix_run_id}/{name}"
        try:
            atomic_file.write_atomic(self._root / path, content, 0o600, folder_mode=0o700)
        except OSError as error:
            raise PifleetError(f"{path} cannot be written: {error.strerror}.", "Make room on the controller, and retry.") from error
        return Artifact(name, TYPES[name], step, path, hashlib.sha256(content).hexdigest(), len(content))

    def read(self, artifact: Artifact) -> str:
        """Return an artifact's text. Raises PifleetError for one that is gone, or is not what the ledger has of it."""
        content = atomic_file.read_bytes(self._root / artifact.path)
        if content is None:
            raise PifleetError(f"{artifact.path} is gone.", "Its hash is in the ledger; its content is nowhere else.")
        if hashlib.sha256(content).hexdigest() != artifact.checksum:
            raise PifleetError(f"{artifact.path} was changed: it is not what the ledger has the hash of.", "Keep it for the auditor.")
        return content.decode(errors="replace")
