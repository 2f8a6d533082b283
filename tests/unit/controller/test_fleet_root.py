# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a fleet's state lives."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "playbooks" / "parts").mkdir(parents=True)
    (root / ".git").mkdir()
    return root


@pytest.mark.parametrize("folder", [".", "playbooks", "playbooks/parts"])
def test_playbook_in_a_checkout(checkout: Path, folder: str) -> None:
    assert _fleet_root.resolve(None, str(checkout / folder), "/") == checkout


def test_checkout_without_git(checkout: Path) -> None:
    (checkout / ".git").rmdir()
    (checkout / "galaxy.yml").touch()
    assert _fleet_root.resolve(None, str(checkout / "playbooks"), "/") == checkout


def test_checkout_through_its_link_as_a_collection(checkout: Path) -> None:
    link = checkout / ".collections" / "ansible_collections" / "pifleet" / "ops"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../..")
    assert _fleet_root.resolve(None, str(link / "playbooks"), "/") == checkout


def test_installed_collection_is_never_written_to(checkout: Path, tmp_path: Path) -> None:
    installed = checkout / "collections" / "ops"
    (installed / "playbooks").mkdir(parents=True)
    (installed / "MANIFEST.json").touch()
    (installed / "galaxy.yml").touch()
    assert _fleet_root.resolve(None, str(installed / "playbooks"), str(tmp_path)) == tmp_path


def test_repository_far_above_is_not_meant(checkout: Path, tmp_path: Path) -> None:
    deep = checkout / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    assert _fleet_root.resolve(None, str(deep), str(tmp_path)) == tmp_path


def test_variable_wins(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fleet").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (str(tmp_path / "fleet"), "fleet", "~/fleet", "./checkout/../fleet"):
        assert _fleet_root.resolve(given, str(checkout), str(tmp_path)) == tmp_path / "fleet"


def test_variable_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PifleetError, match="fleet_root is nowhere"):
        _fleet_root.resolve("nowhere", None, str(tmp_path))
