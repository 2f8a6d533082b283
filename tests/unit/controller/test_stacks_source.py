# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller has for its nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import desired_tree
from ansible_collections.pifleet.ops.plugins.plugin_utils._stacks_source import Artifacts, Checkout, artifacts

from tests.support.repository import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.make(tmp_path / "fleet")


def test_only_what_is_committed(repository: Repository, tmp_path: Path) -> None:
    commit = repository.commit({"stacks/web/compose.yaml": "1\n", "README": "x\n"}, "Message\n\nwith a body")
    repository.write({"stacks/web/compose.yaml": "edited\n", "stacks/new/compose.yaml": "new\n", "README": "edited\n"})
    checkout = Checkout(repository.path, "stacks")
    target = checkout.target()
    assert target and (target.revision, target.commit_message) == (commit, "Message\n\nwith a body")
    assert sorted(checkout.uncommitted()) == ["stacks/new/compose.yaml", "stacks/web/compose.yaml"]
    assert checkout.texts(commit, lambda name: name.endswith(".yaml")) == {"stacks/web/compose.yaml": "1\n"}
    checkout.archive(commit, tmp_path / "a.tar")
    assert list(desired_tree.read_manifest(tmp_path / "a.tar")) == ["stacks/web/compose.yaml"]


def test_a_linked_work_tree_is_one_too(repository: Repository, tmp_path: Path) -> None:
    commit = repository.commit({"stacks/web/compose.yaml": "1\n"})
    repository.git("worktree", "add", "--quiet", str(tmp_path / "linked"), commit)
    checkout = Checkout(tmp_path / "linked", "stacks")
    assert checkout.target()
    checkout.archive(commit, tmp_path / "a.tar")
    assert len(desired_tree.read_manifest(tmp_path / "a.tar")) == 1


def test_stacks_in_no_commit_are_refused_and_nothing_at_all_is_nothing(tmp_path: Path) -> None:
    assert Checkout(tmp_path, "stacks").target() is None
    (tmp_path / "stacks").mkdir()
    with pytest.raises(PifleetError, match=r"not committed to git.*`git init`"):
        Checkout(tmp_path, "stacks").target()
    Repository(tmp_path).git("init", "--quiet")
    with pytest.raises(PifleetError, match="not committed to git"):
        Checkout(tmp_path, "stacks").target()


def test_packages_and_images(tmp_path: Path) -> None:
    for name in ("docker-ce_1_arm64.deb", "apps.tar", "more.tar.gz", "other.tar.zst", "notes.txt"):
        (tmp_path / name).write_text(name)
    found = artifacts(tmp_path)
    assert found.debs == ("docker-ce_1_arm64.deb",)
    assert list(found.images) == ["apps.tar", "more.tar.gz", "other.tar.zst"]
    before = dict(found.images)
    (tmp_path / "apps.tar").write_text("another one")
    assert artifacts(tmp_path).images["apps.tar"] != before["apps.tar"]
    assert artifacts(None) == Artifacts()
    with pytest.raises(PifleetError, match="no folder of the controller"):
        artifacts(tmp_path / "nothing")
