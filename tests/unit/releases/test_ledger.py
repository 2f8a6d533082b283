# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases in the ledger: ids, the lock, resume, and what every process reads."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import verify
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.aggregates import AGGREGATES
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.audit import Ledger
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import identify, is_gone
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.releases import Releases
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import executor
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import Image, Plan, Release
from sqlalchemy import event

from tests.unit.releases.conftest import World

ROOT = Path(__file__).resolve().parents[3]
Make = Callable[..., Plan]


def test_ids_are_ordered(world: World, make_plan: Make) -> None:
    first = world.completed(make_plan("1.0.0"))
    second = world.create(make_plan("0.9"))
    assert (first.id, second.id) == ("prod-000001-1.0.0", "prod-000002-0.9")
    assert (first.previous_id, second.previous_id) == ("", first.id)
    assert [r.id for r in world.releases.of_environment("prod")] == [first.id, second.id]
    assert world.releases.environments() == ("prod",)
    assert world.releases.get(first.id) == world.releases.of_environment("prod")[0]


def test_second_release_of_an_environment_is_refused(world: World, make_plan: Make) -> None:
    first = world.create(make_plan())
    other = world.another_run(2)
    with pytest.raises(PifleetError, match=rf"{first.id} of prod is under way: run .* by operator on controller, process 1"):
        world.create(make_plan(), other)
    assert [r.id for r in world.releases.of_environment("prod")] == [first.id]


def test_lock_of_a_dead_run_is_recovered(world: World, make_plan: Make) -> None:
    first = world.create(make_plan())
    world.steps(first).begin("build")
    assert not world.releases.get(first.id).interrupted
    world.gone.add(1)
    assert world.releases.get(first.id).interrupted  # before another run has looked
    other = world.another_run(2)
    assert world.releases.get(first.id).interrupted
    second = world.create(make_plan(), other)
    found = world.releases.get(first.id)
    assert (found.status, found.phase("build").status, found.phase("build").reason) == ("failed", "failed", "interrupted")
    assert found.phase("rollout").reason == "upstream phase build failed" and second.seq == 2
    with pytest.raises(PifleetError, match=f"{second.id} came after"):
        world.releases.resume(other, first.id)


def test_resume_of_a_dead_run(world: World, make_plan: Make) -> None:
    first = world.create(make_plan())
    world.steps(first).run("build", lambda _release: ({}, []))
    world.steps(first).begin("push")
    world.gone.add(1)
    other = world.another_run(2)
    found = world.releases.resume(other, first.id)
    assert [p.status for p in found.phases][:3] == ["completed", "pending", "pending"] and not found.is_over
    third = world.another_run(3)
    with pytest.raises(PifleetError, match="is under way"):
        world.releases.resume(third, first.id)


@pytest.mark.parametrize("work_fails", [False, True])
def test_what_outlives_its_run_records_nothing_of_the_phase_that_another_took_over(world: World, make_plan: Make, work_fails: bool) -> None:
    first = world.create(make_plan())

    def work(_release: Release) -> tuple[dict[str, Any], list[Image]]:
        world.gone.add(1)
        world.releases.resume(world.another_run(2), first.id)
        world.steps(first).begin("build")
        if work_fails:
            raise PifleetError("it was cut off")
        return {"late": True}, []

    with pytest.raises(PifleetError, match=r"took the release .* over"):
        world.steps(first).run("build", work)
    found = world.releases.get(first.id).phase("build")
    assert (found.status, found.detail) == ("running", {})


def test_what_outlives_its_run_is_recorded_until_another_takes_over(world: World, make_plan: Make) -> None:
    first = world.create(make_plan())

    def work(_release: Release) -> tuple[dict[str, Any], list[Image]]:
        world.gone.add(1)
        return {}, []

    world.steps(first).run("build", work)
    resumed = world.releases.resume(world.another_run(2), first.id)
    assert resumed.phase("build").status == "completed" and executor.next_phase(resumed) == "push"


WORKER = """
import os, sys, time
sys.path[:0] = [{root!r}, {root!r} + "/.collections"]
import multiprocessing
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import process
def work():
    os.setsid()
    process.end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(600)
multiprocessing.get_context("fork").Process(target=work).start()
time.sleep(600)
"""


def test_a_worker_ends_with_its_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER.format(root=str(ROOT))], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        worker = identify(int(parent.stdout.readline()))
        assert not is_gone(worker)
        parent.kill()
    deadline = time.monotonic() + 60
    while not is_gone(worker):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_a_run_nothing_is_recorded(world: World, make_plan: Make) -> None:
    with pytest.raises(PifleetError, match="No run is open"):
        world.create(make_plan(), world.process(9))
    assert world.releases.of_environment("prod") == ()


def test_nothing_yet(tmp_path: Path) -> None:
    releases = Releases(Store(tmp_path / "none.db"))
    assert releases.of_environment("prod") == () and releases.environments() == ()
    with pytest.raises(PifleetError, match="no release prod-000001-1"):
        releases.get("prod-000001-1")
    assert not (tmp_path / "none.db").exists()


def test_every_change_is_evidence(world: World, make_plan: Make) -> None:
    assert "release" in AGGREGATES
    release = world.completed(make_plan())
    with world.store.read() as db:
        kinds = [row[0] for row in db.exec_driver_sql("SELECT kind FROM events WHERE kind LIKE 'release.%' ORDER BY seq").all()]
    assert kinds[0] == "release.created" and kinds.count("release.phase") == 10

    # a change that changes nothing is none
    world.releases.change(release.id, "release.phase", lambda found, _now: found)
    with world.store.read() as db:
        assert len(db.exec_driver_sql("SELECT kind FROM events WHERE kind LIKE 'release.%'").all()) == len(kinds)
        assert not verify.verify(Ledger(db)).findings
    with world.store.write() as db:
        db.exec_driver_sql("UPDATE releases SET version = '9.9'")
    with world.store.read() as db:
        assert release.id in verify.verify(Ledger(db)).findings[0].text


def transcripts(world: World) -> list[tuple[str, str]]:
    """Names and texts of what the run has kept."""
    run_id = world.runs.current(world.mine)
    assert run_id is not None
    return [(made.name, content.decode()) for made, content in world.runs.artifacts(run_id)]


def test_what_a_release_did_and_said_is_kept_when_it_is_over(world: World, make_plan: Make) -> None:
    release = world.create(make_plan())
    steps = world.steps(release)
    said = {"web": "4 tables made\npassword=hunter22hunter22"}
    for name in ("build", "push", "migrate_pre", "rollout"):
        steps.begin(name)
        steps.complete(name, {"hosts": {"pi-2": {"status": "completed", "said": said}}} if name == "migrate_pre" else {})
    assert transcripts(world) == [], "it is not over"
    steps.begin("finalize")
    steps.complete("finalize", {"hosts": {"pi-1": {"status": "completed", "removed": ["web:0"]}}})
    ((name, text),) = transcripts(world)
    assert name == f"{release.id}.txt"
    assert release.plan.digest in text and "pi-2: completed\n    web: 4 tables made" in text and "removed: web:0" in text
    assert "hunter22" not in text
    with world.store.read() as db:
        last = db.exec_driver_sql("SELECT content FROM events WHERE kind = 'release.phase' ORDER BY seq DESC").scalar()
        assert f'"name":"{name}"' in bytes(cast("bytes", last)).decode()
        assert not verify.verify(Ledger(db)).findings


def test_transcript_of_a_release_that_failed_says_where(world: World, make_plan: Make) -> None:
    release = world.create(make_plan())
    world.steps(release).begin("build")
    world.steps(release).fail("build", "apps/web: step 3 failed")
    ((_name, text),) = transcripts(world)
    assert "(apps/web: step 3 failed)" in text and "rollout: skipped (upstream phase build failed)" in text
    world.finish(world.releases.resume(world.mine, release.id))
    (_first, (name, text)) = transcripts(world)
    assert name == f"{release.id}.txt" and "rollout: completed" in text


def test_full_disk_changes_nothing(world: World, make_plan: Make) -> None:
    release = world.create(make_plan())
    world.steps(release).begin("build")
    before = world.releases.get(release.id)

    def full(connection: sqlite3.Connection, _record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")

    store = Store(world.place)
    event.listen(cast("Any", store)._database.engine, "connect", full)
    steps = executor.Executor(Releases(store), release.id)
    with pytest.raises(LedgerError, match="full"):
        steps.note("build", {"text": "x" * 200_000})
    assert world.releases.get(release.id) == before


KILLED = """
import os, sys, signal
sys.path[:0] = [{root!r}, {root!r} + "/.collections"]
from pathlib import Path
from tests.unit.releases.conftest import World
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.releases import Releases
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.executor import Executor
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import PHASES
steps = Executor(Releases(Store(Path({path!r}))), {release!r})
for name in PHASES:
    found = Releases(Store(Path({path!r}))).get({release!r})
    if not found.phase(name).is_over:
        steps.begin(name)
        if name == {phase!r}:
            os.kill(os.getpid(), signal.SIGKILL)
        steps.complete(name, {{}})
"""


@pytest.mark.parametrize("phase", ["build", "rollout", "finalize"])
def test_killed_in_a_phase_says_how_far_it_got(world: World, make_plan: Make, phase: str) -> None:
    release = world.create(make_plan())
    script = KILLED.format(root=str(ROOT), path=str(world.place), release=release.id, phase=phase)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = world.releases.get(release.id)
    assert found.status == "running" and found.phase(phase).status == "running"
    world.gone.add(1)
    resumed = world.releases.resume(world.another_run(2), release.id)
    finished = {p.name for p in found.phases if p.status == "completed"}
    assert {p.name for p in resumed.phases if p.status == "completed"} == finished
    assert world.finish(release).status == "completed"
