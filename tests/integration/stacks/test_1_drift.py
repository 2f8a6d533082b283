# SPDX-License-Identifier: GPL-3.0-or-later
"""Each drift reason, produced on a node by doing the thing: predicted, detected, gated, repaired.

One stack for each case. All are deployed, then all are disturbed, then five runs look at all of them at once: a report must name each
case's reasons and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.stack_node import LABEL, Result, StackNode, compose, serves

OLD, NEW = "a" * 40, "b" * 40
HEALTH = "{test: [CMD, /app, health], interval: 1s, retries: 1, start_period: 5s}"
PAIR = compose({"a": serves(), "b": serves()})
BIND = """\
services:
  a:
    image: pifleet/lab-app:1
    volumes: [./settings.conf:/settings.conf:ro]
  b: {image: pifleet/lab-app:1}
"""
CONFIG = """\
services:
  a: {image: pifleet/lab-app:1, configs: [settings]}
  b: {image: pifleet/lab-app:1}
configs: {settings: {file: ./settings.conf}}
"""
SECRET = """\
services:
  a: {image: pifleet/lab-app:1, secrets: [settings]}
  b: {image: pifleet/lab-app:1}
secrets: {settings: {file: ./settings.conf}}
"""
NETWORKS = """\
services:
  a: {image: pifleet/lab-app:1, networks: [%s]}
  b: {image: pifleet/lab-app:1, networks: [front]}
networks: {front: {}, back: {}}
"""
VOLUMES = """\
services:
  a: {image: pifleet/lab-app:1, volumes: ["%s:/data"]}
  b: {image: pifleet/lab-app:1, volumes: ["old:/data"]}
volumes: {old: {}, new: {}}
"""


@dataclass(frozen=True)
class Case:
    """A stack, what happens to it, and what that is called. *before*/*after*: files of the stack; *do*: a script on the node."""

    before: Mapping[str, str]
    reasons: frozenset[tuple[str, str]]
    after: Mapping[str, str] = field(default_factory=dict)
    do: str | Callable[[StackNode], None] = ""
    says: str = ""
    untouched: str = "b"  # the service whose container stays as it is, if any


def case(text: str, reason: str, *, service: str = "a", **more: Any) -> Case:
    files = dict(more.pop("files", {}))
    return Case({"compose.yaml": text, **files}, frozenset({(service, reason)}), **more)


def tampered(node: StackNode) -> None:
    def forge(labels: dict[str, str]) -> None:
        labels[f"{LABEL}revision"] = "c" * 40

    node.recreate("label-edited-a-1", forge)


def unlabelled(node: StackNode) -> None:
    def strip(labels: dict[str, str]) -> None:
        for name in [name for name in labels if name.startswith(LABEL)]:
            del labels[name]

    node.recreate("label-removed-a-1", strip)


CASES: dict[str, Case] = {
    "bind-file": case(BIND, "mounted_file_changed", files={"settings.conf": "one\n"}, after={"settings.conf": "two\n"}),
    "config-edited": case(
        compose({"a": serves(environment="{GREETING: hallo}"), "b": serves()}),
        "config_changed",
        after={"compose.yaml": compose({"a": serves(environment="{GREETING: salut}"), "b": serves()})},
        says="environment",
    ),
    "config-file": case(CONFIG, "mounted_file_changed", files={"settings.conf": "one\n"}, after={"settings.conf": "two\n"}),
    "crashing": case(
        compose({"a": serves(command="[serve, -crash-if, /crash]", restart="always"), "b": serves()}),
        "crash_looping",
        do="echo >/tmp/crash; docker cp -q /tmp/crash crashing-a-1:/crash; docker restart -t 0 crashing-a-1; "
        "until [ $(docker inspect -f '{{.RestartCount}}' crashing-a-1) -ge 3 ]; do sleep 0.2; done",
    ),
    "digest": case(
        compose({"a": serves("test/digest:1"), "b": serves()}),
        "image_digest_changed",
        do="docker tag pifleet/lab-app:3 test/digest:1",
    ),
    "env-file": case(
        compose({"a": serves(env_file="[app.env]"), "b": serves()}),
        "env_file_changed",
        files={"app.env": "TOKEN=first-value\n"},
        after={"app.env": "TOKEN=second-value\n"},
    ),
    "extra": case(PAIR, "service_unexpected", after={"compose.yaml": compose({"b": serves()})}),
    "image": case(PAIR, "image_changed", after={"compose.yaml": compose({"a": serves("pifleet/lab-app:2"), "b": serves()})}),
    "label-edited": case(PAIR, "label_tampered", do=tampered),
    "label-removed": case(PAIR, "label_tampered", do=unlabelled),
    "limits": case(PAIR, "limits_changed", do="docker update --memory 64m --memory-swap 64m limits-a-1"),
    "misnamed": case(PAIR, "container_misnamed", do="docker rename misnamed-a-1 0123456789ab_misnamed-a-1"),
    "missing": case(PAIR, "service_missing", do="docker rm -f missing-a-1"),
    "network-left": case(PAIR, "network_changed", do="docker network disconnect network-left_default network-left-a-1"),
    "network-moved": case(NETWORKS % "front", "network_changed", after={"compose.yaml": NETWORKS % "back"}),
    "never-started": case(PAIR, "never_started", do=lambda node: node.recreate("never-started-a-1", start=False)),
    "new-file": Case(
        {"compose.yaml": PAIR},
        frozenset({("a", "volume_changed"), ("a", "mounted_file_changed")}),
        after={"compose.yaml": BIND, "settings.conf": "one\n"},
        untouched="",
    ),
    "orphan": case(
        PAIR,
        "orphan",
        service="stray",
        do="docker run -d --name stray -l com.docker.compose.project=orphan -l com.docker.compose.service=stray pifleet/lab-app:1",
    ),
    "paused": case(PAIR, "stopped", do="docker pause paused-a-1"),
    "replicas-few": case(compose({"a": serves(deploy="{replicas: 2}"), "b": serves()}), "replicas", do="docker rm -f replicas-few-a-2"),
    "replicas-many": case(
        compose({"a": serves(deploy="{replicas: 2}"), "b": serves()}),
        "replicas",
        after={"compose.yaml": compose({"a": serves(), "b": serves()})},
    ),
    "secret-file": case(SECRET, "mounted_file_changed", files={"settings.conf": "one\n"}, after={"settings.conf": "two\n"}),
    "sick": case(
        compose({"a": serves(healthcheck=HEALTH), "b": serves()}),
        "unhealthy",
        do="curl -sS http://$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' sick-a-1):8080/sicken; "
        "until [ $(docker inspect -f '{{.State.Health.Status}}' sick-a-1) = unhealthy ]; do sleep 0.2; done",
    ),
    "stopped": case(PAIR, "stopped", do="docker stop -t 0 stopped-a-1"),
    "volume": case(VOLUMES % "old", "volume_changed", after={"compose.yaml": VOLUMES % "new"}),
}
GONE = "gone"  # all its containers are removed by hand
FRESH = "fresh"  # its folder is new


@dataclass
class Story:
    """What five runs said, and how the node looked between them."""

    deployed: Result
    settled: Result
    predicted: Result
    detected: Result
    gated: Result
    repaired: Result
    again: Result
    disturbed: dict[str, tuple[str, str]]
    reported: dict[str, tuple[str, str]]
    after: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def story(engine: StackNode) -> Story:
    node = engine
    node.clean()
    node.sh("docker tag pifleet/lab-app:2 test/digest:1")
    node.write({f"{name}/{file}": text for name, one in CASES.items() for file, text in one.before.items()})
    node.stack(GONE, PAIR)
    deployed = node.reconcile(revision=OLD).require()
    settled = node.reconcile(revision=OLD).require()
    for one in CASES.values():
        if isinstance(one.do, str):
            node.sh(one.do or "true")
        else:
            one.do(node)
    node.sh(f"docker ps -aq --filter label=com.docker.compose.project={GONE} | xargs docker rm -f")
    node.write({f"{name}/{file}": text for name, one in CASES.items() for file, text in one.after.items()})
    node.stack(FRESH, PAIR)
    disturbed = still(node)
    predicted = node.reconcile(revision=NEW, check=True, diff=True)
    detected = node.reconcile(revision=NEW, policy="detect")
    gated = node.reconcile(revision=NEW, policy="acknowledge")
    reported = still(node)
    repaired = node.reconcile(revision=NEW)
    after = node.inspect()
    again = node.reconcile(revision=NEW)
    return Story(deployed, settled, predicted, detected, gated, repaired, again, disturbed, reported, after)


def still(node: StackNode) -> dict[str, tuple[str, str]]:
    """Containers but the one that Docker itself keeps restarting."""
    return {name: identity for name, identity in node.identities().items() if name != "crashing-a-1"}


def expected() -> dict[str, set[tuple[str, str]]]:
    return {name: set(one.reasons) for name, one in CASES.items()} | {
        GONE: {("", "stack_missing")},
        FRESH: {("", "stack_missing")},
    }


def test_the_first_run_deploys_all_and_the_second_changes_nothing(story: Story) -> None:
    assert set(story.deployed.statuses.values()) == {"synced"}
    assert story.deployed.changed
    assert not story.settled.changed
    assert story.settled.drift == {}


@pytest.mark.parametrize("name", sorted(expected()))
@pytest.mark.parametrize("run", ["predicted", "detected", "gated"])
def test_a_run_names_the_reasons_and_no_others(story: Story, run: str, name: str) -> None:
    result: Result = getattr(story, run)
    assert set(result.require().drift.get(name, [])) == expected()[name]
    assert result.stacks[name]["status"] == ("missing" if ("", "stack_missing") in expected()[name] else "drifted")


@pytest.mark.parametrize("name", sorted(n for n, one in CASES.items() if one.says))
def test_the_detail_says_what_changed(story: Story, name: str) -> None:
    details = " ".join(one["detail"] for one in story.detected.stacks[name]["drift"])
    assert CASES[name].says in details


def test_values_are_in_no_report(story: Story) -> None:
    for result in (story.predicted, story.detected, story.gated, story.repaired):
        for value in ("hallo", "salut", "first-value", "second-value"):
            assert value not in str(result.data)


def test_reports_change_nothing(story: Story) -> None:
    assert story.reported == story.disturbed
    assert not story.detected.changed
    assert not story.gated.changed


def test_the_gate_names_a_digest_for_each_stack(story: Story) -> None:
    assert all(row["awaiting_acknowledgement"] for row in story.gated.stacks.values())
    assert all(len(row["plan_digest"]) >= 16 for row in story.gated.stacks.values())
    assert len({row["plan_digest"] for row in story.gated.stacks.values()}) == len(story.gated.stacks)
    assert not any(row["awaiting_acknowledgement"] for row in story.detected.stacks.values())


def test_the_prediction_is_what_the_repair_did(story: Story) -> None:
    assert story.predicted.changed
    assert story.predicted.data["plan"] == story.repaired.data["plan"]
    for name, row in story.predicted.stacks.items():
        assert (row["changed"], row["actions"]) == (story.repaired.stacks[name]["changed"], story.repaired.stacks[name]["actions"]), name


@pytest.mark.parametrize("name", sorted(expected()))
def test_it_is_repaired(story: Story, name: str) -> None:
    row = story.repaired.require().stacks[name]
    assert (row["status"], row["planned"], row["changed"]) == ("synced", [], True)
    assert set(story.repaired.drift[name]) == expected()[name], "what was repaired is told"


def test_all_containers_run_where_they_belong(story: Story) -> None:
    assert {one["State"]["Status"] for one in story.after.values()} == {"running"}
    assert not [one for one in story.after.values() if one["State"].get("Health", {}).get("Status", "healthy") != "healthy"]
    services = {
        (one["Config"]["Labels"]["com.docker.compose.project"], one["Config"]["Labels"]["com.docker.compose.service"])
        for one in story.after.values()
    }
    assert services == {(name, service) for name in expected() for service in "ab"} - {("extra", "a")}
    assert all(
        name
        == f"{labels['com.docker.compose.project']}-{labels['com.docker.compose.service']}-{labels['com.docker.compose.container-number']}"
        for name, labels in ((name, one["Config"]["Labels"]) for name, one in story.after.items())
    )
    assert story.after["image-a-1"]["Config"]["Image"] == "pifleet/lab-app:2"
    assert story.after["limits-a-1"]["HostConfig"]["Memory"] == 0
    assert list(story.after["network-left-a-1"]["NetworkSettings"]["Networks"]) == ["network-left_default"]
    assert list(story.after["network-moved-a-1"]["NetworkSettings"]["Networks"]) == ["network-moved_back"]
    assert [mount["Name"] for mount in story.after["volume-a-1"]["Mounts"]] == ["volume_new"]
    assert "TOKEN=second-value" in story.after["env-file-a-1"]["Config"]["Env"]
    assert "replicas-few-a-2" in story.after
    assert "replicas-many-a-2" not in story.after


@pytest.mark.parametrize("name", sorted(name for name, one in CASES.items() if one.untouched))
def test_the_neighbour_was_not_touched(story: Story, name: str) -> None:
    container = f"{name}-{CASES[name].untouched}-1"
    assert (story.after[container]["Id"], story.after[container]["State"]["StartedAt"]) == story.disturbed[container]


def test_the_next_run_has_nothing_to_do(story: Story) -> None:
    assert not story.again.require().changed
    assert story.again.drift == {}
    assert set(story.again.statuses.values()) == {"synced"}
    assert {row["revision"] for row in story.again.stacks.values()} == {NEW}
