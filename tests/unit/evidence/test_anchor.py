# SPDX-License-Identifier: GPL-3.0-or-later
"""Heads in git: under a ref of their own, past the work tree, of several chains, by several at once, and where git says no."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.anchor import PLACE, REF, AnchorError, Git
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.verify import Anchor

AT = "2025-01-02T03:04:05.000000Z"


def head(seq: int, chain: str = "a" * 16) -> Anchor:
    return Anchor(PLACE, chain, seq, f"{seq:064x}")


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "site.yml").write_text("x")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "x")
    return tmp_path


def test_heads_are_read_as_they_were_written_and_nothing_else_moves(repository: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    for seq in (3, 7):
        assert Git(repository).write(head(seq), {"payload": str(seq)}, "op <x>\n", AT)
    assert Git(repository).write(head(2, "b" * 16), {"payload": "b"}, "", AT)
    assert Git(repository).read() == [head(3), head(7), head(2, "b" * 16)]
    assert git(repository, "rev-parse", "HEAD") == before
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "ls-tree", "--name-only", REF).split() == [f"{'a' * 16}.json", f"{'b' * 16}.json"], "a statement of each chain"
    assert '"payload": "7"' in git(repository, "show", f"{REF}:{'a' * 16}.json")
    assert git(repository, "log", "-1", "--format=%cn %ct", REF).strip() == "pifleet 1735787045"
    git(repository, "fsck", "--strict")


def test_folder_without_git_has_none(tmp_path: Path) -> None:
    assert Git(tmp_path).write(head(1), {}, "x", AT) is None
    assert Git(tmp_path).read() == []


def test_repository_without_the_ref_has_none(repository: Path) -> None:
    assert Git(repository).read() == []


def test_commit_that_is_no_head_is_passed_over(repository: Path) -> None:
    Git(repository).write(head(1), {}, "x", AT)
    tree = git(repository, "rev-parse", f"{REF}^{{tree}}").strip()
    other = git(repository, "commit-tree", tree, "-p", REF, "-m", "chain: x\nseq: many\nsha256: y").strip()
    git(repository, "update-ref", REF, other)
    assert Git(repository).read() == [head(1)]


def test_two_runs_that_end_at_once_lose_no_head(repository: Path) -> None:
    failures = list[BaseException]()

    def write(seq: int) -> None:
        try:
            Git(repository).write(head(seq), {}, "x", AT)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(seq,)) for seq in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(a.seq for a in Git(repository).read()) == [1, 2]


def failing(word: str) -> argv.Runner:
    def run(command: Any, **options: Any) -> argv.Completed:
        if word in command:
            return argv.Completed(tuple(command), 128, "", "fatal: no space left\n on device")
        return argv.run(command, **options)

    return run


def test_git_that_fails_is_told(repository: Path) -> None:
    with pytest.raises(AnchorError, match=r"could not be written to refs/pifleet/evidence: fatal: no space left on device"):
        Git(repository, failing("fast-import")).write(head(1), {}, "x", AT)
    Git(repository).write(head(1), {}, "x", AT)
    with pytest.raises(AnchorError, match="refs/pifleet/evidence cannot be read: fatal: no space"):
        Git(repository, failing("log")).read()
