# SPDX-License-Identifier: GPL-3.0-or-later
"""Unified diffs: read, applied, and written. https://www.gnu.org/software/diffutils/manual/html_node/Detailed-Unified.html"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import Edit
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.policy import EXECUTABLE, PLAIN, Tree, refuse_path
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import Case, Proposal

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@.*")
_NO_END = "\\ No newline at end of file"
_NOTHING = "Nothing was changed."
#: lines between two files that git writes and that change nothing else
_HARMLESS = re.compile(r"diff --git .*|index [0-9a-f]+\.\.[0-9a-f]+( 100644)?|new file mode 100644|")


@dataclass(frozen=True, slots=True)
class _Hunk:
    """*at*: the first line it replaces, from 0."""

    at: int
    old: tuple[str, ...]
    new: tuple[str, ...]


class Apply:
    """``apply diff FILE``: the diff that was given along, exactly where it says."""

    needs_look = False

    def propose(self, case: Case) -> Proposal:
        edits = tuple(_applied(path, hunks, case) for path, hunks in read(case.patch))
        if not edits:
            raise PifleetError("The diff changes nothing.", _NOTHING)
        names = ", ".join(edit.path.removeprefix(f"{case.tree.folder}/") for edit in edits)
        return Proposal(edits, f"apply a diff to {names}")


def _applied(path: str, hunks: Sequence[_Hunk], case: Case) -> Edit:
    tree = case.tree
    inside = path.removeprefix(f"{tree.folder}/")
    # before anything is read of it
    refuse_path(inside, tree, case.profile)
    before = tree.texts.get(inside)
    return Edit(f"{tree.folder}/{inside}", before, apply(before or "", hunks, path))


def read(text: str) -> Iterator[tuple[str, list[_Hunk]]]:
    """Yield (path, hunks) of each file of a diff. Raises PifleetError for what is none, or does more than to change or add text."""
    lines = _lines(text)
    seen: set[str] = set()
    at = 0
    while at < len(lines):
        line = lines[at].rstrip("\n")
        if not line.startswith("--- "):
            if not _HARMLESS.fullmatch(line):
                raise PifleetError(
                    f"Line {at + 1} of the diff is not understood, or does more than to change text: {line[:80]!r}.", _NOTHING
                )
            at += 1
            continue
        if at + 1 >= len(lines) or not lines[at + 1].startswith("+++ "):
            raise PifleetError(f"Line {at + 2} of the diff does not name the new file.", _NOTHING)
        path = _path(line[4:], lines[at + 1].rstrip("\n")[4:])
        if path in seen:
            raise PifleetError(f"The diff has {path} twice.", _NOTHING)
        seen.add(path)
        at += 2
        hunks = []
        while at < len(lines) and (head := _HUNK.fullmatch(lines[at].rstrip("\n"))):
            hunk, at = _hunk(head, lines, at + 1)
            hunks.append(hunk)
        if not hunks:
            raise PifleetError(f"The diff changes nothing of {path}.", _NOTHING)
        yield path, hunks


def _path(old: str, new: str) -> str:
    old, new = (name.split("\t")[0] for name in (old, new))
    if new == "/dev/null":
        raise PifleetError(f"The diff removes {old}, which a fix run does not.", _NOTHING)
    path = new.removeprefix("b/")
    if old not in ("/dev/null", new) and old.removeprefix("a/") != path:
        raise PifleetError(f"The diff renames {old}, which a fix run does not.", _NOTHING)
    return path


def _hunk(head: re.Match[str], lines: Sequence[str], at: int) -> tuple[_Hunk, int]:
    old_count, new_count = (int(head[group]) if head[group] is not None else 1 for group in (2, 4))
    old: list[str] = []
    new: list[str] = []
    while len(old) < old_count or len(new) < new_count or (at < len(lines) and lines[at].startswith(_NO_END)):
        if at >= len(lines):
            raise PifleetError("The diff ends in the middle.", _NOTHING)
        line = lines[at]
        kind, content = line[:1], line[1:]
        if line.startswith(_NO_END):
            for side in _last_sides(lines[at - 1], old, new):
                side[-1] = side[-1].rstrip("\n")
        elif kind in (" ", "-", "+", "\n"):
            content = "\n" if kind == "\n" else content
            if kind != "+":
                old.append(content)
            if kind != "-":
                new.append(content)
        else:
            raise PifleetError(f"Line {at + 1} of the diff is not understood: {line.rstrip()[:80]!r}.", _NOTHING)
        at += 1
    first = int(head[1])
    return _Hunk(first if old_count == 0 else first - 1, tuple(old), tuple(new)), at


def _last_sides(line: str, old: list[str], new: list[str]) -> list[list[str]]:
    sides = {"-": [old], "+": [new], " ": [old, new]}.get(line[:1], [])
    return [side for side in sides if side]


def apply(before: str, hunks: Iterable[_Hunk], path: str) -> str:
    """Return *before* with *hunks* applied. Raises PifleetError where one does not fit to the letter."""
    lines = _lines(before)
    done: list[str] = []
    at = 0
    for hunk in hunks:
        if hunk.at < at or tuple(lines[hunk.at : hunk.at + len(hunk.old)]) != hunk.old:
            raise PifleetError(
                f"The diff does not apply to {path} at line {hunk.at + 1}.", f"Make it anew, of what is committed. {_NOTHING}"
            )
        done += lines[at : hunk.at]
        done += hunk.new
        at = hunk.at + len(hunk.old)
    return "".join([*done, *lines[at:]])


def render(edits: Iterable[Edit]) -> str:
    """Return *edits* as a unified diff, in the order of paths, that ``git apply`` takes."""
    parts: list[str] = []
    for edit in sorted(edits, key=lambda edit: edit.path):
        if edit.mode:
            other = EXECUTABLE if edit.mode == PLAIN else PLAIN
            kind = f"new file mode {edit.mode}" if edit.before is None else f"old mode {other}\nnew mode {edit.mode}"
            parts.append(f"diff --git a/{edit.path} b/{edit.path}\n{kind}\n")
        old = "/dev/null" if edit.before is None else f"a/{edit.path}"
        for line in difflib.unified_diff(_lines(edit.before or ""), _lines(edit.after), old, f"b/{edit.path}"):
            parts.append(line if line.endswith("\n") else f"{line}\n{_NO_END}\n")
    return "".join(parts)


def _lines(text: str) -> list[str]:
    """Lines with their ends; only a line feed ends one, as for diff and git."""
    return [line for line in re.split(r"(?<=\n)", text) if line]


def touched(tree: Tree, edits: Iterable[Edit]) -> list[str]:
    """Return the paths of *edits* below the stack's folder."""
    return [edit.path.removeprefix(f"{tree.folder}/") for edit in edits]
