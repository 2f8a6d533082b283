# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference fleet's own profiles fit its stacks and its inventory."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import policy, profile
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.policy import Tree

ROOT = Path(__file__).resolve().parents[3]
PROFILES = sorted((ROOT / profile.FOLDER).glob("*.yml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_it_fits_its_stack(path: Path) -> None:
    assert profile.place(path.stem) == f"{profile.FOLDER}/{path.name}"
    found = profile.parse(path.read_text(), path.name)
    folder = ROOT / "stacks" / found.stack
    texts = {file.name: file.read_text() for file in folder.iterdir()}
    assert found.service in yaml.safe_load(texts["compose.yaml"])["services"]
    assert found.node in (ROOT / "inventory/pi-cluster/hosts.yml").read_text()
    tree = Tree(f"stacks/{found.stack}", dict.fromkeys(texts, "100644"), texts)
    assert policy.allowed(tree, found) == sorted(found.files)


def test_the_example_of_the_docs_is_one() -> None:
    example = (ROOT / "docs/fix-runs.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert profile.parse(example, "docs/fix-runs.md").stack == "shop"
