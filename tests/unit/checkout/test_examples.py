# SPDX-License-Identifier: GPL-3.0-or-later
"""Examples of the documentation can be used: YAML can be read, commands parse, and the playbooks that they name exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/runbooks").glob("*.md"))]
BLOCKS = [
    pytest.param(language, block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, (language, block) in enumerate(re.findall(r"^```([a-z]*)\n(.*?)^```$", page.read_text(), re.M | re.S))
]


class Reader(yaml.SafeLoader):
    """Takes Ansible's and Compose's tags as they are."""


Reader.add_multi_constructor("!", lambda loader, suffix, node: f"!{suffix}")


@pytest.mark.parametrize(("language", "block"), BLOCKS)
def test_block_can_be_used(language: str, block: str) -> None:
    if language in ("yaml", "yml"):
        assert list(yaml.load_all(block, Reader)), block
    if language in ("bash", "sh", "shell", "console"):
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_playbooks_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"playbooks/([a-z_/]+\.yml)", text)
    assert [name for name in named if not (ROOT / "playbooks" / name).exists()] == []
    installed = re.findall(r"ansible-playbook pifleet\.ops\.([a-z_]+)", text)
    assert [name for name in installed if not (ROOT / f"playbooks/{name}.yml").exists()] == []
