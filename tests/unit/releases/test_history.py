# SPDX-License-Identifier: GPL-3.0-or-later
"""Which release is live, where a rollback goes, what it would cross, what is quarantined, and which images stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import history, planner
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.history import Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import Plan, Release

from tests.unit.releases.conftest import GROUPS, YAML, World, digest_of

Make = Callable[..., Plan]


def ago(world: World) -> tuple[Release, ...]:
    return world.releases.of_environment("prod")


def back(world: World, to: Release) -> Release:
    return world.completed(planner.rollback(to, GROUPS, 1, 1))


def test_previous(world: World, make_plan: Make) -> None:
    with pytest.raises(PifleetError, match=r"never completed|ever completed"):
        history.target(ago(world), Wanted(), "prod")
    first = world.completed(make_plan("1"))
    with pytest.raises(PifleetError, match="no completed release before"):
        history.target(ago(world), Wanted(), "prod")
    second = world.completed(make_plan("2"))
    assert history.target(ago(world), Wanted(), "prod").id == first.id
    assert history.target(ago(world), Wanted(to_previous=True), "prod").id == first.id
    world.completed(make_plan("3"))
    back(world, second)
    # one more step back, not forth to the version that was left
    assert history.target(ago(world), Wanted(), "prod").id == first.id


def test_a_release_that_failed_on_its_way_is_taken_back_to_the_live_one(world: World, make_plan: Make) -> None:
    live = world.completed(make_plan("1"))
    bad = world.create(make_plan("2"))
    for name in ("build", "push", "migrate_pre"):
        world.steps(bad).begin(name)
        world.steps(bad).complete(name, {})
    world.steps(bad).begin("rollout")
    world.steps(bad).fail("rollout", "unhealthy")
    assert history.target(ago(world), Wanted(), "prod").id == live.id
    assert history.target(ago(world), Wanted(to_version="1"), "prod").id == live.id
    with pytest.raises(PifleetError, match="is failed, not completed"):
        history.target(ago(world), Wanted(to_release=bad.id), "prod")


def test_explicit(world: World, make_plan: Make) -> None:
    first, second = world.completed(make_plan("1")), world.completed(make_plan("1"))
    live = world.completed(make_plan("2"))
    assert history.target(ago(world), Wanted(to_version="1"), "prod").id == second.id
    assert history.target(ago(world), Wanted(to_release=first.id), "prod").id == first.id
    for wanted, said in (
        (Wanted(to_release=live.id), "live one already"),
        (Wanted(to_version="2"), "live one already"),
        (Wanted(to_release="staging-000001-1"), "has no release staging-000001-1"),
        (Wanted(to_version="3"), "No other release of prod with the version 3"),
        (Wanted(to_version="1", to_previous=True), "Give one of"),
    ):
        with pytest.raises(PifleetError, match=said):
            history.target(ago(world), wanted, "prod")


def test_irreversible(world: World, make_plan: Make) -> None:
    first = world.completed(make_plan("1"))
    world.completed(make_plan("2"))
    assert history.irreversible(ago(world), first) == ()
    third = world.completed(make_plan("3", yaml=YAML.replace(", reversible: true", "")))
    assert history.irreversible(ago(world), first) == (f"{third.id}: web (migrate_pre)",)
    assert history.irreversible(ago(world), third) == ()
    # a rollback to the first one is, as a target, what the first one is
    again = back(world, first)
    assert history.irreversible(ago(world), again) == (f"{third.id}: web (migrate_pre)",)


def test_migration_that_never_ran_is_not_crossed(world: World, make_plan: Make) -> None:
    first = world.completed(make_plan("1"))
    bad = world.create(make_plan("2", yaml=YAML.replace(", reversible: true", "")))
    world.steps(bad).begin("build")
    world.steps(bad).fail("build", "no")
    assert history.irreversible(ago(world), first) == ()


def test_quarantine_lasts_until_something_else_is_live(world: World, make_plan: Make) -> None:
    first = world.completed(make_plan("1", "a" * 40))
    world.completed(make_plan("2", "b" * 40))
    assert history.quarantined(ago(world), "b" * 40) == ""
    rollback = back(world, first)
    assert history.quarantined(ago(world), "b" * 40) == rollback.id
    assert history.quarantined(ago(world), "a" * 40) == history.quarantined(ago(world), "d" * 40) == ""
    world.completed(make_plan("3", "d" * 40))
    assert history.quarantined(ago(world), "b" * 40) == ""


def test_images_of_retained_releases_stay(world: World, make_plan: Make) -> None:
    for number in range(1, 5):
        world.completed(make_plan(str(number)), number)
    failed = world.create(make_plan("bad"))
    world.steps(failed).begin("build")
    world.steps(failed).fail("build", "no")
    registry = "registry.example:5000/fleet"
    wanted = tuple(f"{registry}/{service}:{version}" for service in ("job", "web") for version in ("1", "2", "bad"))
    assert history.removable_builds(ago(world), 2) == wanted and history.removable_builds((), 2) == ()
    under_way = world.create(make_plan("1"))
    assert history.removable_builds(ago(world), 2) == tuple(name for name in wanted if not name.endswith(":1"))
    world.steps(under_way).fail("build", "no")
    gone = history.removable(ago(world), 2)
    assert {image.partition("@")[2] for image in gone} == {digest_of(1), digest_of(2)}
    back(world, ago(world)[0])
    # what the live release goes back to stays, however old it is
    assert digest_of(1) not in {image.partition("@")[2] for image in history.removable(ago(world), 1)}
    assert history.retained((), 3) == () and history.removable((), 3) == ()


def test_no_change(world: World, make_plan: Make) -> None:
    plan = make_plan()
    live = world.completed(plan)
    assert history.is_as(live, plan, live.rendered)
    assert not history.is_as(live, plan, {}) and not history.is_as(None, plan, live.rendered)
    assert not history.is_as(live, make_plan("1.0.1"), live.rendered)
    assert not history.is_as(live, plan, {"prod-workers": "0" * 64})


def test_known_images(world: World, make_plan: Make) -> None:
    world.completed(make_plan("1"), 1)
    unfinished = world.create(make_plan("2", **{"apps/web": "9" * 40}))
    found = history.known_images(ago(world))
    assert {image.digest for image in found.values()} == {digest_of(1)}
    assert unfinished.images[1].inputs not in found
