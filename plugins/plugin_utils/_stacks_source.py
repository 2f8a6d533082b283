# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller has for the nodes' stacks: its checkout, as an archive of one commit, and a folder of packages and images."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import desired_tree
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.git import Git
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.refresh import Target

_IMAGES = re.compile(r".+\.tar(\.(gz|zst|xz))?")


@dataclass(frozen=True, slots=True)
class Artifacts:
    """*debs*: names of package files; *images*: identity of each archive of images, by name. Identity is size and time: a hash of a
    gigabyte at each run would cost more than a load that was not needed."""

    debs: tuple[str, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)


def artifacts(folder: Path | None) -> Artifacts:
    """Return what is in the folder. Raises PifleetError where it is none."""
    if folder is None:
        return Artifacts()
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        hint = "Create it, or leave stacks_artifact_dir empty."
        raise PifleetError(f"stacks_artifact_dir is {folder}, which is no folder of the controller: {error.strerror}.", hint) from error
    images = {path.name: f"{path.stat().st_size}-{path.stat().st_mtime_ns}" for path in files if _IMAGES.fullmatch(path.name)}
    return Artifacts(tuple(path.name for path in files if path.suffix == ".deb"), images)


class Checkout:
    """The controller's work tree *root*, of which *folder* has the stacks. Only what is committed counts."""

    def __init__(self, root: Path, folder: str, run: argv.Runner = argv.run) -> None:
        self.root, self.folder = root, folder
        self._git = Git(run, timeout=60.0, trusted=str(root))

    def target(self) -> Target | None:
        """Return the commit that is checked out, None where *root* is no work tree of git and has no stacks either.

        Raises PifleetError for stacks that are in no commit at all.
        """
        found = self._git("-C", str(self.root), "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if found.ok:
            commit = found.stdout.strip()
            message = self._git.must("The commit cannot be read", "-C", str(self.root), "log", "-1", "--format=%B", commit)
            return Target(commit, message.rstrip("\n"))
        if (self.root / self.folder).is_dir():
            raise PifleetError(
                f"{self.root / self.folder} is not committed to git, and a revision is what nodes get.",
                "`git init`, `git add` and `git commit` there, or set stacks_repository. Nothing was touched.",
            )
        return None

    def uncommitted(self) -> tuple[str, ...]:
        """Return the files of the folder that differ from the commit, or are in none."""
        words = ("-C", str(self.root), "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", self.folder)
        listed = self._git.must("The checkout cannot be read", *words)
        return tuple(sorted(entry[3:] for entry in listed.split("\0") if entry))

    def texts(self, commit: str, wanted: Callable[[str], bool]) -> dict[str, str]:
        """Return the content of those of the folder's files at *commit* that are *wanted*, by path."""
        with tempfile.TemporaryDirectory(prefix="pifleet-") as folder:
            path = Path(folder, "archive.tar")
            self.archive(commit, path)
            return {name: data.decode(errors="replace") for name, _mode, data in desired_tree.contents(path) if wanted(name)}

    def archive(self, commit: str, into: Path) -> None:
        """Write the folder at *commit* to the file *into*, as a tar archive."""
        git_dir = Path(self._git.must("The checkout cannot be read", "-C", str(self.root), "rev-parse", "--absolute-git-dir").strip())
        self._git.archive(git_dir, commit, self.folder, into)
