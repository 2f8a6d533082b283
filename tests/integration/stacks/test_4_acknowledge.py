# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate of policy `acknowledge`: a permission is for one plan of one stack, durable, and used up only by an apply that succeeded."""

from __future__ import annotations

import pytest

from tests.support.stack_node import DESIRED, STATE, Result, StackNode, compose, serves

GATED = {
    "acknowledged_by": "somebody",
    "path": DESIRED,
    "policy": "acknowledge",
    "revision": "a" * 40,
    "stable_seconds": 0.2,
    "timeout": 60,
}


@pytest.fixture(scope="module")
def clean_engine(engine: StackNode) -> StackNode:
    engine.clean()
    return engine


@pytest.fixture
def gated(clean_engine: StackNode) -> StackNode:
    """Two stacks, deployed; in one of them a change waits."""
    node = clean_engine
    node.stack("web", compose({"a": serves()}))
    node.stack("other", compose({"a": serves()}))
    node.reconcile().require()
    change(node, "1")
    return node


def change(node: StackNode, value: str) -> None:
    node.stack("web", compose({"a": serves(environment=f"{{A: '{value}'}}")}))


def waiting(node: StackNode, stack: str = "web") -> str:
    row = node.reconcile(policy="acknowledge").stacks[stack]
    assert row["awaiting_acknowledgement"] is True
    return str(row["plan_digest"])


def acknowledge(node: StackNode, digest: str, **more: object) -> Result:
    return node.acknowledge(**{"stack": "web", "plan_digest": digest, "expires_in": 600, **GATED, **more})


def environment(node: StackNode) -> list[str]:
    return [value for value in node.inspect()["web-a-1"]["Config"]["Env"] or () if value.startswith("A=")]


def test_acknowledging_applies_that_stack_at_once_and_says_how_it_went(gated: StackNode) -> None:
    digest = waiting(gated)
    assert digest == waiting(gated)
    assert environment(gated) == []
    result = acknowledge(gated, digest).require()
    assert result.changed
    assert environment(gated) == ["A=1"]
    assert gated.info().stacks["web"]["status"] == "synced"
    assert not gated.info().stacks["web"]["awaiting_acknowledgement"]
    assert not gated.reconcile(policy="acknowledge").require().changed


def test_one_for_plan_a_does_not_release_plan_b(gated: StackNode) -> None:
    first = waiting(gated)
    change(gated, "2")
    before = gated.identities()
    refused = acknowledge(gated, first)
    assert refused.failed
    assert waiting(gated) in refused.message
    assert not gated.reconcile(policy="acknowledge").require().changed
    assert gated.identities() == before


def test_one_that_was_given_is_void_when_the_plan_changes(gated: StackNode) -> None:
    first = crash_before_apply(gated)
    assert gated.sh(f"ls {STATE}/web.acknowledged")
    change(gated, "2")
    second = waiting(gated)
    assert second != first
    assert environment(gated) == []
    change(gated, "1")
    assert not gated.reconcile(policy="acknowledge").changed, "the void permission counted again"


def crash_before_apply(node: StackNode) -> str:
    """Acknowledge on a node whose engine cannot start what is new, so that the permission stays. The plan's digest."""
    node.sh("docker tag pifleet/lab-app:1 kept:1; docker rmi pifleet/lab-app:1 2>/dev/null || true")
    try:
        digest = waiting(node)
        assert acknowledge(node, digest).failed
        return digest
    finally:
        node.sh("docker tag kept:1 pifleet/lab-app:1; docker rmi kept:1")


def test_it_is_for_the_content_of_the_image(gated: StackNode) -> None:
    gated.sh("docker tag pifleet/lab-app:2 test/gated:1")
    gated.stack("web", compose({"a": serves("test/gated:1")}))
    digest = waiting(gated)
    gated.sh("docker tag pifleet/lab-app:3 test/gated:1")
    before = gated.identities()
    refused = acknowledge(gated, digest)
    assert refused.failed and waiting(gated) in refused.message
    assert gated.identities() == before
    acknowledge(gated, waiting(gated)).require()
    assert gated.inspect()["web-a-1"]["Image"] == gated.sh("docker image inspect --format '{{.Id}}' pifleet/lab-app:3").strip()
    gated.sh("docker rmi -f test/gated:1")


def test_a_failed_apply_does_not_use_it_up(gated: StackNode) -> None:
    gated.stack("web", compose({"a": serves("pifleet/not-there:1")}))
    digest = waiting(gated)
    result = acknowledge(gated, digest)
    assert result.failed
    assert "pifleet/not-there:1" in result.message + str(result.data)
    gated.sh("docker tag pifleet/lab-app:2 pifleet/not-there:1")
    again = gated.reconcile(policy="acknowledge").require()
    assert again.stacks["web"]["status"] == "synced"
    assert gated.inspect()["web-a-1"]["Config"]["Image"] == "pifleet/not-there:1"
    gated.sh("docker rmi -f pifleet/not-there:1")


def test_it_survives_a_crash_of_the_apply(gated: StackNode) -> None:
    gated.stack("web", compose({"a": serves(environment="{A: '1'}", command="[hang]"), "b": serves()}))
    digest = waiting(gated)
    run = gated.start("stack_acknowledge", **{"stack": "web", "plan_digest": digest, "expires_in": 600, **GATED})
    gated.wait_for("the apply", "docker ps -q --filter name=web-b | grep -q .")
    run.kill()
    again = gated.reconcile(policy="acknowledge").require()
    assert again.stacks["web"]["status"] == "synced"
    assert set(gated.inspect()) == {"web-a-1", "web-b-1", "other-a-1"}
    gated.sh("docker rm -f web-a-1")  # it ignores the request to stop


def test_one_that_expired_releases_nothing(gated: StackNode) -> None:
    gated.stack("web", compose({"a": serves("pifleet/not-there:1")}))
    digest = waiting(gated)
    acknowledge(gated, digest, expires_in=1)
    gated.sh("sleep 1.2; docker tag pifleet/lab-app:2 pifleet/not-there:1")
    before = gated.identities()
    assert not gated.reconcile(policy="acknowledge").changed
    assert gated.identities() == before
    gated.sh("docker rmi -f pifleet/not-there:1")


def test_it_is_for_one_stack(gated: StackNode) -> None:
    gated.stack("other", compose({"a": serves(environment="{A: '1'}")}))
    web, other = waiting(gated), waiting(gated, "other")
    assert web != other
    assert acknowledge(gated, web, stack="other").failed
    acknowledge(gated, web).require()
    assert waiting(gated, "other") == other


def test_bad_input_is_refused(gated: StackNode) -> None:
    digest = waiting(gated)
    before = gated.everything()
    for options, says in (
        ({"stack": "nosuch"}, "nosuch"),
        ({"stack": "../web"}, "../web"),
        ({"plan_digest": "nonsense"}, "nonsense"),
        ({"expires_in": 0}, "0"),
        ({"expires_in": -5}, "-5"),
        ({"acknowledged_by": ""}, "Nobody"),
    ):
        result = acknowledge(gated, digest, **options)
        assert result.failed
        assert says in result.message
        assert "Traceback" not in result.stderr + result.message
    assert gated.everything() == before


def test_check_mode_acknowledges_nothing(gated: StackNode) -> None:
    digest = waiting(gated)
    before = gated.everything()
    result = gated.run("stack_acknowledge", check=True, **{"stack": "web", "plan_digest": digest, "expires_in": 600, **GATED}).require()
    assert result.changed
    assert gated.everything() == before


def test_nobody_else_can_read_or_write_permissions(gated: StackNode) -> None:
    gated.stack("web", compose({"a": serves("pifleet/not-there:1")}))
    acknowledge(gated, waiting(gated))
    assert gated.sh(f"find {STATE} -perm /022 | head").strip() == ""
