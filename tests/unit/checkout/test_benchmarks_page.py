# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of benchmarks shows the published figures, all of them, and tells which promise was not kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts import benchmarks_page
from tests.benchmarks.bootstrap import Figure

PROSE = "# Benchmarks\n\nBefore.\n\n<!-- figures: one -->\nold\n<!-- end -->\n\nAfter.\n"
SVG = "{http://www.w3.org/2000/svg}"


def figure(ratio: float, limit: float | None, name: str = "ours <fast> / the floor") -> dict[str, object]:
    return asdict(Figure(name, 4, 3, 5.0, 2.0, ratio, limit, load=1.5))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs/benchmarks").mkdir(parents=True)
    (tmp_path / "docs/benchmarks.md").write_text(PROSE)
    return tmp_path


def published(root: Path, *figures: dict[str, object], name: str = "one") -> None:
    (root / f"docs/benchmarks/{name}.json").write_text(json.dumps(figures))


def test_committed_page_and_plots_are_those_of_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks_page.main(["--check"]) == 0, f"run `python scripts/benchmarks_page.py`: {capsys.readouterr().out}"


def test_figures_become_a_table_and_a_plot_and_prose_stays(root: Path) -> None:
    published(root, figure(1.25, 2.0), figure(2.5, 2.0), figure(9.0, None))
    assert benchmarks_page.main(["--check"], root) == 1 and (root / "docs/benchmarks.md").read_text() == PROSE
    assert benchmarks_page.main([], root) == 0
    text = (root / "docs/benchmarks.md").read_text()
    assert text.startswith("# Benchmarks\n\nBefore.\n") and text.endswith("<!-- end -->\n\nAfter.\n") and "old" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ours")]
    assert rows[0] == "| ours <fast>, against the floor | 4 nodes, 3 runs | 5 s | 2 s | 1.25 | 2 | 1.5 |"
    assert [("**not kept**" in row) for row in rows] == [False, True, False]
    assert "](benchmarks/one.svg)" in text
    assert benchmarks_page.main(["--check"], root) == 0


def test_a_bar_is_as_long_as_what_it_takes_of_its_promise(root: Path) -> None:
    published(root, figure(1.0, 2.0), figure(2.0, 2.0), figure(3.0, 2.0), figure(90.0, 2.0), figure(1.0, None))
    benchmarks_page.main([], root)
    picture = ElementTree.parse(root / "docs/benchmarks/one.svg").getroot()
    bars = picture.findall(f"{SVG}rect")[1:]
    lengths = [float(bar.attrib["width"]) for bar in bars]
    assert lengths == [length * benchmarks_page.SCALE for length in (0.5, 1.0, 1.5, benchmarks_page.MOST)]
    assert [bar.attrib["fill"] == bars[0].attrib["fill"] for bar in bars] == [True, True, False, False]
    (line,) = picture.findall(f"{SVG}line")
    assert float(line.attrib["x1"]) == benchmarks_page.LEFT + benchmarks_page.SCALE


@pytest.mark.parametrize(("value", "least", "promise", "kept"), [(3, False, "2 MB", False), (3, True, "at least 2 MB", True)])
def test_a_value_with_a_bound(value: float, least: bool, promise: str, kept: bool) -> None:
    row = benchmarks_page.row_of({"name": "memory", "value": value, "promise": 2, "unit": "MB", "least": least, "load": None})
    assert (row.ours, row.promise, row.kept, row.load) == ("3 MB", promise, kept, "")


def test_of_a_promise_of_none_one_is_too_many() -> None:
    assert [benchmarks_page.row_of(figure(ratio, 0.0)).kept for ratio in (0.0, 1.0)] == [True, False]


@pytest.mark.parametrize("name", ["another", None])
def test_figures_without_a_place_and_a_place_without_figures_are_errors(root: Path, name: str | None) -> None:
    if name:
        published(root, figure(1.0, 2.0))
        published(root, figure(1.0, 2.0), name=name)
    with pytest.raises(ValueError, match="do not fit: " + (name or "one")):
        benchmarks_page.main([], root)


def test_new_figures_are_taken_over(root: Path, tmp_path: Path) -> None:
    published(root, figure(1.0, 2.0))
    (tmp_path / "bench-one.json").write_text(json.dumps([figure(1.75, 2.0)]))
    assert benchmarks_page.main(["--take", str(tmp_path)], root) == 0
    assert "| 1.75 | 2 |" in (root / "docs/benchmarks.md").read_text()
