# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's checkout as fix runs use it: what is committed of a stack, and the commit with a patch.

That commit, the candidate, is on no branch before it verified.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import REFS, Edit
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.policy import MOST, PLAIN, Tree

_NOTHING = "Nothing was recorded."


class Checkout:
    """The work tree at *root*. Raises PifleetError where git or a commit is missing."""

    def __init__(self, root: Path, run: argv.Runner = argv.run) -> None:
        self.root, self._run = root, run

    def _git(self, *words: str, stdin: str | None = None, **env: str) -> argv.Completed:
        # no hook and no setting of the owner has a say in what is committed here; the owner of a checkout is not asked
        safe = (
            "-c",
            f"safe.directory={self.root}",
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "commit.gpgSign=false",
            "-c",
            "core.autocrlf=false",
        )
        return self._run(["git", "--no-optional-locks", *safe, "-C", str(self.root), *words], stdin=stdin, timeout=60, env=env)

    def _must(self, what: str, *words: str, stdin: str | None = None, **env: str) -> str:
        done = self._git(*words, stdin=stdin, **env)
        if not done.ok:
            raise PifleetError(f"{what}: {' | '.join((done.stderr or done.stdout).split(chr(10))[:3]).strip()}.")
        return done.stdout

    def head(self) -> str:
        """Return the commit that is checked out."""
        found = self._git("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if not found.ok:
            raise PifleetError(
                f"{self.root} has no commit.", f"A fix run patches what is committed: `git init`, `git add`, `git commit`. {_NOTHING}"
            )
        return found.stdout.strip()

    def text(self, commit: str, path: str) -> str | None:
        """Return a file at *commit*, None where there is none."""
        found = self._git("cat-file", "blob", f"{commit}:{path}")
        return found.stdout if found.ok else None

    def mode(self, commit: str, path: str) -> str:
        """Return git's mode of a file at *commit*, empty where there is none."""
        return self._must("The commit cannot be read", "ls-tree", "--format=%(objectmode)", commit, "--", path).strip()

    def names(self, commit: str, folder: str) -> list[str]:
        """Return the names of the files in a folder at *commit*."""
        return (
            self._must("The commit cannot be read", "ls-tree", "--name-only", f"{commit}:{folder}").splitlines()
            if self._has(commit, folder)
            else []
        )

    def _has(self, commit: str, folder: str) -> bool:
        return self._git("cat-file", "-e", f"{commit}:{folder}").ok

    def tree(self, commit: str, folder: str) -> Tree:
        """Return the stack's folder at *commit*; each text is read when it is asked for. Raises PifleetError where there is none."""
        listed = self._git("ls-tree", "-r", "-z", "--long", f"{commit}:{folder}")
        if not listed.ok:
            raise PifleetError(f"There is no folder {folder} in the commit {commit[:12]}.", f"Is it committed? {_NOTHING}")
        modes, blobs = {}, {}
        for entry in filter(None, listed.stdout.split("\0")):
            about, _tab, path = entry.partition("\t")
            mode, _kind, blob, size = about.split()
            modes[path] = mode
            if mode.startswith("100") and size.isdecimal() and int(size) <= MOST:
                blobs[path] = (blob, int(size))
        return Tree(folder, modes, _Texts(self._blob, blobs))

    def _blob(self, blob: str) -> str:
        return self._must("The commit cannot be read", "cat-file", "blob", blob)

    def before(self, commit: str, folder: str) -> str:
        """Return the commit before the last one that changed *folder*, empty where there is none."""
        last = self._git("log", "-2", "--format=%H", commit, "--", folder).stdout.split()
        if len(last) < 2:
            return ""
        return self._git("rev-parse", "--verify", "--quiet", f"{last[0]}^").stdout.strip()

    def same(self, one: str, other: str, folder: str) -> bool:
        """Whether *folder* is the same at both commits. One that is not in this repository is the same as none."""
        if one == other:
            return True
        hashes = [self._git("rev-parse", "--verify", "--quiet", f"{commit}:{folder}") for commit in (one, other)]
        return all(done.ok for done in hashes) and hashes[0].stdout == hashes[1].stdout

    def dirty(self, paths: Iterable[str]) -> list[str]:
        """Return those of *paths* that differ from the commit, or are in none."""
        listed = self._must(
            "The checkout cannot be read", "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *paths
        )
        return sorted(entry[3:] for entry in listed.split("\0") if entry)

    # -- the candidate ----------------------------------------------------------------------------------------------------------------
    def commit(self, fix_run_id: str, base: str, edits: Iterable[Edit], message: str, at: str) -> str:
        """Return the commit that is *base* with *edits*, on no branch. The same of the same; *at*: its time, ISO 8601."""
        with tempfile.TemporaryDirectory(prefix="pifleet-") as folder:
            env = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
            self._must("The commit cannot be read", "read-tree", base, **env)
            for edit in edits:
                blob = self._must("The patch cannot be stored", "hash-object", "-w", "--stdin", stdin=edit.after).strip()
                mode = edit.mode or self.mode(base, edit.path) or PLAIN
                self._must("The patch cannot be stored", "update-index", "--add", "--cacheinfo", f"{mode},{blob},{edit.path}", **env)
            tree = self._must("The patch cannot be stored", "write-tree", **env).strip()
        who = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "pifleet"), ("EMAIL", "pifleet@localhost"), ("DATE", at))
        }
        commit = self._must("The patch cannot be committed", "commit-tree", tree, "-p", base, "-F", "-", stdin=message, **who).strip()
        self._must("The patch cannot be kept", "update-ref", f"{REFS}{fix_run_id}", commit)
        return commit

    def keep(self, candidate: str) -> bool:
        """Bring *candidate* onto the branch that is checked out, with its files; whether that was still to be done.

        Raises PifleetError where the branch went on meanwhile, or the files were edited.
        """
        if self.is_kept(candidate):
            return False
        done = self._git("merge", "--ff-only", "--quiet", candidate)
        if not done.ok:
            raise PifleetError(
                f"The patch cannot be committed to the desired state: {' | '.join(done.stderr.strip().splitlines()[:2])}.",
                "The branch went on since, or files were edited: settle that, and retry.",
            )
        return True

    def is_kept(self, candidate: str) -> bool:
        """Whether *candidate* is on the branch that is checked out."""
        return bool(candidate) and self._git("merge-base", "--is-ancestor", candidate, "HEAD").ok

    def revert(self, candidate: str) -> str:
        """Take a commit that is on the branch back with another one, and return that."""
        who = ("-c", "user.name=pifleet", "-c", "user.email=pifleet@localhost")
        self._must("The patch cannot be reverted", *who, "revert", "--no-edit", candidate)
        return self.head()

    def changed(self, one: str, other: str) -> list[str]:
        """Return the paths in which two commits differ."""
        return sorted(filter(None, self._must("The commit cannot be read", "diff-tree", "-r", "-z", "--name-only", one, other).split("\0")))

    def forget(self, fix_run_id: str) -> None:
        """Let go of a candidate."""
        self._git("update-ref", "-d", f"{REFS}{fix_run_id}")


class _Texts(Mapping[str, str]):
    """The files of *blobs* (id and bytes, by path) that are text: read when they are asked for, since most never are."""

    def __init__(self, read: Callable[[str], str], blobs: Mapping[str, tuple[str, int]]) -> None:
        self._read, self._blobs = read, blobs
        self._known: dict[str, str | None] = {}

    def _text(self, path: str) -> str | None:
        if path not in self._known:
            blob, size = self._blobs[path]
            content = self._read(blob)
            # what reading made something else of: bytes that are no text, line ends of another system
            is_text = "\0" not in content and len(content.encode()) == size and "\ufffd" not in content
            self._known[path] = content if is_text else None
        return self._known[path]

    def __getitem__(self, path: str) -> str:
        text = self._text(path) if path in self._blobs else None
        if text is None:
            raise KeyError(path)
        return text

    def __iter__(self) -> Iterator[str]:
        return (path for path in self._blobs if self._text(path) is not None)

    def __len__(self) -> int:
        return sum(1 for _path in self)
