# SPDX-License-Identifier: GPL-3.0-or-later
"""The README tells the truth: playbooks, make targets and links that it names exist, and none is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
REPORTS = ROOT / "docs/governance/reviews"  # written by runs, those of tests that run beside this one too
PAGES = sorted(page for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if REPORTS not in page.parents)


def test_the_table_of_playbooks_is_complete() -> None:
    section = (ROOT / "README.md").read_text().split("## Playbooks")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", section, re.M)) == {p.stem for p in (ROOT / "playbooks").glob("*.yml")}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_make_targets_exist(page: Path) -> None:
    text = page.read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link and not link.startswith("#")]
    assert [link for link in links if not (page.parent / link).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.M)) <= targets


def test_quick_start_is_two_commands() -> None:
    section = (ROOT / "README.md").read_text().split("## Quick start")[1]
    assert section.split("```")[1].split("\n")[1:-1] == ["make site", "make test"]
