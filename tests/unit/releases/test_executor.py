# SPDX-License-Identifier: GPL-3.0-or-later
"""The executor: in order, exactly once, recorded before and after; and what a failure leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.releases import Releases
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import executor
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import PHASES, Image, Phase, Plan, Release

from tests.unit.releases.conftest import World

Make = Callable[..., Plan]


def work(detail: Mapping[str, Any] | None = None) -> Callable[[Release], tuple[Mapping[str, Any], list[Image]]]:
    return lambda _release: (detail or {}, [])


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        (["pending"] * 6, "pending"),
        (["skipped", "skipped", "pending"], "pending"),
        (["completed", "pending"], "running"),
        (["running", "pending"], "running"),
        (["completed", "skipped"], "completed"),
        (["completed", "failed", "skipped"], "failed"),
    ],
)
def test_status(statuses: list[str], status: str) -> None:
    assert executor.status_of([Phase(str(at), s) for at, s in enumerate(statuses)]) == status


def test_phases_run_in_order_and_once(world: World, make_plan: Make) -> None:
    release = world.create(make_plan())
    seen: list[tuple[str, str]] = []
    for name in PHASES:

        def look(found: Release, name: str = name) -> tuple[Mapping[str, Any], list[Image]]:
            # what another process reads while the phase runs
            seen.append((name, Releases(world.open()).get(found.id).phase(name).status))
            return {}, []

        for _twice in range(2):
            world.steps(release).run(name, look)
    assert seen == [(name, "running") for name in PHASES if name != "migrate_post"]
    found = world.releases.get(release.id)
    assert found.status == "completed" and found.current and found.ended_at
    assert [p.reason for p in found.phases if p.status == "skipped"] == ["no migration configured"]


@pytest.mark.parametrize("name", [name for name in PHASES if name != "migrate_post"])
def test_failure_skips_every_later_phase(world: World, make_plan: Make, name: str) -> None:
    release = world.create(make_plan())
    for earlier in PHASES[: PHASES.index(name)]:
        world.steps(release).run(earlier, work())

    def fails(_release: Release) -> tuple[Mapping[str, Any], list[Image]]:
        raise PifleetError("the disk is on fire.")

    with pytest.raises(PifleetError, match="on fire"):
        world.steps(release).run(name, fails)
    found = world.releases.get(release.id)
    assert found.status == "failed" and found.phase(name).reason == "the disk is on fire."
    later = found.phases[PHASES.index(name) + 1 :]
    assert {(p.status, p.reason) for p in later} <= {("skipped", f"upstream phase {name} failed")}
    for phase in later:
        with pytest.raises(PifleetError, match="cannot begin now"):
            world.steps(release).begin(phase.name)


def test_defect_is_recorded_too(world: World, make_plan: Make) -> None:
    release = world.create(make_plan())
    with pytest.raises(ZeroDivisionError):
        world.steps(release).run("build", lambda _release: ({"x": 1 / 0}, []))
    assert "unexpected: ZeroDivisionError" in world.releases.get(release.id).phase("build").reason


def test_no_phase_before_its_turn(world: World, make_plan: Make) -> None:
    release = world.create(make_plan())
    with pytest.raises(PifleetError, match="Its turn has build"):
        world.steps(release).begin("rollout")
    with pytest.raises(PifleetError, match="does not run"):
        world.steps(release).complete("build", {})


def test_planning_failure_marks_every_phase_failed(world: World, make_plan: Make) -> None:
    release = world.create(make_plan())
    found = world.steps(release).fail_all("no such host")
    assert {p.status for p in found.phases} == {"failed"} and found.status == "failed"


def test_failed_write_aborts_at_once(make_plan: Make) -> None:
    done: list[str] = []

    class Full:
        def get(self, release_id: str) -> Release:
            raise PifleetError("disk full")

        def change(self, release_id: str, kind: str, change: executor.Change) -> Release:
            raise PifleetError("disk full")

    with pytest.raises(PifleetError, match="disk full"):
        executor.Executor(Full(), "x").run("build", lambda _release: (done.append("built"), ({}, []))[1])  # type: ignore[func-returns-value]
    assert done == []


def test_reopen_keeps_what_is_finished(world: World, make_plan: Make) -> None:
    release = world.create(make_plan())
    world.steps(release).run("build", work({"reused": []}))
    world.steps(release).begin("push")
    world.steps(release).fail("push", "registry down")
    found = world.releases.resume(world.mine, release.id)
    assert [p.status for p in found.phases] == ["completed", "pending", "pending", "pending", "skipped", "pending"]
    assert found.status == "running" and not found.ended_at and executor.next_phase(found) == "push"
    done = world.finish(release)
    with pytest.raises(PifleetError, match="nothing to resume"):
        executor.reopen(done, "now")
