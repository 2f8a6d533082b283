# SPDX-License-Identifier: GPL-3.0-or-later
"""What people read, held by files in ``golden/``.

``PIFLEET_UPDATE_GOLDENS=1`` writes them anew; look at the difference before committing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import planner, text
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import PHASES, Plan, Release

from tests.unit.releases.conftest import GROUPS, World, digest_of

Make = Callable[..., Plan]
GOLDEN = Path(__file__).parent / "golden"


def same_as_golden(name: str, found: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("PIFLEET_UPDATE_GOLDENS") == "1":
        path.write_text(found + "\n")
    assert path.read_text() == found + "\n"


def failed(world: World, make_plan: Make, version: str, phase: str) -> Release:
    release = world.create(make_plan(version))
    for name in PHASES[: PHASES.index(phase)]:
        world.steps(release).run(name, lambda _release: ({}, []))
    world.steps(release).begin(phase)
    hosts = {"pi-1": {"status": "completed"}, "pi-2": {"status": "failed", "error": "web is unhealthy"}} if phase == "rollout" else {}
    world.steps(release).fail(phase, "pi-2: web is unhealthy" if hosts else "apps/web: step 3 failed", {"hosts": hosts} if hosts else {})
    return world.releases.get(release.id)


def test_success(world: World, make_plan: Make) -> None:
    same_as_golden("success", text.outcome(world.completed(make_plan())))


def test_early_failure(world: World, make_plan: Make) -> None:
    same_as_golden("early_failure", text.outcome(failed(world, make_plan, "1.0.0", "build")))


def test_failed_rollout(world: World, make_plan: Make) -> None:
    world.completed(make_plan("1.0.0"))
    same_as_golden("failed_rollout", text.outcome(failed(world, make_plan, "1.0.1", "rollout")))


def test_dry_run(make_plan: Make) -> None:
    same_as_golden("dry_run", text.plan(make_plan(), check=True))


def test_rollback(world: World, make_plan: Make) -> None:
    target = world.completed(make_plan("1.0.0"), 1)
    world.completed(make_plan("2.0.0"), 2)
    plan = planner.rollback(target, GROUPS, 1, 1)
    same_as_golden("rollback", f"{text.plan(plan)}\n\n{text.outcome(world.completed(plan))}")


def test_list_and_show(world: World, make_plan: Make) -> None:
    assert text.listing({}) == "No releases." and text.listing({"prod": []}) == "No releases of prod."
    target = world.completed(make_plan("1.0.0"), 1)
    failed(world, make_plan, "1.1.0", "build")
    live = world.completed(planner.rollback(target, GROUPS, 1, 1))
    world.steps(world.create(make_plan("1.2.0"))).begin("build")
    world.gone.add(1)
    world.another_run(2)
    found = list(reversed(world.releases.of_environment("prod")))
    same_as_golden("list", text.listing({"staging": [], "prod": found}))
    same_as_golden("show", text.show(world.releases.get(live.id)))
    table = text.as_table(world.releases.get(live.id))
    assert json.loads(json.dumps(table))["current"] is True and table["images"]["web"].endswith(digest_of(1))
    assert [r.current for r in found] == [False, True, False, False]
