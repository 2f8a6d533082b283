# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's block in /etc/hosts. Every line outside it is the user's and stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

BEGIN = "# BEGIN pifleet.ops fleet"
END = "# END pifleet.ops fleet"


@dataclass(frozen=True, slots=True)
class HostEntry:
    """A node of the fleet: its address, empty where this run does not know it, and its names, the canonical one first."""

    address: str
    names: tuple[str, ...]


def with_block(text: str, entries: Sequence[HostEntry], path: str) -> str:
    """Return the hosts file *text* with the fleet's block as *entries* say, at the place where it is, else at the end.

    An entry without an address keeps the line that the block has for its name: a run limited to one node may not know the others.
    Raises PifleetError where a block begins and does not end, because nobody can tell whose the following lines are.
    """
    before, inside, after = _split(text.splitlines(keepends=True), path)
    lines = [line for entry in entries if (line := _line(entry, inside))]
    if not lines:
        return "".join([*before, *after])
    if before and not before[-1].endswith("\n"):
        before = [*before[:-1], before[-1] + "\n"]
    return "".join([*before, *(f"{line}\n" for line in (BEGIN, *lines, END)), *after])


def _line(entry: HostEntry, inside: Sequence[str]) -> str:
    if entry.address:
        return " ".join([entry.address, *entry.names])
    return next((line.strip() for line in inside if line.split()[1:2] == [entry.names[0]]), "")


def _split(lines: list[str], path: str) -> tuple[list[str], list[str], list[str]]:
    """Return (the user's lines before the block, its own, the user's lines after it). Of several blocks the first one's place counts."""
    before: list[str] = []
    inside: list[str] = []
    after: list[str] = []
    outside = before
    is_open = False
    for line in lines:
        if not is_open and line.strip() == BEGIN:
            is_open, outside = True, after
        elif is_open and line.strip() == END:
            is_open = False
        else:
            (inside if is_open else outside).append(line)
    if is_open:
        raise PifleetError(
            f"{path} has the line {BEGIN!r} without {END!r} after it.", f"Remove the line {BEGIN!r} and the fleet's lines after it."
        )
    return before, inside, after
