# SPDX-License-Identifier: GPL-3.0-or-later
"""Removal: only of what is ours, only when asked for, volumes only when asked for too, and never because desired state cannot be read."""

from __future__ import annotations

import pytest

from tests.support.stack_node import DESIRED, StackNode, compose, serves

DATA = """\
services:
  a: {image: pifleet/lab-app:1, volumes: ["data:/data"], stop_grace_period: 1s}
volumes: {data: {}}
"""


@pytest.fixture(scope="module")
def engine_with_others(engine: StackNode) -> StackNode:
    """A node with a Compose project and a container that are not ours."""
    engine.clean()
    engine.write({"foreign/compose.yaml": compose({"a": serves()})}, at="/srv")
    engine.sh("cd /srv/foreign && docker compose up -d; docker run -d --name lonely pifleet/lab-app:1")
    return engine


@pytest.fixture
def two(engine_with_others: StackNode) -> StackNode:
    """The same with two stacks of ours, one of which has a volume."""
    node = engine_with_others
    node.sh(f"rm -rf {DESIRED}; mkdir -p {DESIRED}")
    node.stack("keep", compose({"a": serves()}))
    node.stack("old", DATA)
    node.reconcile().require()
    return node


def test_by_default_it_is_only_reported(two: StackNode) -> None:
    two.sh(f"rm -rf {DESIRED}/old")
    before = two.identities()
    for _ in range(2):
        result = two.reconcile().require()
        assert result.drift == {"old": [("", "stack_unexpected")]}
        assert (result.stacks["old"]["status"], result.changed) == ("drifted", False)
    assert two.identities() == before


def test_removed_when_asked_for_with_the_volume_kept(two: StackNode) -> None:
    two.sh(f"rm -rf {DESIRED}/old")
    predicted = two.reconcile(remove=True, check=True).require()
    assert predicted.changed
    before = two.identities()
    result = two.reconcile(remove=True).require()
    assert predicted.data["plan"] == result.data["plan"]
    assert result.stacks["old"]["status"] == "missing"
    after = two.identities()
    assert after == {name: identity for name, identity in before.items() if not name.startswith("old-")}
    assert "old_data" in two.sh("docker volume ls -q").split()
    assert "old_default" not in two.sh("docker network ls --format '{{.Name}}'").split()
    assert not two.reconcile(remove=True).require().changed


def test_the_volume_goes_when_that_is_asked_for_too(two: StackNode) -> None:
    two.sh(f"rm -rf {DESIRED}/old")
    two.reconcile(remove=True, remove_volumes=True).require()
    assert "old_data" not in two.sh("docker volume ls -q").split()
    assert {"keep-a-1", "foreign-a-1", "lonely"} == set(two.inspect())


def test_what_a_failed_removal_left_is_removed_by_the_next_run(two: StackNode) -> None:
    two.sh(f"rm -rf {DESIRED}/old")
    plugin = "/usr/local/lib/docker/cli-plugins/docker-compose"
    fails = """\
        #!/bin/sh
        case " $* " in
        *" down "*)
            docker rm -f old-a-1 >&2
            echo 'failed to remove network old_default' >&2
            exit 1 ;;
        esac
        exec /usr/libexec/docker/cli-plugins/docker-compose "$@"
    """
    two.write({plugin: fails}, at="/")
    two.sh(f"chmod 755 {plugin}")
    try:
        failed = two.reconcile(remove=True).require(failed=True)
    finally:
        two.sh(f"rm {plugin}")
    assert failed.stacks["old"]["status"] == "failed"
    assert "old_default" in failed.stacks["old"]["last_error"]
    assert "old-a-1" not in two.inspect()
    assert "old_default" in two.sh("docker network ls --format '{{.Name}}'").split()
    assert two.info().stacks["old"]["status"] == "failed"
    assert two.reconcile(remove=True, check=True).require().changed
    assert two.reconcile(remove=True).require().stacks["old"]["status"] == "missing"
    assert "old_default" not in two.sh("docker network ls --format '{{.Name}}'").split()
    assert "old_data" in two.sh("docker volume ls -q").split()
    assert not two.reconcile(remove=True).require().changed


def test_an_empty_or_unreadable_desired_state_removes_nothing(two: StackNode) -> None:
    before = two.identities()
    two.sh(f"cp -a {DESIRED} /srv/kept")
    for broken in (f"mkdir {DESIRED}", "true", f"touch {DESIRED}", f"ln -s /nowhere {DESIRED}"):
        two.sh(f"rm -rf {DESIRED}; {broken}")
        for check in (True, False):
            result = two.reconcile(remove=True, remove_volumes=True, check=check)
            assert not result.data.get("changed")
            assert DESIRED in result.message + str(result.data.get("warnings"))
            assert "Traceback" not in result.message + result.stderr
            if not result.failed:
                assert "allow_empty" in str(result.data["warnings"])
                assert result.statuses == {"keep": "drifted", "old": "drifted"}
        assert two.identities() == before
    two.sh(f"rm -rf {DESIRED}; mv /srv/kept {DESIRED}")
    assert not two.reconcile(remove=True).require().changed


def test_an_empty_one_removes_all_of_ours_when_that_is_allowed(two: StackNode) -> None:
    two.sh(f"rm -rf {DESIRED}/*")
    two.reconcile(remove=True, allow_empty=True).require()
    assert set(two.inspect()) == {"foreign-a-1", "lonely"}


def test_one_broken_stack_is_not_taken_for_a_removed_one(two: StackNode) -> None:
    before = two.identities()
    for broken in ("services: [", "", "services: {}"):
        two.stack("old", broken)
        result = two.reconcile(remove=True).require(failed=True)
        assert result.stacks["old"]["status"] == "failed"
        assert result.stacks["keep"]["status"] == "synced"
    assert two.identities() == before


def test_a_project_of_a_release_is_not_unexpected(two: StackNode) -> None:
    two.recreate("old-a-1", lambda labels: labels.update({"io.pifleet.stack.owner": "release/production"}))
    two.sh(f"rm -rf {DESIRED}/old")
    before = two.identities()
    result = two.reconcile(remove=True, remove_volumes=True).require()
    assert not result.changed
    assert result.drift == {}
    assert two.identities() == before
    two.sh("docker rm -f old-a-1")


def test_a_foreign_project_of_a_stack_s_name_is_not_taken_over(two: StackNode) -> None:
    before = two.identities()
    two.stack("foreign", compose({"a": serves("pifleet/lab-app:2")}))
    for check in (True, False):
        result = two.reconcile(check=check).require(failed=True)
        assert result.statuses == {"foreign": "failed", "keep": "synced", "old": "synced"}
        assert "foreign" in result.stacks["foreign"]["last_error"]
    two.sh(f"rm -rf {DESIRED}/foreign {DESIRED}/old")
    two.reconcile(remove=True, check=True).require()
    assert two.identities() == before


def test_removal_under_the_gate_needs_an_acknowledgement_of_its_own(two: StackNode) -> None:
    two.sh(f"rm -rf {DESIRED}/old")
    gated = two.reconcile(remove=True, policy="acknowledge").require()
    assert gated.stacks["old"]["awaiting_acknowledgement"] is True
    digest = gated.stacks["old"]["plan_digest"]
    assert "old-a-1" in two.inspect()
    given = {"stack": "old", "plan_digest": digest, "expires_in": 600, "acknowledged_by": "somebody"}
    two.acknowledge(**given, path=DESIRED, remove=True, policy="acknowledge").require()
    assert "old-a-1" not in two.inspect()
    assert "old_data" in two.sh("docker volume ls -q").split()
