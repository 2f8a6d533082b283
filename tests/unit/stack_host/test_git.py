# SPDX-License-Identifier: GPL-3.0-or-later
"""The node's own fetch, with real git from a repository on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import desired_tree
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.git import Access, RemoteRepository

from .conftest import Repository


def remote(repository: Repository, tmp_path: Path, revision: str = "", run: argv.Runner = argv.run) -> RemoteRepository:
    return RemoteRepository(run, Access(f"file://{repository.path}"), revision, "stacks", tmp_path / "clone.git")


def fetched(source: RemoteRepository, tmp_path: Path) -> tuple[str, str, list[str]]:
    """(revision, message, paths) of what a source gives."""
    target = source.archive(source.target(), tmp_path / "a.tar")
    return target.revision, target.commit_message, sorted(desired_tree.read_manifest(tmp_path / "a.tar"))


def test_default_branch_branch_tags_and_commit(repository: Repository, tmp_path: Path) -> None:
    one = repository.commit({"stacks/web/compose.yaml": "1\n", "other": "x\n"}, "One\n\nbody")
    repository.git("tag", "v1")
    repository.git("tag", "--annotate", "v1-annotated", "-m", "a tag")
    two = repository.commit({"stacks/dns/compose.yaml": "1\n"}, "Two")
    repository.git("branch", "live", one)
    for wanted, commit in {"": two, "main": two, "live": one, "v1": one, "v1-annotated": one, one: one, two: two}.items():
        found = fetched(remote(repository, tmp_path, wanted), tmp_path)
        assert found[0] == commit, wanted
    assert fetched(remote(repository, tmp_path, one), tmp_path) == (one, "One\n\nbody", ["stacks/web/compose.yaml"])


def test_history_that_was_rewritten_is_followed(repository: Repository, tmp_path: Path) -> None:
    repository.commit({"stacks/web/compose.yaml": "1\n"})
    fetched(remote(repository, tmp_path), tmp_path)
    repository.git("checkout", "--quiet", "--orphan", "anew")
    other = repository.commit({"stacks/web/compose.yaml": "2\n"}, "Anew")
    repository.git("branch", "--force", "main", other)
    repository.git("checkout", "--quiet", "main")
    assert fetched(remote(repository, tmp_path, "main"), tmp_path)[:2] == (other, "Anew")


@pytest.mark.parametrize("damage", ["objects", "HEAD", "all", "lock"])
def test_a_broken_clone_is_made_anew(repository: Repository, tmp_path: Path, damage: str) -> None:
    repository.commit({"stacks/web/compose.yaml": "1\n"})
    fetched(remote(repository, tmp_path), tmp_path)
    two = repository.commit({"stacks/web/compose.yaml": "2\n"})
    clone = tmp_path / "clone.git"
    if damage == "objects":
        shutil.rmtree(clone / "objects")
    elif damage == "HEAD":
        (clone / "HEAD").write_text("\x00garbage")
    elif damage == "all":
        shutil.rmtree(clone)
        clone.mkdir()
    else:
        (clone / "shallow.lock").write_text("")
    assert fetched(remote(repository, tmp_path), tmp_path)[0] == two


def test_objects_that_rotted_are_noticed(repository: Repository, tmp_path: Path) -> None:
    repository.commit({"stacks/web/compose.yaml": "1\n"})
    source = remote(repository, tmp_path)
    fetched(source, tmp_path)
    for pack in (tmp_path / "clone.git/objects").rglob("*"):
        if pack.is_file():
            pack.chmod(0o644)
            pack.write_bytes(pack.read_bytes()[:20])
    assert fetched(source, tmp_path)[2] == ["stacks/web/compose.yaml"]


def test_a_server_that_gives_no_single_commit_is_fetched_whole(repository: Repository, tmp_path: Path) -> None:
    one = repository.commit({"stacks/web/compose.yaml": "1\n"})
    repository.commit({"stacks/web/compose.yaml": "2\n"})

    def run(words: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None) -> Completed:
        if "--depth=1" in words:
            return Completed(tuple(words), 128, "", "fatal: Server does not allow request for unadvertised object")
        return argv.run(words, stdin=stdin, timeout=timeout, env=env)

    assert fetched(remote(repository, tmp_path, one, run), tmp_path)[0] == one


@pytest.mark.parametrize(
    ("revision", "says"),
    [("nothing-like-it", "has no branch or tag"), ("f" * 40, "has no commit|cannot be fetched"), ("--upload-pack=x", "stacks_revision is")],
)
def test_what_the_repository_does_not_have(repository: Repository, tmp_path: Path, revision: str, says: str) -> None:
    repository.commit({"stacks/web/compose.yaml": "1\n"})
    with pytest.raises(PifleetError, match=says):
        fetched(remote(repository, tmp_path, revision), tmp_path)


def test_nobody_there(tmp_path: Path) -> None:
    source = RemoteRepository(argv.run, Access("http://127.0.0.1:9/x.git"), "", "stacks", tmp_path / "clone.git")
    with pytest.raises(PifleetError, match=r"127\.0\.0\.1:9/x\.git does not answer.*Check the network"):
        source.target()


@pytest.mark.parametrize(
    ("url", "folder", "says"),
    [
        ("https://me:secret@host/x.git", "stacks", "holds a password"),
        ("--upload-pack=touch /tmp/x", "stacks", "no URL"),
        ("https://host/x.git", "../out", "stacks_folder"),
        ("https://host/x.git", "/etc", "stacks_folder"),
        ("https://host/x.git", "", "stacks_folder"),
        ("https://host/x.git", "a/.git", "stacks_folder"),
    ],
)
def test_settings_that_git_would_misunderstand(tmp_path: Path, url: str, folder: str, says: str) -> None:
    with pytest.raises(PifleetError, match=says) as refused:
        RemoteRepository(argv.run, Access(url), "", folder, tmp_path)
    assert "me:secret" not in str(refused.value)


def test_credentials_are_in_no_argument_and_in_no_message(tmp_path: Path) -> None:
    seen: list[tuple[Sequence[str], Mapping[str, str]]] = []

    def run(words: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None) -> Completed:
        seen.append((words, env or {}))
        return Completed(tuple(words), 128, "", "fatal: Authentication failed for x with s3cr3t-t0ken")

    source = RemoteRepository(run, Access("https://host/x.git", token="s3cr3t-t0ken"), "", "stacks", tmp_path / "c")
    with pytest.raises(PifleetError, match="stacks_repository_token") as failed:
        source.target()
    assert "s3cr3t" not in str(failed.value)
    assert all("s3cr3t" not in word for words, _ in seen for word in words)
    assert any(key.startswith("GIT_CONFIG_VALUE_") and "Basic" in value for _, env in seen for key, value in env.items())
    assert all(env["GIT_TERMINAL_PROMPT"] == "0" for _, env in seen)


def test_ssh_asks_nothing_and_trusts_only_what_it_was_given(tmp_path: Path) -> None:
    seen: list[Mapping[str, str]] = []

    def run(words: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None) -> Completed:
        seen.append(env or {})
        return Completed(tuple(words), 128, "", "Host key verification failed.")

    access = Access("git@host:x.git", ssh_key="/etc/pifleet/repository_key", known_hosts="/etc/pifleet/known_hosts")
    with pytest.raises(PifleetError, match="stacks_repository_known_hosts"):
        RemoteRepository(run, access, "", "stacks", tmp_path / "c").target()
    for option in ("StrictHostKeyChecking=yes", "BatchMode=yes", "-i /etc/pifleet/repository_key", "UserKnownHostsFile=/etc/pifleet/known"):
        assert option in seen[0]["GIT_SSH_COMMAND"]


def test_without_git_it_says_so(tmp_path: Path) -> None:
    source = RemoteRepository(lambda words, **_: Completed(tuple(words), 127, "", "git: no such program"), Access("x"), "", "s", tmp_path)
    with pytest.raises(PifleetError, match="Install git"):
        source.target()


@pytest.mark.parametrize("url", ["http://host/x.git", "HTTP://host/x.git"])
def test_a_token_is_not_sent_for_all_to_read(tmp_path: Path, url: str) -> None:
    with pytest.raises(PifleetError, match="no https URL") as failed:
        RemoteRepository(argv.run, Access(url, token="s3cr3t-t0ken"), "", "stacks", tmp_path / "c")
    assert "s3cr3t" not in str(failed.value)
    RemoteRepository(argv.run, Access("HTTPS://host/x.git", token="s3cr3t-t0ken"), "", "stacks", tmp_path / "c")
