# SPDX-License-Identifier: GPL-3.0-or-later
"""Which version a release has. ``resolve`` is the whole strategy, in one function; what it needs to know is a value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

#: what a tag of an image may be: https://github.com/distribution/reference (tag)
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Source:
    """The checkout. *commit*: its full hash; *tags*: those that name it exactly; *described*: `git describe`, empty where no tag is near;
    *given*: commit by version that was asked for, empty where the checkout has none of that name."""

    commit: str
    tags: tuple[str, ...] = ()
    described: str = ""
    given: Mapping[str, str] = field(default_factory=dict)


def resolve(source: Source, given: str = "") -> str:
    """Return the version: *given*; else the tag of the commit, else what `git describe` says, else the commit's first 12 digits.

    Of several tags it is the last in order. Raises PifleetError for a version that is not what is checked out.
    """
    if given:
        return _checked(source, given)
    if source.tags:
        return _valid(max(source.tags))
    return _valid(source.described or source.commit[:12])


def _checked(source: Source, given: str) -> str:
    _valid(given)
    commit = source.given.get(given, "")
    if not commit:
        raise PifleetError(
            f"There is no version {given}: the checkout has no tag or commit of that name.",
            f"`git tag {given}` names what is checked out; without a version, it is found by itself. Nothing was recorded.",
        )
    if commit != source.commit:
        raise PifleetError(
            f"The version {given} is the commit {commit[:12]}, and {source.commit[:12]} is checked out.",
            f"`git checkout {given}` and deploy again; back to an earlier release goes playbooks/rollback.yml. Nothing was recorded.",
        )
    return given


def _valid(version: str) -> str:
    shown = version.replace("/", "-")
    if not _VERSION.fullmatch(shown):
        raise PifleetError(f"{version!r} cannot be a version: it becomes the tag of an image.", "Letters, digits, `_`, `.` and `-`.")
    return shown


class Checkout:
    """The work tree at *root*. Raises PifleetError where git or a commit is missing."""

    def __init__(self, root: Path, run: argv.Runner = argv.run) -> None:
        self._root, self._run = root, run

    def git(self, *words: str) -> argv.Completed:
        # the owner of a checkout is not asked: root may run this in another's
        safe = ("-c", f"safe.directory={self._root}")
        return self._run(["git", "--no-optional-locks", *safe, "-C", str(self._root), *words], timeout=60)

    def source(self, given: str = "") -> Source:
        """Return what is checked out. *given*: a version that was asked for."""
        head = self.git("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if head.rc == 127:
            raise PifleetError("git is missing on the controller.", "Install it: a release is made of a commit. Nothing was recorded.")
        if not head.ok:
            raise PifleetError(
                f"{self._root} has no commit that could be released.", "`git init`, `git add` and `git commit` there. Nothing was recorded."
            )
        commit = head.stdout.strip()
        tags = self.git("tag", "--points-at", commit).stdout.split()
        described = "" if tags else self.git("describe", "--tags", commit).stdout.strip()
        return Source(commit, tuple(sorted(tags)), described, {given: self._commit_of(given)} if given else {})

    def _commit_of(self, version: str) -> str:
        if not _VERSION.fullmatch(version.replace("/", "-")):
            return ""
        found = self.git("rev-parse", "--verify", "--quiet", f"{version}^{{commit}}")
        return found.stdout.strip() if found.ok else ""

    def dirty(self, places: tuple[str, ...]) -> tuple[str, ...]:
        """Return the files below *places* that differ from the commit, or are in none."""
        done = argv.check(self.git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *places))
        return tuple(sorted(entry[3:] for entry in done.stdout.split("\0") if entry))

    def tree(self, commit: str, place: str) -> str:
        """Return git's hash of everything below *place* at *commit*, empty where that is no folder there."""
        found = self.git("rev-parse", "--verify", "--quiet", f"{commit}:{place.rstrip('/')}" if place.strip("./") else f"{commit}^{{tree}}")
        kind = self.git("cat-file", "-t", found.stdout.strip()) if found.ok else found
        return found.stdout.strip() if kind.ok and kind.stdout.strip() == "tree" else ""
