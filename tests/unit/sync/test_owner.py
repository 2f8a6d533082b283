# SPDX-License-Identifier: GPL-3.0-or-later
"""One service owns an outbox; another takes over only from a dead one of the same identity."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import owner
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.owner import Found, OwnerError, Ownership
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process

from tests.support.sync import owner_record

RECORD = owner_record()
NEXT = replace(RECORD, pid=RECORD.pid + 1, process_started="next")


def dead(_process: Process) -> bool:
    return True


def alive(_process: Process) -> bool:
    return False


def left_behind(folder: Path, **changes: object) -> None:
    """A service that was killed: its records are there, its lock is not."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "owner.json").write_text(json.dumps({**asdict(RECORD), **changes}))


def test_claim_and_release(tmp_path: Path) -> None:
    folder = tmp_path / "sync"
    assert owner.read_all(folder) == ()
    mine = Ownership(folder)
    mine.claim(RECORD)
    (found,) = owner.read_all(folder)
    assert (found.record, found.owner) == (RECORD, True)
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*.json")} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert mine.held()
    mine.release()
    assert owner.read_all(folder) == ()
    assert not mine.held()
    mine.release()


def test_second_service_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    Ownership(tmp_path).claim(RECORD)
    second = Ownership(tmp_path, gone=dead)
    with pytest.raises(OwnerError, match=rf"pid {RECORD.pid} .*mode=stop"):
        second.claim(NEXT)
    assert [f.record for f in owner.read_all(tmp_path)] == [RECORD]


def test_dead_owner_of_the_same_identity_is_followed(tmp_path: Path) -> None:
    left_behind(tmp_path, package_version="0.0.1")
    Ownership(tmp_path, gone=dead).claim(NEXT)
    assert [f.record for f in owner.read_all(tmp_path)] == [NEXT]


@pytest.mark.parametrize("owned", [True, False])
def test_what_was_killed_while_it_became_the_owner_or_ceased_to_be_it_is_no_orphan_for_ever(tmp_path: Path, owned: bool) -> None:
    """Killed between its two records: an orphan for which the preflight would refuse the next service until a person came."""
    for number, (name, changes) in enumerate({"mine": {}, "other": {"team_or_user": "team-b/x"}}.items()):
        left_behind(tmp_path / "services", pid=4711 + number, **changes)
        (tmp_path / "services/owner.json").rename(tmp_path / f"services/{name}.json")
    if owned:
        left_behind(tmp_path, pid=4710)
    Ownership(tmp_path, gone=dead).claim(NEXT)
    assert [f.record.pid for f in owner.read_all(tmp_path) if f.record] == [NEXT.pid, 4712], "another identity's is a person's to judge"


@pytest.mark.parametrize("change", [{"server_url": "https://other"}, {"team_or_user": "team-b/x"}, {"queue_db_path": "/other.db"}])
def test_dead_owner_of_another_identity_is_not(tmp_path: Path, change: dict[str, str]) -> None:
    left_behind(tmp_path, **change)
    before = (tmp_path / "owner.json").read_text()
    with pytest.raises(OwnerError, match=r"of another identity.*mode=stop"):
        Ownership(tmp_path, gone=dead).claim(NEXT)
    assert (tmp_path / "owner.json").read_text() == before
    assert not (tmp_path / "services").exists()


def test_owner_that_may_live_is_not_followed(tmp_path: Path) -> None:
    """One of another controller, whose lock this machine does not see."""
    left_behind(tmp_path)
    with pytest.raises(OwnerError, match="owns this outbox"):
        Ownership(tmp_path, gone=alive).claim(NEXT)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1}'])
def test_record_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "owner.json").write_text(text)
    (found,) = owner.read_all(tmp_path)
    assert found == Found(tmp_path / "owner.json", None, owner=True)
    with pytest.raises(OwnerError, match=r"is no record.*mode=stop"):
        Ownership(tmp_path, gone=dead).claim(NEXT)
    owner.forget(found)
    assert owner.read_all(tmp_path) == ()


def test_service_that_lost_its_record_knows_it_and_is_found(tmp_path: Path) -> None:
    mine = Ownership(tmp_path)
    mine.claim(RECORD)
    (tmp_path / "owner.json").unlink()
    assert not mine.held()
    assert [(f.record, f.owner) for f in owner.read_all(tmp_path)] == [(RECORD, False)]
    left_behind(tmp_path, pid=77)
    assert [(f.record.pid if f.record else 0, f.owner) for f in owner.read_all(tmp_path)] == [(77, True), (RECORD.pid, False)]
    mine.release()
    assert [f.record.pid for f in owner.read_all(tmp_path) if f.record] == [77], "another's record is left alone"


def test_forgetting_spares_what_came_instead(tmp_path: Path) -> None:
    left_behind(tmp_path)
    (found,) = owner.read_all(tmp_path)
    left_behind(tmp_path, pid=77)
    owner.forget(found)
    assert len(owner.read_all(tmp_path)) == 1


def test_what_is_shown_has_no_password() -> None:
    shown = replace(RECORD, server_url="https://user:hunter22@hub", queue_db_path="postgresql://u:hunter22@db/x").to_dict()
    assert "hunter22" not in json.dumps(shown)
    assert shown["pid"] == RECORD.pid


def _in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


def test_killed_owner_leaves_its_lock_to_the_next(tmp_path: Path) -> None:
    ready, tell = os.pipe()

    def own() -> None:
        Ownership(tmp_path).claim(RECORD)
        os.write(tell, b"x")
        signal.pause()

    child = _in_child(own)
    os.read(ready, 1)
    with pytest.raises(OwnerError, match="Another pifleet-sync"):
        Ownership(tmp_path, gone=dead).claim(NEXT)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    Ownership(tmp_path, gone=dead).claim(NEXT)
    assert [f.record for f in owner.read_all(tmp_path)] == [NEXT]
