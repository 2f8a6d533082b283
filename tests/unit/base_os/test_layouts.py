# SPDX-License-Identifier: GPL-3.0-or-later
"""Each operating system's layout, as recorded trees of files: the role carried out on a copy changes the right files, once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.facts import collect

from .layouts import LAYOUTS, WORDS, EmulatedNode, converge


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_has_its_own_cmdline_file(name: str, tmp_path: Path) -> None:
    root = shutil.copytree(LAYOUTS[name].tree, tmp_path / "root")
    before = {p.relative_to(root): p.read_text() for p in root.rglob("cmdline*")}
    outcome = converge(root)
    after = {p.relative_to(root): p.read_text() for p in root.rglob("cmdline*")}
    changed = {f"/{path}" for path in after if before[path] != after[path]}
    path = LAYOUTS[name].cmdline
    assert changed == ({path} if path else set())
    assert outcome.reboot_reasons == (("memory_cgroup",) if path else ())
    if path:
        old, new = before[Path(path[1:])], after[Path(path[1:])]
        assert new == old.rstrip("\n") + WORDS + "\n"
    again = converge(root)
    assert again.changes == 0
    assert again.reboot_reasons == outcome.reboot_reasons, "until the node was restarted"


@pytest.mark.parametrize("name", LAYOUTS)
def test_after_the_restart_nothing_is_left(name: str, tmp_path: Path) -> None:
    root = shutil.copytree(LAYOUTS[name].tree, tmp_path / "root")
    converge(root)
    node = EmulatedNode(root)
    node.restart()
    assert converge(root).reboot_reasons == ()
    assert converge(root).changes == 0
    facts = collect(node, "3")
    assert facts.cgroup.memory
    assert facts.cgroup.cmdline_path == LAYOUTS[name].cmdline
    assert facts.os.raspberry_pi_os is name.startswith(("raspberry", "raspbian"))
