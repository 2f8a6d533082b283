# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the tables and plots of `docs/benchmarks.md` from the figures in `docs/benchmarks/`: `python scripts/benchmarks_page.py`.

With `--take FOLDER` the figures that `make bench` wrote there (`bench-NAME.json`) become the published ones first.
With `--check` nothing is written; the exit code says whether it would be. What stands between the tables is written by hand and stays.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LICENCE = "<!-- SPDX-License-Identifier: GPL-3.0-or-later -->"
#: what a benchmark's table and plot stand between
_SECTION = re.compile(r"(?s)(<!-- figures: (\w+) -->\n).*?(<!-- end -->)")
_HEAD = "| figure | of | ours | beside it | ratio | promise | load |\n| --- | --- | --- | --- | --- | --- | --- |"
WIDTH, LEFT, ROW, SCALE, MOST = 1000, 470, 30, 240, 2.0


@dataclass(frozen=True, slots=True)
class Row:
    """A figure. *share*: how much of its promise it takes, 1 being all of it; None where nothing is promised."""

    title: str
    size: str
    ours: str
    beside: str
    ratio: str
    promise: str
    share: float | None
    load: str

    @property
    def kept(self) -> bool:
        return self.share is None or self.share <= 1


def row_of(figure: Mapping[str, Any]) -> Row:
    """Return what is told of *figure*, as a benchmark writes it."""
    title, load = str(figure["name"]).replace(" / ", ", against "), _number(figure["load"])
    if "value" in figure:  # one value with a bound, of the outbox
        value, promise, unit = float(figure["value"]), float(figure["promise"]), figure["unit"]
        share = promise / value if figure["least"] else value / promise
        bound = f"{'at least ' if figure['least'] else ''}{_number(promise)} {unit}".strip()
        return Row(title, "", f"{_number(value)} {unit}" if unit else "", "", "" if unit else _number(value), bound, share, load)
    unit, limit, runs = figure["unit"], figure["limit"], figure["runs"]
    ours, beside = (f"{_number(figure[key])} {unit}".strip() for key in ("seconds", "floor"))
    # of a promise of nothing, anything is more than all
    portion = None if limit is None else figure["ratio"] / limit if limit else 2.0 * figure["ratio"]
    size = f"{_count(figure['nodes'], figure['of'])}, {_count(runs, 'runs')}"
    return Row(title, size, ours, beside, _number(figure["ratio"]), _number(limit), portion, load)


def _count(number: int, things: str) -> str:
    return f"{number:,} {things if number != 1 else things.removesuffix('s')}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(rows: Iterable[Row]) -> str:
    """Return *rows* as a table in Markdown."""
    lines = [_HEAD]
    for row in rows:
        promise = row.promise if row.kept else f"{row.promise}, **not kept**"
        lines.append(f"| {row.title} | {row.size} | {row.ours} | {row.beside} | {row.ratio} | {promise} | {row.load} |")
    return "\n".join(lines)


def plot(name: str, rows: Sequence[Row]) -> str:
    """Return an SVG of what *rows* take of their promises; the line is the promise. A bar that is too long ends in an arrow."""
    shown = [(row, row.share) for row in rows if row.share is not None]
    height, promise = ROW * len(shown) + 40, LEFT + SCALE
    bars, texts = [], []
    for number, (row, share) in enumerate(shown):
        top, length = 8 + ROW * number, SCALE * min(share, MOST)
        colour, more = "#2a7f6f" if row.kept else "#b3402e", "→ " if share > MOST else ""
        bars.append(f'<rect x="{LEFT}" y="{top + 3}" width="{max(length, 1):.1f}" height="{ROW - 10}" fill="{colour}"/>')
        texts += [
            f'<text x="{LEFT - 8}" y="{top + 17}" text-anchor="end">{escape(_short(row.title))}</text>',
            # a number near the line stays readable
            f'<text x="{LEFT + length + 6:.1f}" y="{top + 17}" stroke="#ffffff" stroke-width="4" paint-order="stroke">'
            f"{more}{_number(share)}</text>",
        ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" fill="#222222">',
        f"<title>{escape(name)}: what each figure takes of its promise</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *bars,
        f'<line x1="{promise}" y1="4" x2="{promise}" y2="{height - 28}" stroke="#222222" stroke-dasharray="4 3"/>',
        *texts,
        f'<text x="{promise}" y="{height - 10}" text-anchor="middle">promise = 1; shorter is better</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _short(title: str) -> str:
    return title if len(title) <= 66 else title[:65] + "…"


def written(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file that is made from the figures, with its text.

    :raises ValueError: figures that the page shows nowhere, or a place on the page without figures.
    """
    page, folder = root / "docs/benchmarks.md", root / "docs/benchmarks"
    rows = {file.stem: [row_of(figure) for figure in json.loads(file.read_text())] for file in sorted(folder.glob("*.json"))}
    text = page.read_text()
    if odd := sorted({name for _head, name, _end in _SECTION.findall(text)} ^ set(rows)):
        raise ValueError(f"{page.name} and {folder.name}/*.json do not fit: {', '.join(odd)}")

    def section(found: re.Match[str]) -> str:
        name = found[2]
        shown = table(rows[name])
        if any(row.share is not None for row in rows[name]):
            shown += f"\n\n![{name}: what each figure takes of its promise](benchmarks/{name}.svg)"
        return f"{found[1]}{shown}\n{found[3]}"

    yield page, _SECTION.sub(section, text)
    for name, found in rows.items():
        if any(row.share is not None for row in found):
            yield folder / f"{name}.svg", plot(name, found)


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--take", type=Path, metavar="FOLDER", help="publish the figures that benchmarks wrote there")
    parser.add_argument("--check", action="store_true", help="write nothing, and say whether something would be")
    args = parser.parse_args(argv)
    for file in sorted(args.take.glob("bench-*.json")) if args.take else []:
        shutil.copyfile(file, root / "docs/benchmarks" / file.name.removeprefix("bench-"))
    stale = [(path, text) for path, text in written(root) if not path.exists() or path.read_text() != text]
    for path, text in stale:
        print(f"{'is not current' if args.check else 'written'}: {path.relative_to(root)}")
        if not args.check:
            path.write_text(text)
    return int(args.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
