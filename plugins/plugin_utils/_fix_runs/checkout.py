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
#: what `git revert` writes into the message of its commit, before the hash
_REVERTS = "This reverts commit "


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
        return self._kept_by_git(fix_run_id, self._commit(tree, base, message, at))

    def _commit(self, tree: str, parent: str, message: str, at: str) -> str:
        """Return the commit of *tree* on *parent*, on no branch. *at*: its time, ISO 8601; empty: now."""
        who = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "pifleet"), ("EMAIL", "pifleet@localhost"), ("DATE", at))
            if value
        }
        return self._must("The patch cannot be committed", "commit-tree", tree, "-p", parent, "-F", "-", stdin=message, **who).strip()

    def _kept_by_git(self, fix_run_id: str, commit: str) -> str:
        self._must("The patch cannot be kept", "update-ref", f"{REFS}{fix_run_id}", commit)
        return commit

    def renewed(self, fix_run_id: str, candidate: str, base: str, at: str) -> str:
        """Return the commit that brings the patch of *candidate*: that one or, where the branch had it and took it back, the same patch on
        what is checked out. The same of the same; *base*: what the patch was made for; *at*: its time, ISO 8601.

        Raises PifleetError where what is checked out is not *base* any more: the plan is another one then.
        """
        if not self._had(candidate) or self.is_kept(candidate):
            return candidate
        head = self.head()
        if self._tree(head) != self._tree(base):
            raise PifleetError(
                f"The patch {candidate[:12]} was committed and taken back, and the branch went on since: what is checked out "
                f"({head[:12]}) is not what its plan was made for.",
                "Let a new fix run look at it, and make a plan for what is there now: `-e retry=ID -e fresh=true`.",
            )
        message = self._must("The commit cannot be read", "show", "--no-patch", "--format=%B", candidate)
        return self._kept_by_git(fix_run_id, self._commit(self._tree(candidate), head, message, at))

    def keep(self, candidate: str) -> bool:
        """Bring *candidate* onto the branch that is checked out, with its files; whether that was still to be done.

        Raises PifleetError where the branch went on meanwhile, took it back, or the files were edited.
        """
        if self.is_kept(candidate):
            return False
        if self._had(candidate):
            raise PifleetError(
                f"The patch cannot be committed to the desired state: {candidate[:12]} was taken back there since.",
                "Retry: the patch is made anew on what is checked out.",
            )
        self._forward(candidate, "The patch cannot be committed to the desired state")
        return True

    def is_kept(self, candidate: str) -> bool:
        """Whether the branch that is checked out has *candidate*, and what it did: not where that was taken back since."""
        if not self._had(candidate):
            return False
        paths = self.changed(f"{candidate}^", candidate)
        if self._alike("HEAD", candidate, paths):
            return True
        # where the files were changed again on top, only the commits tell
        return not self._alike("HEAD", f"{candidate}^", paths) and not self._reverted_by(candidate)

    def revert(self, candidate: str) -> str:
        """Take *candidate* back from the branch with another commit, unless that is done already, and return that one; empty where the
        branch never had it, or somebody put its files back by themselves.

        Raises PifleetError with nothing changed where its files were changed again since, or were edited.
        """
        if not self.is_kept(candidate):
            return self._reverted_by(candidate) if self._had(candidate) else ""
        # made beside the work tree, not by `git revert`: that would leave it in the middle of one where files were changed again since
        head, what = self.head(), "The patch cannot be taken back from the desired state"
        undo = self._must(
            "The commit cannot be read", "diff-tree", "-p", "--binary", "--full-index", "--no-renames", candidate, f"{candidate}^"
        )
        with tempfile.TemporaryDirectory(prefix="pifleet-") as folder:
            env = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
            self._must("The commit cannot be read", "read-tree", head, **env)
            if not self._git("apply", "--cached", "--3way", "--whitespace=nowarn", "-", stdin=undo, **env).ok:
                paths = self.changed(f"{candidate}^", candidate)
                raise PifleetError(
                    f"{what}: {', '.join(paths[:5])} was changed again after {candidate[:12]}. The checkout is as it was.",
                    f"Take it back by hand (`git revert {candidate[:12]}`, settle the conflict, commit), and retry.",
                )
            tree = self._must("The patch cannot be stored", "write-tree", **env).strip()
        title = self._must("The commit cannot be read", "show", "--no-patch", "--format=%s", candidate).strip()
        commit = self._commit(tree, head, f'Revert "{title}"\n\n{_REVERTS}{candidate}.\n', "")
        self._forward(commit, what)
        return commit

    def _forward(self, commit: str, what: str) -> None:
        """Let the branch that is checked out go on to *commit*, with its files."""
        done = self._git("merge", "--ff-only", "--quiet", commit)
        if not done.ok:
            raise PifleetError(
                f"{what}: {' | '.join(done.stderr.strip().splitlines()[:2])}.",
                "The branch went on since, or files were edited: settle that, and retry.",
            )

    def _had(self, commit: str) -> bool:
        """Whether the branch that is checked out has *commit* somewhere, taken back since or not."""
        return bool(commit) and self._git("merge-base", "--is-ancestor", commit, "HEAD").ok

    def _reverted_by(self, commit: str) -> str:
        """The last commit on the branch that says that it takes *commit* back, as `git revert` does; empty where none does."""
        words = ("--fixed-strings", f"--grep={_REVERTS}{commit}", f"{commit}..HEAD")
        return self._must("The commits cannot be read", "log", "-1", "--format=%H", *words).strip()

    def _alike(self, one: str, other: str, paths: Iterable[str]) -> bool:
        return self._git("diff-tree", "--quiet", "-r", one, other, "--", *paths, GIT_LITERAL_PATHSPECS="1").ok

    def _tree(self, commit: str) -> str:
        return self._must("The commit cannot be read", "rev-parse", "--verify", f"{commit}^{{tree}}").strip()

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
