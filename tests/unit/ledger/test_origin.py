# SPDX-License-Identifier: GPL-3.0-or-later
"""Who, from which revision, with which collection."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin

ROOT = Path(__file__).resolve().parents[3]


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def test_revision_of_a_work_tree(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert origin.revision_of(tmp_path) == origin.Revision(None, False), "no commit yet"
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "x")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert origin.revision_of(tmp_path) == origin.Revision(head, False)
    (tmp_path / "file").write_text("2")
    assert origin.revision_of(tmp_path) == origin.Revision(head, True)
    git(tmp_path, "checkout", "-q", "file")
    (tmp_path / "untracked").write_text("")
    assert origin.revision_of(tmp_path) == origin.Revision(head, True)
    (tmp_path / ".git" / "info" / "exclude").write_text("untracked\n")
    assert origin.revision_of(tmp_path) == origin.Revision(head, False)


def test_folder_without_git_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert origin.revision_of(tmp_path) == origin.Revision(None, None)


def test_controller_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert origin.revision_of(tmp_path) == origin.Revision(None, None)


def test_requester_is_not_what_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "SUDO_USER"):
        monkeypatch.setenv(name, "somebody-else")
    assert origin.login(tmp_path / "none") == pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.parametrize(
    ("content", "user"),
    [("4294967295", pwd.getpwuid(os.getuid()).pw_name), ("1", pwd.getpwuid(1).pw_name), ("4000000001", "uid 4000000001"), ("", None)],
)
def test_login_session_goes_before_the_process(tmp_path: Path, content: str, user: str | None) -> None:
    (tmp_path / "loginuid").write_text(content)
    assert origin.login(tmp_path / "loginuid") == (user or pwd.getpwuid(os.getuid()).pw_name)


def test_version_of_checkout_and_of_installed_collection(tmp_path: Path) -> None:
    assert origin.collection_version(ROOT) == "0.1.0"
    (tmp_path / "MANIFEST.json").write_text('{"collection_info": {"version": "1.2.3"}}')
    assert origin.collection_version(tmp_path) == "1.2.3"
    assert origin.collection_version(tmp_path / "nothing") == ""
