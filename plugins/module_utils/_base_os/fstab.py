# SPDX-License-Identifier: GPL-3.0-or-later
"""Edits of fstab(5): all but the fields that change stays as it is, blanks included."""

from __future__ import annotations

import re

_COMMENTED = "# swapped off by pifleet.ops: "
_ATIME = ("atime", "noatime", "relatime", "strictatime")
_ENTRY = re.compile(r"^[ \t]*(?P<device>[^#\s]\S*)[ \t]+(?P<point>\S+)[ \t]+(?P<kind>\S+)(?:[ \t]+(?P<options>\S+))?")


def without_swap(text: str) -> str:
    """Return *text* with every swap entry commented out."""
    return "".join(_COMMENTED + line if _kind(line) == "swap" else line for line in text.splitlines(keepends=True))


def has_swap(text: str) -> bool:
    """Whether *text* has a swap entry."""
    return any(_kind(line) == "swap" for line in text.splitlines())


def with_noatime(text: str) -> str | None:
    """Return *text* with ``noatime`` among the root file system's options, or None where it has no entry for that."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        entry = _ENTRY.match(line)
        if entry and entry["point"] == "/":
            options = (entry["options"] or "defaults").split(",")
            if "noatime" in options:
                return text
            wanted = ",".join([*(o for o in options if o not in _ATIME), "noatime"])
            start, end = entry.span("options") if entry["options"] else (entry.end(), entry.end())
            lines[number] = line[:start] + ("" if entry["options"] else " ") + wanted + line[end:]
            return "".join(lines)
    return None


def _kind(line: str) -> str:
    entry = _ENTRY.match(line)
    return entry["kind"] if entry else ""
