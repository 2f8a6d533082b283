# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans: the same for the same input, with hosts, services and batches in order, and the phases that apply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import planner
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import NO_MIGRATION, REUSES_IMAGES, Plan, plan_of
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.releases.conftest import GROUPS, YAML, World, digest_of

Make = Callable[..., Plan]


def test_order(make_plan: Make) -> None:
    plan = make_plan()
    assert plan.batches == (("pi-1", "pi-2"), ("pi-3", "pi-4"))
    assert [p.name for p in plan.projects] == ["prod-control_plane", "prod-workers"]
    assert [i.reference for i in plan.images] == ["registry.example:5000/fleet/job:1.0.0", "registry.example:5000/fleet/web:1.0.0"]
    assert plan.migrations[0].host == "pi-2" and plan.skips == {"migrate_post": NO_MIGRATION}
    assert plan_of(plan.as_table()) == plan and plan_of(plan.as_table()).digest == plan.digest


def test_same_input_same_plan(make_plan: Make) -> None:
    assert make_plan().digest == make_plan().digest != make_plan("1.0.1").digest


def test_known_images_are_not_built_again(make_plan: Make) -> None:
    first = make_plan()
    known = {image.inputs: replace(image, digest=digest_of(7)) for image in first.images if image.service == "web"}
    plan = make_plan("1.0.1", known=known)
    assert {i.service: i.digest for i in plan.images} == {"job": "", "web": digest_of(7)}
    other = make_plan("1.0.1", known=known, **{"apps/web": "9" * 40})
    assert {i.digest for i in other.images} == {""}


def test_rolling(make_plan: Make) -> None:
    plan = make_plan(yaml=YAML.replace("image: web\n", "image: web\n        rollout: {strategy: rolling, drain: 2}\n"))
    assert plan.projects[1].services == {"web": "rolling"} and plan.projects[1].drain == {"web": 2.0}
    assert plan_of(plan.as_table()) == plan


def test_nothing_built(make_plan: Make) -> None:
    yaml = "environments: {prod: {base: services, services: {web: {role: workers}}}}"
    plan = make_plan(yaml=yaml)
    assert plan.images == () and {"build", "push"} <= set(plan.skips)


@pytest.mark.parametrize(
    ("instead", "of", "said"),
    [
        ("role: nobody", "role: workers", "role nobody of the service web is no group"),
        ("nginx: {role: control_plane", "job: {role: control_plane", "nginx is not in the base project services"),
        (
            "build: {context: apps/job}, rollout: {strategy: rolling}}",
            "build: {context: apps/job}}",
            "job has ports .* and cannot be rolled",
        ),
        ("context: apps/none", "context: apps/web", "build context apps/none of web is no folder of the commit"),
    ],
)
def test_what_is_not_there(make_plan: Make, instead: str, of: str, said: str) -> None:
    with pytest.raises(PifleetError, match=said):
        make_plan(yaml=YAML.replace(of, instead))


@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.text("xyz123", min_size=1, max_size=3), unique=True)),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_batches_hold_each_host_once(roles: dict[str, list[str]], canary: int, size: int) -> None:
    found = planner.batches(roles, canary, size)
    hosts = [host for batch in found for host in batch]
    assert sorted(hosts) == sorted({host for hosts in roles.values() for host in hosts})
    assert all(found) and all(len(batch) <= size for batch in found[1:])
    shuffled = {role: sorted(hosts, reverse=True) for role, hosts in sorted(roles.items(), reverse=True)}
    assert planner.batches(shuffled, canary, size) == found


def test_rollback(world: World, make_plan: Make) -> None:
    target = world.completed(make_plan())
    plan = planner.rollback(target, {**GROUPS, "workers": ["pi-2", "pi-9"]}, 1, 1)
    assert (plan.kind, plan.version, plan.target_id) == ("rollback", "1.0.0", target.id)
    assert plan.skips["build"] == plan.skips["push"] == REUSES_IMAGES and "migrate_pre" in plan.skips
    assert plan.hosts == ("pi-1", "pi-2", "pi-9") and plan.migrations_of("migrate_pre") == ()
    assert {i.digest for i in plan.images} == {digest_of(1)}
