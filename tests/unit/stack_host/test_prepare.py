# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of stack_host from plan to outcome: what it asks the controller for, what it predicts, and that both are the same."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import refresh, turn, units
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.git import Access, Git
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.host_plan import Pool, Wanted
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.node import Node
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.prepare import Outcome, Preparation, Request
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.refresh import Target

from .conftest import Repository
from .fake_node import FakeNode, fresh

FILES = {"stacks/web/compose.yaml": "web\n", "stacks/other/compose.yaml": "other\n"}


class Setting:
    """A fresh node, a controller with a commit, and what it would send."""

    def __init__(self, root: Path, repository: Repository) -> None:
        self.node = fresh(root / "node")
        self.root, self.repository = root, repository
        self.places = RefreshPlaces.below(str(self.node.root))
        program = root / "program"
        program.write_text("program")
        digest = Node("/").sha256(str(program)) or ""
        self.host = Wanted(pools=(Pool("10.213.0.0/16", 24),), unattended=units.files(digest, "{}\n", 60), timer=True)
        self.sent = {"program": str(program)}
        self.commit(FILES)

    def commit(self, files: dict[str, str | None], message: str = "First") -> None:
        revision = self.repository.commit(files, message)
        self.target = Target(revision, message)
        archive = self.root / f"{revision}.tar"
        Git(argv.run).archive(self.repository.path / ".git", revision, "stacks", archive)
        self.sent["archive"] = str(archive)

    def run(self, *, check: bool = False, send: Sequence[str] = ("program", "archive"), **more: Any) -> Outcome:
        request = Request(self.host, "stacks", checked_out=self.target, sent={name: self.sent[name] for name in send}, **more)
        return self.prepare(request, check=check)

    def prepare(self, request: Request, *, check: bool) -> Outcome:
        return Preparation(request, self.node, time, str(self.node.root), lambda _: "").prepare(check=check)

    def files(self) -> dict[str, bytes]:
        """All that is on the node, but what is there in memory."""
        found = sorted(path for path in self.node.root.rglob("*") if path.is_file() and "run" not in path.relative_to(self.node.root).parts)
        return {str(path.relative_to(self.node.root)): path.read_bytes() for path in found}


@pytest.fixture
def setting(tmp_path: Path, repository: Repository) -> Setting:
    return Setting(tmp_path, repository)


def test_it_asks_for_what_it_needs_and_does_nothing_before(setting: Setting) -> None:
    before = setting.files()
    assert setting.run(send=()).missing == ("program", "archive")
    assert setting.run(send=("program",)).missing == ("archive",)
    assert setting.run(send=(), check=True).missing == ("archive",), "a check writes no program"
    assert setting.files() == before and setting.node.commands == []


def test_a_check_predicts_and_the_run_does_the_same(setting: Setting) -> None:
    before = setting.files()
    predicted = setting.run(check=True)
    assert setting.files() == before and setting.node.commands == []
    assert predicted.status.revision == setting.target.revision and predicted.status.commit_message == "First"
    assert (
        predicted.temporary
        and predicted.path == f"{predicted.temporary}/tree/stacks"
        and predicted.home == str(setting.places.tree / "stacks")
    )
    assert Path(predicted.path, "web/compose.yaml").read_text() == "web\n"

    done = setting.run()
    assert done.changes == predicted.changes
    assert (done.path, done.temporary, done.status.state) == (done.home, "", "completed")
    assert Path(done.path, "web/compose.yaml").read_text() == "web\n"
    for check in (True, False):
        again = setting.run(check=check, send=())
        assert (again.changes, again.path, again.missing) == ((), done.home, ())


def test_a_copy_for_a_check_has_only_the_stacks_of_the_node(setting: Setting) -> None:
    predicted = setting.run(check=True, stacks=("web",))
    assert os.listdir(predicted.path) == ["web"]
    setting.run(stacks=("web",))
    assert sorted(os.listdir(setting.places.tree / "stacks")) == ["other", "web"]


def test_a_check_of_damage_takes_what_the_node_has(setting: Setting) -> None:
    setting.run()
    compose = setting.places.tree / "stacks/web/compose.yaml"
    compose.write_text("edited\n")
    predicted = setting.run(check=True, send=())
    assert [c.reason for c in predicted.changes] == ["diverged"] and not predicted.missing
    assert Path(predicted.path, "web/compose.yaml").read_text() == "web\n"
    assert compose.read_text() == "edited\n"
    assert setting.run(send=()).changes == predicted.changes
    assert compose.read_text() == "web\n"


def test_what_killed_checks_left_in_memory_goes(setting: Setting) -> None:
    old = setting.node.root / "run/pifleet/check-old"
    young = setting.node.root / "run/pifleet/check-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    setting.run(check=True)
    assert not old.exists() and young.exists()


def test_a_check_that_fails_leaves_no_copy(setting: Setting) -> None:
    Path(setting.sent["archive"]).write_bytes(b"damaged")
    with pytest.raises(PifleetError, match="damaged"):
        setting.run(check=True)
    assert os.listdir(setting.node.root / "run/pifleet") == []


def test_without_a_commit_what_is_there_is_kept(setting: Setting) -> None:
    bare = Request(setting.host, "stacks", sent=setting.sent)
    assert setting.prepare(bare, check=True).status.state == "never"
    setting.run()
    compose = setting.places.tree / "stacks/web/compose.yaml"
    compose.unlink()
    assert [c.reason for c in setting.prepare(bare, check=False).changes] == ["diverged"]
    assert compose.exists()


def test_one_that_the_timer_has_begun_meanwhile_is_not_taken_for_this_one(setting: Setting) -> None:
    """The role reconciles what a refresh has completed: it must not leave that out because another one is under way."""
    setting.run()
    with turn.take(setting.places.state, "the timer's", time, 1.0):
        assert refresh.status(setting.places).state == "refreshing"
        done = setting.run(send=())
    assert (done.status.state, done.status.error, done.changes) == ("completed", "", ())
    assert done.status.revision == setting.target.revision


def test_a_newer_refresh_that_takes_over_is_told(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: Any, **__: Any) -> None:
        raise turn.SupersededError("A newer refresh took the place of this one.")

    monkeypatch.setattr(refresh, "refresh", taken)
    done = setting.run()
    assert done.status.state == "superseded" and "newer" in done.status.error


def test_what_does_not_take_effect_is_no_success(setting: Setting) -> None:
    def nothing(
        words: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> Completed:
        del stdin, timeout, env
        return Completed(tuple(words), 0, "", "")

    request = Request(setting.host, "stacks", checked_out=setting.target, sent=setting.sent)
    with pytest.raises(PifleetError, match=r"Done, and yet not in effect: package docker\.io \(missing\)"):
        Preparation(request, nothing, time, str(setting.node.root), lambda _: "").prepare(check=False)


# ---------------------------------------------------------------------------------------------------------------- remote
class WithGit(FakeNode):
    """A node whose git is this machine's."""

    def __call__(
        self, argv_: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> Completed:
        if argv_[0] == "git":
            return argv.run(argv_, stdin=stdin, timeout=timeout, env=env)
        return super().__call__(argv_, stdin=stdin, timeout=timeout, env=env)


@pytest.fixture
def remote(setting: Setting) -> Request:
    node = WithGit(setting.node.root)
    node.packages = setting.node.packages
    setting.node = node
    host = replace(setting.host, packages=("git",))
    return Request(host, "stacks", access=Access(f"file://{setting.repository.path}"), sent={"program": setting.sent["program"]})


def test_a_node_without_git_lets_the_controller_look_in_a_check(setting: Setting, remote: Request) -> None:
    assert setting.prepare(remote, check=True).missing == ("archive",)
    sent = replace(remote, checked_out=setting.target, sent=setting.sent)
    predicted = setting.prepare(sent, check=True)
    assert predicted.status.revision == setting.target.revision
    done = setting.prepare(remote, check=False)
    assert [(c.kind, c.target, c.reason) for c in done.changes] == [(c.kind, c.target, c.reason) for c in predicted.changes]
    assert ("package", "git") in [(c.kind, c.target) for c in done.changes]
    assert done.status.revision == setting.target.revision


def test_a_node_with_git_looks_itself_and_touches_nothing(setting: Setting, remote: Request) -> None:
    setting.prepare(remote, check=False)
    setting.node.write("/usr/bin/git")
    setting.commit({"stacks/web/compose.yaml": "newer\n"}, "Newer")
    before = setting.files()
    predicted = setting.prepare(remote, check=True)
    assert setting.files() == before
    assert (predicted.status.commit_message, [c.reason for c in predicted.changes]) == ("Newer", ["new_revision"])
    assert Path(predicted.path, "web/compose.yaml").read_text() == "newer\n"
    done = setting.prepare(remote, check=False)
    assert done.changes[0].reason == "new_revision" and done.status.commit_message == "Newer"
