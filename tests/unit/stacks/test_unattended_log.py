# SPDX-License-Identifier: GPL-3.0-or-later
"""What unattended runs did is kept until it is evidence: nothing is lost and nothing is told twice, whoever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import locks, unattended_log

fake_engine = sys.modules["stacks_fake_engine"]  # of conftest
#: writes of an attempt and, of the last one, of the verification that follows
WRITES = {"update": 6, "removal": 3, "failure": 6}
CHANGED = {"services": {"web": {"image": "app:2", "restart": "always"}, "db": {"image": "db:1", "restart": "always"}}}


def told(node: Any) -> list[tuple[str, str, bool]]:
    """Stack, status and whether it was changed, of each attempt that waits to become evidence."""
    return [(one["stack"]["name"], one["stack"]["status"], one["stack"]["changed"]) for one in unattended_log.collect(str(node.state))]


def forget_all(node: Any) -> None:
    unattended_log.forget(str(node.state), [one["id"] for one in unattended_log.collect(str(node.state))])


def test_only_attempts_of_unattended_runs_are_kept(web):
    web.stack(table=CHANGED)
    web.reconcile()
    assert told(web) == [] and not (web.state / "unattended").exists()
    web.engine.touch("web-web-1", state="exited", exit_code=1)
    web.reconcile(unattended=True, check=True)
    assert told(web) == []
    web.reconcile(unattended=True)
    [one] = unattended_log.collect(str(web.state))
    assert (one["revision"], one["lost"]) == ("rev1", 0) and one["began_at"] < one["ended_at"]
    assert one["stack"] == {
        "name": "web",
        "status": "synced",
        "changed": True,
        "revision": "rev1",
        "plan_digest": one["stack"]["plan_digest"],
        "policy": "apply",
        "awaiting_acknowledgement": False,
        "last_error": "",
        "drift": [{"service": "web", "reason": "stopped"}],
        "actions": [{"kind": "start", "target": "web"}],
    }
    assert len(one["stack"]["plan_digest"]) == 64
    assert [path.stat().st_mode & 0o777 for path in (web.state / "unattended").iterdir()] == [0o600]
    web.reconcile(unattended=True)
    assert len(told(web)) == 1, "a run without drift keeps nothing"
    forget_all(web)
    assert told(web) == []


def test_a_failure_a_repair_and_a_removal_are_kept_in_their_order(web):
    web.stack("keep")
    web.reconcile()
    web.stack(table=CHANGED)
    web.engine.failing["up"] = "boom"
    web.reconcile(unattended=True, revision="rev2")
    del web.engine.failing["up"]
    web.engine.clock.time += 60
    web.reconcile(unattended=True, revision="rev2")
    (web.path / "web/compose.yaml").unlink()
    (web.path / "web").rmdir()
    web.reconcile(unattended=True, remove=True, revision="rev3")
    found = unattended_log.collect(str(web.state))
    assert told(web) == [("web", "failed", True), ("web", "synced", True), ("web", "missing", True)]
    assert [one["revision"] for one in found] == ["rev2", "rev2", "rev3"]
    assert "boom" in found[0]["stack"]["last_error"] and found[0]["stack"]["revision"] == "rev1", "what is in force"
    assert found[2]["stack"]["actions"] == [{"kind": "remove_stack", "target": "web"}]


def test_the_same_error_again_without_an_attempt_is_nothing_new(web):
    web.stack("web", "services: [")
    for _ in range(3):
        web.reconcile(unattended=True)
    assert told(web) == [("web", "failed", False)]
    web.stack(table=CHANGED)
    web.reconcile(unattended=True)
    assert told(web)[1:] == [("web", "synced", True)]


def test_a_container_that_never_gets_healthy_is_told_once(web):
    web.engine.behaviour["web"] = {"health": "starting"}
    web.stack(table=CHANGED)
    for _ in range(3):
        web.reconcile(unattended=True, timeout=20)
        web.engine.clock.time += 1000
    assert told(web) == [("web", "failed", True)]
    web.engine.touch("web-web-1", health="healthy")
    web.reconcile(unattended=True)
    assert told(web)[1:] == [("web", "synced", False)], "that it came right by itself is told too"


def test_what_goes_on_waits_and_what_was_cut_off_is_told(web):
    web.stack(table=CHANGED)
    web.engine.kill_at = web.engine.steps + 1  # its old container is gone
    seen: list[Any] = []
    web.engine.on_call = lambda verb: seen.append(told(web)) if verb == "up" else None
    with pytest.raises(fake_engine.KilledError):
        web.reconcile(unattended=True)
    assert seen == [[]], "it went on"
    [one] = unattended_log.collect(str(web.state))
    assert (one["ended_at"], one["stack"]["status"], one["stack"]["changed"]) == ("", "failed", True)
    assert one["stack"]["last_error"] == f"the attempt of {one['began_at']} was interrupted"
    assert one["stack"]["actions"] == [{"kind": "recreate", "target": "web"}], "what it was about to do"
    web.engine.kill_at, web.engine.on_call = -1, lambda verb: None
    web.reconcile(unattended=True)
    assert told(web) == [("web", "failed", True), ("web", "synced", True)]


def test_an_attempt_under_a_lock_is_not_over(web):
    web.stack(table=CHANGED)
    web.engine.kill_at = web.engine.steps + 1
    with pytest.raises(fake_engine.KilledError):
        web.reconcile(unattended=True)
    with locks.Lock(str(web.state), "web", "stacks", web.engine.clock) as lock:
        lock.acquire(0)
        assert told(web) == []
    assert len(told(web)) == 1


@pytest.mark.parametrize(("what", "write"), [(what, write) for what, writes in WRITES.items() for write in range(writes)])
def test_killed_at_every_write_nothing_that_was_done_is_untold(node, monkeypatch, what, write):
    """The controller takes over and forgets after each run. Where it is killed between the two, it takes over the same again."""
    node.stack("keep")
    node.stack()
    node.reconcile()
    before = node.running()
    if what == "removal":
        (node.path / "web/compose.yaml").unlink()
        (node.path / "web").rmdir()
    else:
        node.stack(table=CHANGED)
    if what == "failure":
        node.engine.behaviour["web"] = {"state": "exited", "exit_code": 1}
    ledger: dict[str, Any] = {}
    real, count = atomic_file.write_atomic, iter(range(1000))

    def killed(path: Any, *args: Any, **options: Any) -> None:
        if next(count) == write:
            raise fake_engine.KilledError
        real(path, *args, **options)

    monkeypatch.setattr(atomic_file, "write_atomic", killed)
    for number in range(4):
        with contextlib.suppress(fake_engine.KilledError):
            node.reconcile(unattended=True, remove=True)
        node.engine.clock.time += 10_000
        found = unattended_log.collect(str(node.state))
        ledger.update({one["id"]: one for one in found})
        if number % 2:
            unattended_log.forget(str(node.state), [one["id"] for one in found])
    monkeypatch.setattr(atomic_file, "write_atomic", real)
    done = [one["stack"] for one in ledger.values()]
    assert {stack["name"] for stack in done} == {"web"} and node.running() != before
    assert done[-1]["status"] == {"update": "synced", "removal": "missing", "failure": "failed"}[what]
    assert any(stack["changed"] for stack in done)
    if what == "update":
        assert len(done) <= 3 and sum(stack["status"] == "synced" and stack["changed"] for stack in done) <= 1, "it was made once"
    assert next(count) > write, "that many writes there are"


def test_a_full_disk_is_found_before_anything_is_touched(web, monkeypatch):
    web.stack(table=CHANGED)
    before = web.running()
    real = atomic_file.write_atomic

    def full(path: Any, *args: Any, **options: Any) -> None:
        if "unattended" in str(path):
            raise OSError(28, "No space left on device", str(path))
        real(path, *args, **options)

    monkeypatch.setattr(atomic_file, "write_atomic", full)
    failed = web.one(web.reconcile(unattended=True))
    assert failed.status == "failed" and "No space left" in failed.last_error and web.running() == before


def test_there_is_an_end_to_it_and_what_is_lost_is_counted(web, monkeypatch):
    monkeypatch.setattr(unattended_log, "LIMIT", 5)
    for number in range(12):
        web.engine.touch("web-web-1", state="exited", exit_code=1)
        web.reconcile(unattended=True, revision=f"rev{number}")
    found = unattended_log.collect(str(web.state))
    assert [one["revision"] for one in found] == [f"rev{number}" for number in range(7, 12)]
    assert sum(one["lost"] for one in found) == 7


def test_only_what_is_named_is_forgotten(web):
    for _ in range(2):
        web.engine.touch("web-web-1", state="exited", exit_code=1)
        web.reconcile(unattended=True)
    first, second = unattended_log.collect(str(web.state))
    kept = sorted(os.listdir(web.state))
    unattended_log.forget(str(web.state), [first["id"], "../web", "", "nonsense"])
    assert unattended_log.collect(str(web.state)) == [second] and sorted(os.listdir(web.state)) == kept
    unattended_log.forget(str(web.state / "nowhere"), [second["id"]])


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b'{"id": 1, "other": 2}', b"\xff"])
def test_one_that_is_damaged_is_told_of_and_can_be_forgotten(web, content):
    web.engine.touch("web-web-1", state="exited", exit_code=1)
    web.reconcile(unattended=True)
    [path] = (web.state / "unattended").iterdir()
    path.write_bytes(content)
    [one] = unattended_log.collect(str(web.state))
    assert one["id"] == path.stem and one["stack"]["status"] == "failed" and "damaged" in one["stack"]["last_error"]
    json.dumps(one)
    forget_all(web)
    assert not path.exists()


def test_what_a_killed_write_left_is_removed(web):
    web.engine.touch("web-web-1", state="exited", exit_code=1)
    web.reconcile(unattended=True)
    left = web.state / "unattended" / ".x.json.abc.new"
    left.write_text("")
    os.utime(left, (1, 1))
    assert len(told(web)) == 1
    web.engine.touch("web-web-1", state="exited", exit_code=1)
    web.reconcile(unattended=True)
    assert not left.exists()
