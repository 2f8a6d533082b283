# SPDX-License-Identifier: GPL-3.0-or-later
"""Text in the cells of a terminal, beside Rich's own measure of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from ansible_collections.pifleet.ops.plugins.plugin_utils._live import cells
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

#: letters of one cell and of two, and such as go on top of the one before
LETTERS = st.text(st.sampled_from("abc é節点タ→…━😀\u0301"), max_size=60)
WORDS = st.lists(st.text(st.sampled_from("abé節点→"), min_size=1, max_size=30), max_size=12).map(" ".join)


@given(LETTERS)
def test_width_is_what_rich_says(text: str) -> None:
    assert cells.width_of(text) == cell_len(text)


@given(LETTERS, st.integers(0, 40))
def test_fitted_text_has_the_width_and_is_cut_at_its_end_alone(text: str, width: int) -> None:
    made = cells.fitted(text, width)
    assert cell_len(made) == width
    assert text.startswith(made.rstrip(" ")) or made.startswith(text)


@given(WORDS, st.integers(2, 40))
def test_folded_text_fits_and_keeps_every_letter(text: str, width: int) -> None:
    lines = cells.folded(text, width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_words_are_kept_whole_where_they_fit() -> None:
    assert cells.folded("the unit did not\nstart", 8) == ["the unit", "did not", "start"]
    assert cells.folded("", 8) == [""]


def test_a_line_stays_indented() -> None:
    assert cells.folded("Traceback:\n  at line 1\n    of it", 20) == ["Traceback:", "  at line 1", "    of it"]
    assert cells.folded("  one two", 6) == ["  one", "two"]
    assert cells.folded("    one", 4) == ["one"]


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=6), st.integers(40, 120))
def test_columns_stand_below_each_other_and_fit(rows: list[tuple[str, str, str]], width: int) -> None:
    made = cells.columns([[[("", text)] for text in row] for row in rows], width)
    assert all(cell_len(line) <= width for line in made)
    assert sorted("".join(made).replace(" ", "")) == sorted("".join("".join(row) for row in rows).replace(" ", ""))


def test_cells_of_a_field_stand_below_each_other_in_their_colours() -> None:
    made = cells.columns([[[("\x1b[31m", "one")], [("\x1b[1m", "task"), ("", "because\tof")]], [[("", "two")], [("", "more")]]], 60)
    assert made == ["\x1b[31mone\x1b[0m  \x1b[1mtask\x1b[0m", "     because of", "two  more"]
    assert cells.columns([], 60) == []


def test_the_view_needs_no_library() -> None:
    show = "import sys, ansible_collections.pifleet.ops.plugins.plugin_utils._live.screen; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", show],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not re.search(r"\b(rich|pydantic|sqlalchemy|ansible)\b", done.stdout.replace("ansible_collections", ""))
