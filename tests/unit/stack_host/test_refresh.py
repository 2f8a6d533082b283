# SPDX-License-Identifier: GPL-3.0-or-later
"""What a refresh leaves in the folder, whatever was there, and whatever it is cut off by."""

from __future__ import annotations

import errno
import json
import os
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import checkout, desired_tree, refresh
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import state

from .conftest import Local, Repository

ONE = {"stacks/web/compose.yaml": "services: {web: {image: web:1}}\n", "stacks/web/conf/site.conf": "a\n", "README.md": "no stack\n"}
TWO = {"stacks/web/compose.yaml": "services: {web: {image: web:2}}\n", "stacks/web/conf/site.conf": None, "stacks/dns/compose.yaml": "d\n"}


class Killed(BaseException):
    """The process ends here, as with SIGKILL: nothing may catch it."""


def run(places: RefreshPlaces, source: Local) -> refresh.RefreshPlan:
    return refresh.refresh(places, source, time, 5.0)


def files(places: RefreshPlaces) -> dict[str, str]:
    """What is in the folder: {path: content}."""
    return {str(p.relative_to(places.tree)): p.read_text() for p in sorted(places.tree.rglob("*")) if p.is_file()}


def of(commit: dict[str, str | None]) -> dict[str, str]:
    return {path: text for path, text in commit.items() if path.startswith("stacks/") and text is not None}


def test_first_refresh_then_nothing_to_do_then_another_revision(repository: Repository, places: RefreshPlaces) -> None:
    one = repository.commit(ONE, "First")
    assert refresh.status(places).state == "never"
    assert run(places, Local(repository, one)).reason == "first"
    assert files(places) == of(ONE)
    shown = refresh.status(places)
    assert (shown.state, shown.revision, shown.commit_message, shown.error) == ("completed", one, "First", "")

    again = Local(repository, one)
    assert run(places, again).reason == ""
    assert again.archives == 0

    two = repository.commit(TWO, 'Second, "quoted" $HOME ${X} \\ 🥧\n\nwith a body')
    assert run(places, Local(repository, two)).reason == "new_revision"
    assert files(places) == of(TWO)
    assert refresh.status(places).commit_message == 'Second, "quoted" $HOME ${X} \\ 🥧\n\nwith a body'
    assert not places.staging.exists() and not places.incoming.exists() and not places.pending.exists()


def test_a_file_that_did_not_change_is_not_touched(repository: Repository, places: RefreshPlaces) -> None:
    run(places, Local(repository, repository.commit(ONE)))
    before = (places.tree / "stacks/web/conf/site.conf").stat()
    run(places, Local(repository, repository.commit({"stacks/web/compose.yaml": "other\n"})))
    assert (places.tree / "stacks/web/conf/site.conf").stat() == before


@pytest.mark.parametrize("folder", ["stacks", "fleet/stacks"])
def test_what_containers_and_secrets_left_there_stays(repository: Repository, places: RefreshPlaces, folder: str) -> None:
    one = repository.commit({f"{folder}/web/compose.yaml": "1\n", f"{folder}/web/app.sops.env": "encrypted\n"})
    run(places, Local(repository, one, folder))
    web = places.tree / folder / "web"
    (web / "app.env").write_text("secret")
    (web / "data").mkdir()
    (web / "data/database").write_text("precious")
    two = repository.commit({f"{folder}/web/compose.yaml": "2\n"})
    run(places, Local(repository, two, folder))
    assert (web / "data/database").read_text() == "precious"
    assert (web / "app.env").read_text() == "secret"

    three = repository.commit({f"{folder}/web/compose.yaml": None, f"{folder}/web/app.sops.env": None})
    run(places, Local(repository, three, folder))
    assert not (web / "app.env").exists(), "the plain form of a secret goes with it"
    assert (web / "data/database").read_text() == "precious"
    assert not (web / "compose.yaml").exists()


@pytest.mark.parametrize(
    "edit",
    [
        lambda tree: (tree / "stacks/web/compose.yaml").write_text("edited"),
        lambda tree: (tree / "stacks/web/compose.yaml").unlink(),
        lambda tree: (tree / "stacks/web/conf/site.conf").chmod(0o600),
        lambda tree: (tree / "stacks/web/compose.override.yaml").write_text("sneaked in"),
        lambda tree: (tree / "stacks/web/.env").write_text("A=1"),
        lambda tree: [(tree / "stacks/new").mkdir(), (tree / "stacks/new/compose.yaml").write_text("not committed")],
        lambda tree: [(tree / "stacks/web/conf/site.conf").unlink(), (tree / "stacks/web/conf/site.conf").mkdir()],
        lambda tree: [(tree / "stacks/web/compose.yaml").unlink(), (tree / "stacks/web/compose.yaml").symlink_to("/etc/passwd")],
        lambda tree: [(tree / "stacks").rename(tree.parent / "moved"), (tree / "stacks").symlink_to(tree.parent / "moved")],
        lambda tree: (tree / "stacks").rename(tree.parent / "gone"),
    ],
    ids=["edited", "removed", "mode", "override", "env", "strange stack", "Docker's folder", "link", "folder is a link", "all gone"],
)
def test_a_diverged_checkout_is_reset_without_the_source(
    repository: Repository, places: RefreshPlaces, edit: Callable[[Path], object]
) -> None:
    one = Local(repository, repository.commit(ONE))
    run(places, one)
    edit(places.tree)
    assert refresh.damage(places) == "diverged"
    assert run(places, one).reason == "diverged"
    assert one.archives == 1, "the archive on the node was enough"
    assert files(places) == of(ONE)
    assert not (places.tree / "stacks").is_symlink()
    assert (places.tree / "stacks/web/conf/site.conf").stat().st_mode & 0o777 == 0o644
    assert run(places, one).reason == ""


def test_a_link_out_of_the_folder_is_never_written_through(repository: Repository, places: RefreshPlaces, tmp_path: Path) -> None:
    one = Local(repository, repository.commit(ONE))
    run(places, one)
    outside = tmp_path / "outside"
    (places.tree / "stacks/web/conf").rename(outside)
    (places.tree / "stacks/web/conf").symlink_to(outside)
    (outside / "site.conf").write_text("of somebody else")
    run(places, one)
    assert (outside / "site.conf").read_text() == "of somebody else"
    assert files(places) == of(ONE)


def test_a_folder_with_something_in_it_in_the_place_of_a_file_is_a_persons_decision(repository: Repository, places: RefreshPlaces) -> None:
    run(places, Local(repository, repository.commit(ONE)))
    site = places.tree / "stacks/web/conf/site.conf"
    site.unlink()
    site.mkdir()
    (site / "data").write_text("precious")
    with pytest.raises(PifleetError, match="is a folder with something in it"):
        run(places, Local(repository, repository.commit({"stacks/web/compose.yaml": "2\n"})))
    assert (site / "data").read_text() == "precious"
    assert (places.tree / "stacks/web/compose.yaml").read_text() == ONE["stacks/web/compose.yaml"], "nothing was changed"


def test_damaged_and_no_archive_any_more_is_fetched_again(repository: Repository, places: RefreshPlaces) -> None:
    one = Local(repository, repository.commit(ONE))
    run(places, one)
    (places.tree / "stacks/web/compose.yaml").unlink()
    places.archive.write_bytes(places.archive.read_bytes()[:700])
    assert refresh.make_plan(places, one.target(), "stacks").needs_archive
    run(places, one)
    assert one.archives == 2
    assert files(places) == of(ONE)


@pytest.mark.parametrize("garbage", ["", "{", "[]", '{"revision": 1}', '{"files": {"a": "b"}}', "\x00" * 50])
def test_damaged_notes_are_made_anew(repository: Repository, places: RefreshPlaces, garbage: str) -> None:
    one = Local(repository, repository.commit(ONE))
    run(places, one)
    for note in (places.active, places.pending, places.outcome, places.state / "queue", places.state / "lock"):
        note.write_text(garbage)
    run(places, one)
    assert files(places) == of(ONE)
    assert refresh.status(places).state == "completed"


def test_a_failed_refresh_leaves_the_last_good_one_in_force_and_says_so(repository: Repository, places: RefreshPlaces) -> None:
    one = repository.commit(ONE, "Good")
    run(places, Local(repository, one))
    (places.tree / "stacks/web/compose.yaml").write_text("edited")
    with pytest.raises(PifleetError, match="no network"):
        run(places, Local(repository, "0" * 40, broken="There is no network, token=hunter2hunter2."))
    shown = refresh.status(places)
    assert (shown.state, shown.revision, shown.commit_message) == ("failed", one, "Good")
    assert "no network" in shown.error and "hunter2" not in shown.error
    assert files(places) == of(ONE), "what is in force is whole, whoever could be reached"


def test_the_same_outcome_is_not_written_again_but_its_time_moves(repository: Repository, places: RefreshPlaces) -> None:
    one = Local(repository, repository.commit(ONE))
    run(places, one)
    os.utime(places.outcome, (0, 0))
    before = places.outcome.stat().st_ino
    run(places, one)
    assert places.outcome.stat().st_ino == before
    assert refresh.status(places).at > "2020"


def test_a_revision_without_the_folder_is_an_empty_desired_state(repository: Repository, places: RefreshPlaces) -> None:
    run(places, Local(repository, repository.commit(ONE)))
    run(places, Local(repository, repository.commit(dict.fromkeys(ONE) | {"other": "x\n"})))
    assert files(places) == {}
    assert refresh.status(places).state == "completed"
    assert (places.tree / "stacks").is_dir(), "there is no folder in git, but there is one to reconcile by"
    (places.tree / "stacks").rmdir()
    source = Local(repository, repository.git("rev-parse", "HEAD"))
    assert run(places, source).reason == "diverged" and (places.tree / "stacks").is_dir()
    assert not run(places, source).reason


def archive_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            tar.addfile(member)
    return path


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "stacks/../../out", "stacks//x"])
def test_an_archive_that_reaches_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PifleetError, match="outside of it"):
        desired_tree.read_manifest(archive_of(tmp_path / "a.tar", tarfile.TarInfo(name)))


def test_an_archive_with_a_device_is_refused(tmp_path: Path) -> None:
    device = tarfile.TarInfo("stacks/null")
    device.type = tarfile.CHRTYPE
    with pytest.raises(PifleetError, match="neither file nor link"):
        desired_tree.read_manifest(archive_of(tmp_path / "a.tar", device))


def test_a_cut_off_or_foreign_archive_is_refused(repository: Repository, tmp_path: Path) -> None:
    whole = tmp_path / "a.tar"
    one = Local(repository, repository.commit({"stacks/web/compose.yaml": "x" * 5000}))
    one.archive(one.target(), whole)
    for data in (whole.read_bytes()[:3000], b"", b"no archive at all" * 100):
        whole.write_bytes(data)
        with pytest.raises(PifleetError, match="damaged"):
            desired_tree.read_manifest(whole)


# ------------------------------------------------------------------------------------------------------------- cut off
STEPS = ("replace", "unlink", "fsync", "mkdir", "open", "rmdir", "sync", "utime", "symlink")


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, what: Callable[[], None]) -> list[int]:
    """Let *what* happen before the system call number *number* that changes the disk. The list counts them."""
    count = [0]

    def patched(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name != "open" or (args[1] & (os.O_WRONLY | os.O_RDWR)):
                count[0] += 1
                if count[0] == number:
                    what()
            return real(*args, **kwargs)

        return call

    for name in STEPS:
        monkeypatch.setattr(os, name, patched(name))
    return count


def die() -> None:
    raise Killed


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_cut_off_at_every_step_the_next_one_finishes_even_without_the_source(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = repository.commit(ONE, "One"), repository.commit({**TWO, "stacks/web/x.sops.env": "e\n"}, "Two")
    states = {one: of(ONE), two: {**of(TWO), "stacks/web/x.sops.env": "e\n"}}
    number, interrupted = 0, 0
    while True:
        number += 1
        places = RefreshPlaces.below(str(tmp_path / f"node{number}"))
        run(places, Local(repository, one))
        with monkeypatch.context() as patch:
            count = at_step(patch, number, die)
            try:
                run(places, Local(repository, two))
            except Killed:
                interrupted += 1
        if count[0] < number:
            break
        damage = refresh.damage(places)
        with pytest.raises(PifleetError, match="offline"):
            run(places, Local(repository, two, broken="offline"))
        active = checkout.from_json(atomic_file.read_text(places.active))
        assert active and files(places) == states[active.revision], f"step {number}: {damage}"
        assert refresh.damage(places) == ""
        run(places, Local(repository, two))
        assert files(places) == states[two]
        assert refresh.status(places).state == "completed"
    assert interrupted > 20


@pytest.mark.parametrize("wanted", ["one", "two", "three"])
def test_after_a_kill_any_revision_may_be_asked_for(
    repository: Repository, places: RefreshPlaces, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    revisions = {
        "one": repository.commit(ONE),
        "two": repository.commit(TWO),
        "three": repository.commit({"stacks/dns/compose.yaml": None, "stacks/web/compose.yaml": "3\n"}),
    }
    run(places, Local(repository, revisions["one"]))
    monkeypatch.setattr(os, "replace", lambda *_: die() if places.pending.exists() else os.rename(*_))
    with pytest.raises(Killed):
        run(places, Local(repository, revisions["two"]))
    monkeypatch.undo()
    assert refresh.damage(places) == "interrupted"
    source = Local(repository, revisions[wanted])
    run(places, source)
    assert refresh.status(places).revision == revisions[wanted]
    assert files(places) == {"one": of(ONE), "two": of(TWO), "three": {"stacks/web/compose.yaml": "3\n"}}[wanted]
    assert source.archives == (wanted == "three"), "what the node has it does not ask for"


def test_a_disk_that_is_full_at_any_step_leaves_one_whole_revision(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = repository.commit(ONE, "One"), repository.commit(TWO, "Two")
    number = 0
    while True:
        number += 1
        places = RefreshPlaces.below(str(tmp_path / f"node{number}"))
        run(places, Local(repository, one))
        with monkeypatch.context() as patch:
            count = at_step(patch, number, no_space)
            failed = ""
            try:
                run(places, Local(repository, two))
            except PifleetError as error:
                failed = str(error)
        if count[0] < number:
            break
        if failed:
            assert "full" in failed, failed
            assert files(places) in (of(ONE), of(TWO)) or refresh.damage(places) == "interrupted"
        run(places, Local(repository, two))
        assert files(places) == of(TWO)
    assert number > 20


def test_the_note_of_what_is_checked_out_is_plain_json(repository: Repository, places: RefreshPlaces) -> None:
    one = repository.commit({"stacks/ü/compose.yaml": "x\n", "stacks/run.sh": "#!/bin/sh\n"})
    (repository.path / "stacks/run.sh").chmod(0o755)
    (repository.path / "stacks/link").symlink_to("run.sh")
    one = repository.commit({})
    run(places, Local(repository, one))
    noted = json.loads(places.active.read_text())
    assert noted["revision"] == one
    assert noted["files"]["stacks/run.sh"][0] == "755"
    assert noted["files"]["stacks/link"] == ["link", "run.sh"]
    assert (places.tree / "stacks/run.sh").stat().st_mode & 0o777 == 0o755
    assert os.readlink(places.tree / "stacks/link") == "run.sh"
    assert (places.tree / "stacks/ü/compose.yaml").read_text() == "x\n"


def test_the_files_of_a_pinned_stack_stay_as_they_are(repository: Repository, places: RefreshPlaces) -> None:
    run(places, Local(repository, repository.commit(ONE)))
    pinned = state.Record("web", "web", "stacks", pinned="a" * 40)
    state.save(str(places.records), pinned)
    two = repository.commit(TWO)
    for _again in range(2):
        run(places, Local(repository, two))
        assert files(places) == {**of(ONE), "stacks/dns/compose.yaml": "d\n"}
    # edited by hand too: whoever holds it looks after it
    (places.tree / "stacks/web/compose.yaml").write_text("edited\n")
    assert run(places, Local(repository, two)).reason == ""
    state.save(str(places.records), replace(pinned, pinned=""))
    assert run(places, Local(repository, two)).reason == "diverged"
    # a file that the desired state dropped meanwhile decides nothing, and stays
    assert files(places) == {**of(TWO), "stacks/web/conf/site.conf": "a\n"}
