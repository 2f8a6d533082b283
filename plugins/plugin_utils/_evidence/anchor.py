# SPDX-License-Identifier: GPL-3.0-or-later
"""Heads written down in git, under a ref of their own: the work tree stays clean, and what is checked out does not move.

Each head is a commit after the one before. Its message tells chain, number and hash, its tree has the signed statement of each chain. With
``git push origin refs/pifleet/evidence`` it leaves the controller.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.verify import Anchor

REF = "refs/pifleet/evidence"
PLACE = f"git ({REF})"
_SECONDS = 30.0
#: two runs may end at once
_TRIES = 5
_FIELD = re.compile(r"^(chain|seq|sha256): (\S+)$", re.M)


class AnchorError(PifleetError):
    """A head could not be written down, or heads could not be read."""


@dataclass(frozen=True, slots=True)
class Git:
    """The repository of the fleet's folder *root*."""

    root: Path
    run: argv.Runner = argv.run

    def write(self, anchor: Anchor, statement: Mapping[str, Any], author: str, at: str) -> str | None:
        """Commit a head with its *statement*, and return the commit. None where *root* is in no git repository. Raises AnchorError."""
        said = ""
        for _try in range(_TRIES):
            before = self._tip()
            if before is None:
                return None
            done = self._git("fast-import", "--quiet", "--date-format=raw", stdin=_stream(anchor, statement, author, at, before))
            after = self._tip()
            if done.ok and after and after != before:
                return after
            said = " ".join(done.stderr.split())[:300]
        raise AnchorError(f"The head of the evidence could not be written to {REF}: {said}.", "Look at `git fsck` and at the disk.")

    def read(self) -> list[Anchor]:
        """Return the heads of every chain, oldest first; none where there is no such ref. Raises AnchorError."""
        if not self._tip():
            return []
        done = self._git("log", "--reverse", "--topo-order", "--format=%B%x00", REF)
        if not done.ok:
            raise AnchorError(f"{REF} cannot be read: {' '.join(done.stderr.split())}.", "Look at `git fsck`.")
        found = []
        for message in done.stdout.split("\0"):
            fields = dict(_FIELD.findall(message))
            if {"chain", "seq", "sha256"} <= set(fields) and fields["seq"].isdigit():
                found.append(Anchor(PLACE, fields["chain"], int(fields["seq"]), fields["sha256"]))
        return found

    def _tip(self) -> str | None:
        """Return the newest commit of the ref, "" where there is none yet, None where there is no repository."""
        done = self._git("rev-parse", "--git-dir", "--verify", "--quiet", REF)
        lines = done.stdout.split()
        if not lines:
            return None
        return lines[-1] if done.ok and len(lines) > 1 else ""

    def _git(self, *words: str, stdin: str | None = None) -> argv.Completed:
        return self.run(["git", "-C", str(self.root), *words], stdin=stdin, timeout=_SECONDS)


def _stream(anchor: Anchor, statement: Mapping[str, Any], author: str, at: str, before: str) -> str:
    """What git-fast-import(1) reads: one commit, which keeps the files of other chains."""
    message = f"Head {anchor.seq} of the evidence\n\nchain: {anchor.chain}\nseq: {anchor.seq}\nsha256: {anchor.sha256}\n"
    content = json.dumps(statement, indent=1, sort_keys=True) + "\n"
    seconds = int(datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp())
    who = re.sub(r"[<>\n]", "", author) or "pifleet"
    return (
        f"commit {REF}\n"
        f"committer {who} <{who}@localhost> {seconds} +0000\n"
        f"data {len(message.encode())}\n{message}\n"
        f"{f'from {before}' + chr(10) if before else ''}"
        f"M 100644 inline {anchor.chain}.json\n"
        f"data {len(content.encode())}\n{content}\n"
        "done\n"
    )
