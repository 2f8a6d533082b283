# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository with stacks, made by git itself, and a clock that does not wait."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.git import Git
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.refresh import Target

from tests.support.repository import Repository


@dataclass
class Local:
    """Source: an archive of a repository on this machine. *broken*: what it fails with."""

    repository: Repository
    revision: str
    folder: str = "stacks"
    broken: str = ""
    archives: int = 0

    @property
    def wants(self) -> str:
        return self.revision

    def target(self, *, again: bool = False) -> Target:
        del again
        if self.broken:
            raise PifleetError(self.broken)
        return Target(self.revision, "")

    def archive(self, target: Target, into: Path) -> Target:
        self.archives += 1
        git = Git(argv.run)
        git.archive(self.repository.path / ".git", target.revision, self.folder, into)
        return Target(target.revision, git.message(self.repository.path / ".git", target.revision))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether data reached the disk is no question here: waiting for it is left out."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.make(tmp_path / "repository")


@pytest.fixture
def places(tmp_path: Path) -> RefreshPlaces:
    return RefreshPlaces.below(str(tmp_path / "node"))
