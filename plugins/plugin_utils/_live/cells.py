# SPDX-License-Identifier: GPL-3.0-or-later
"""Text in the cells of a terminal: how wide it is, cut, folded, and side by side in columns. Pure.

Of Python's own parts alone: a library for this takes as long to import as the whole view is allowed to cost.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

#: between two columns
GAP = "  "
RESET = "\x1b[0m"
#: (style, text), each line of which is short enough or folded
Cell = tuple[str, str]


@lru_cache(maxsize=4096)
def width_of(text: str) -> int:
    """Return how many cells *text* takes."""
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(_width(char) for char in text)


def _width(char: str) -> int:
    if unicodedata.category(char) in ("Cc", "Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def fitted(text: str, width: int) -> str:
    """Return *text* cut off or filled up to *width* cells."""
    cells = width_of(text)
    if cells > width:
        text = _head(text, width)
        cells = width_of(text)
    return text + " " * (width - cells)


def _head(text: str, width: int) -> str:
    """Return as much of *text* as goes into *width* cells."""
    if text.isascii() and text.isprintable():
        return text[:width]
    for place, char in enumerate(text):
        width -= _width(char)
        if width < 0:
            return text[:place]
    return text


def folded(text: str, width: int) -> list[str]:
    """Return *text* in lines of at most *width* cells, broken between words, and within a word that is wider."""
    return [line for one in _lines(text) for line in _folded(one, width)]


def _lines(text: str) -> list[str]:
    return text.expandtabs().splitlines() or [""]


def _folded(line: str, width: int) -> Iterator[str]:
    made: str | None = None
    for word in line.split(" "):
        # what a line begins with says what it belongs to
        longer = word if made is None else f"{made} {word}"
        if width_of(longer) <= width:
            made = longer
            continue
        if made and not made.isspace():
            yield made
        made = word
        while width_of(made) > width:
            # one character at least, or a column of one cell would never end with a wide one
            head = _head(made, width) or made[0]
            yield head
            made = made[len(head) :]
    yield made or ""


def columns(rows: Sequence[Sequence[Sequence[Cell]]], width: int) -> list[str]:
    """Return *rows* side by side in lines of at most *width* cells, in colours. A field is one or more cells, one below the other.

    The first column takes a quarter at most, the second half of what is left where the others need it.
    """
    if not rows:
        return []
    needed = [
        max(width_of(line) for field in column for _style, text in field for line in _lines(text)) for column in zip(*rows, strict=True)
    ]
    widths: list[int] = []
    for number, want in enumerate(needed):
        rest = width - sum(widths) - len(GAP) * len(widths)
        after = sum(needed[number + 1 :]) + len(GAP) * len(needed[number + 1 :])
        share = max(12, width // 4) if number == 0 else max(rest // 2, rest - after) if after else rest
        widths.append(max(1, min(want, share)))
    return [line for row in rows for line in _row(row, widths)]


def _row(row: Sequence[Sequence[Cell]], widths: Sequence[int]) -> Iterator[str]:
    fields = [[(style, line) for style, text in field for line in folded(text, width)] for field, width in zip(row, widths, strict=True)]
    for number in range(max(len(field) for field in fields)):
        parts, filled = "", 0
        for field, width in zip(fields, widths, strict=True):
            style, text = field[number] if number < len(field) else ("", "")
            if text:
                parts += " " * filled + (f"{style}{text}{RESET}" if style else text)
                filled = 0
            filled += width - width_of(text) + len(GAP)
        yield parts
