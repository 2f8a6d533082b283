# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input gets one clear error of that stack: what, where, what to do. Others go on; nothing is half applied."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.stack_node import DESIRED, Result, StackNode, compose, serves

GOOD = compose({"a": serves()})
HUGE = "services: {a: {image: pifleet/lab-app:1}}\n" + "# padding\n" * 1_100_000

MOUNTED = compose({"a": serves(volumes="['./file:/file']")})


@dataclass(frozen=True)
class Case:
    """A stack that cannot be used. *files*: by path below its folder; *says*: what its error has, in lower case; *link*: where its ``file``
    points; *known*: a check knows it too."""

    files: Mapping[str, str]
    says: tuple[str, ...]
    link: str = ""
    known: bool = True


def case(text: str, *says: str, **more: Any) -> Case:
    return Case({"compose.yaml": text}, says, **more)


CASES: dict[str, Case] = {
    "another-mapping": case("- a\n- b\n", "another-mapping/compose.yaml"),
    "control-characters": case("services:\n  a: {image: 'x\x07y'}\n", "control-characters/compose.yaml"),
    "cycle": case(compose({"a": serves(depends_on="[b]"), "b": serves(depends_on="[a]")}), "cycle"),
    "extension-key": case(GOOD + "x-pifleet: {polcy: detect}\n", "polcy", "x-pifleet"),
    "extension-value": case(GOOD + "x-pifleet: {policy: maybe}\n", "maybe", "apply"),
    "huge": case(HUGE, "huge/compose.yaml", "mb"),
    "invalid-yaml": case("services: {a: {image: [}\n", "invalid-yaml/compose.yaml"),
    "link-absolute": case(MOUNTED, "link-absolute/file", link="/etc/shadow"),
    "link-compose": Case({}, ("link-compose/compose.yaml",), link="/srv/outside/compose.yaml"),
    "link-neighbour": case(MOUNTED, "link-neighbour/file", link="../good/compose.yaml"),
    "link-upwards": case(MOUNTED, "link-upwards/file", link="../../../../etc/hostname"),
    "no-bind-file": case(compose({"a": serves(volumes="['./gone.conf:/gone.conf']")}), "gone.conf"),
    "no-config-file": case(compose({"a": serves(configs="[c]")}) + "configs: {c: {file: ./gone.conf}}\n", "gone.conf"),
    "no-env-file": case(compose({"a": serves(env_file="[gone.env]")}), "gone.env"),
    "no-image": case(compose({"a": serves("pifleet/nowhere:9")}), "pifleet/nowhere:9", known=False),
    "no-network": case(compose({"a": serves(networks="[nowhere]")}), "nowhere"),
    "no-services": case("services: {}\n", "service"),
    "no-value": case(compose({"a": serves("'pifleet/lab-app:${APP_TAG}'")}), "app_tag"),
    "no-value-required": case(compose({"a": serves("'pifleet/lab-app:${APP_TAG:?say which}'")}), "app_tag"),
    "tab": case("services:\n\ta: {image: x}\n", "tab/compose.yaml"),
    "unknown-key": case(compose({"a": serves(imagge="x")}), "imagge"),
} | {name: case(GOOD, name.lower()) for name in ("Web", "-web", "_web", "web.site", "we b", "wéb", "web$HOME", "'web'")}
PAIR = {"a/b": ("a/b", "a-b"), "a-b": ("a/b", "a-b")}  # two folders, one project


@dataclass
class Outcome:
    """A check and a run over all cases, and what is on the node after each."""

    predicted: Result
    after_check: set[str]
    result: Result
    after_run: set[str]


@pytest.fixture(scope="module")
def outcome(engine: StackNode) -> Outcome:
    node = engine
    node.clean()
    node.write({"compose.yaml": GOOD}, at="/srv/outside")
    node.stack("good", GOOD)
    node.write({f"{name}/{file}": text for name, one in CASES.items() for file, text in one.files.items()})
    node.write({f"{name}/compose.yaml": GOOD for name in PAIR})
    for name, one in CASES.items():
        if one.link:
            node.sh(f"mkdir -p {DESIRED}/{name}; ln -s {one.link} {DESIRED}/{name}/{'file' if one.files else 'compose.yaml'}")
    predicted = node.reconcile(check=True)
    after_check = set(node.inspect())
    result = node.reconcile()
    return Outcome(predicted, after_check, result, set(node.inspect()))


def test_bad_stacks_fail_and_the_good_one_runs(outcome: Outcome) -> None:
    assert outcome.result.failed
    assert outcome.result.rc != 0
    assert outcome.result.statuses == dict.fromkeys([*CASES, *PAIR], "failed") | {"good": "synced"}
    assert outcome.after_run == {"good-a-1"}
    assert outcome.result.seconds < 180


def test_a_check_knows_them_too_and_touches_nothing(outcome: Outcome) -> None:
    assert outcome.predicted.failed
    wanted = {name for name, one in CASES.items() if one.known} | set(PAIR)
    assert {name for name, status in outcome.predicted.statuses.items() if status == "failed"} == wanted
    assert outcome.after_check == set()


@pytest.mark.parametrize("name", [*CASES, *PAIR])
def test_each_says_what_is_wrong_and_where(outcome: Outcome, name: str) -> None:
    error = outcome.result.stacks[name]["last_error"]
    assert "Traceback" not in error
    assert len(error) < 2000
    for word in CASES[name].says if name in CASES else PAIR[name]:
        assert word in error.lower(), error
    assert name in outcome.result.message
    assert "root:" not in error


def test_docker_made_no_folder_of_a_missing_file(engine: StackNode, outcome: Outcome) -> None:
    assert outcome.result.data
    assert engine.sh(f"find {DESIRED} -name 'gone*'") == ""


def test_a_deployed_stack_goes_on_running_while_its_file_is_bad(node: StackNode) -> None:
    node.stack("web", GOOD)
    node.reconcile().require()
    before = node.identities()
    for kind in ("invalid-yaml", "no-env-file", "no-bind-file", "no-image"):
        node.write({f"web/{name}": text for name, text in CASES[kind].files.items()})
        node.reconcile().require(failed=True)
        assert node.identities() == before
    node.stack("web", GOOD)
    assert not node.reconcile().require().changed


def test_the_folder_s_name_counts_and_the_first_file_as_for_compose(node: StackNode) -> None:
    node.write({"web/compose.yaml": f"name: other\n{GOOD}", "web/docker-compose.yml": compose({"b": serves()})})
    node.reconcile().require()
    assert set(node.inspect()) == {"web-a-1"}


def test_special_files_in_a_stack_s_folder_do_not_block_a_run(node: StackNode) -> None:
    node.stack("web", GOOD)
    node.sh(
        f"mkfifo {DESIRED}/web/pipe; mknod {DESIRED}/web/zero c 1 5; python3 -c 'import socket; socket.socket(1).bind(\"{DESIRED}/web/s\")'"
    )
    result = node.reconcile()
    assert result.data
    assert result.seconds < 60


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"policy": "perhaps"}, "policy"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"parallel": 0}, "parallel"),
        ({"stable_seconds": -1}, "stable_seconds"),
        ({"path": "relative/path"}, "path"),
        ({"nosuch": 1}, "nosuch"),
    ],
)
def test_a_wrong_option_is_refused_before_anything(node: StackNode, options: dict[str, object], says: str) -> None:
    node.stack("web", GOOD)
    result = node.reconcile(**options)
    assert result.failed
    assert says in result.message
    assert "Traceback" not in result.message + result.stderr
    assert node.inspect() == {}


def test_a_container_relabelled_into_another_stack_by_hand(node: StackNode) -> None:
    node.stack("web", compose({"a": serves(), "b": serves()}))
    node.stack("other", GOOD)
    node.reconcile().require()
    node.recreate("web-a-1", lambda labels: labels.update({"com.docker.compose.project": "other", "com.docker.compose.service": "zzz"}))
    # its name is free for the stack that it belongs to once it was taken out of the other
    assert set(node.reconcile().require().statuses.values()) == {"synced"}
    labels = {name: one["Config"]["Labels"] for name, one in node.inspect().items()}
    assert labels["web-a-1"]["com.docker.compose.project"] == "web"
    assert not node.reconcile().require().changed


def test_a_registry_that_is_down_stops_no_deploy_of_images_that_are_here(node: StackNode) -> None:
    node.sh("docker tag pifleet/lab-app:1 registry.invalid/app:1; docker tag pifleet/lab-app:2 127.0.0.1:1/app:2")
    node.stack("web", compose({"a": serves("registry.invalid/app:1"), "b": serves("127.0.0.1:1/app:2", pull_policy="always")}))
    node.reconcile(timeout=20).require()
    assert {one["Config"]["Image"] for one in node.inspect().values()} == {"registry.invalid/app:1", "127.0.0.1:1/app:2"}
    node.sh("docker rm -f $(docker ps -aq); docker rmi registry.invalid/app:1 127.0.0.1:1/app:2")


def test_a_variable_of_the_run_does_not_leak_into_a_stack(node: StackNode) -> None:
    leaks = ["PYTHONPATH", "PIFLEET_SECRET", "SSH_CLIENT", "DOCKER_CONFIG", "LANG"]
    node.stack("web", compose({"a": serves(environment="{" + ", ".join(f"{n}: '[${{{n}:-}}]'" for n in leaks) + "}")}))
    node.reconcile().require()
    assert {f"{name}=[]" for name in leaks} <= set(node.inspect()["web-a-1"]["Config"]["Env"])


def test_a_changed_volume_is_refused_with_a_way_out_that_works(node: StackNode) -> None:
    node.stack("web", compose({"a": serves(volumes="['data:/data']"), "b": serves()}, "volumes: {data: {}}"))
    node.reconcile().require()
    before = node.identities()
    node.stack("web", compose({"a": serves(volumes="['data:/data']"), "b": serves()}, "volumes: {data: {labels: {kept: 'yes'}}}"))
    for check in (True, False):
        result = node.reconcile(check=check).require(failed=True)
        assert node.identities() == before
        assert "web_data" in result.stacks["web"]["last_error"]
    [way_out] = re.findall(r"`(docker rm .*?)` on the node", result.stacks["web"]["last_error"])
    node.sh(way_out)
    assert node.reconcile().require().statuses == {"web": "synced"}
    assert node.sh("docker volume inspect --format '{{.Labels.kept}}' web_data").strip() == "yes"
    assert node.identities()["web-b-1"] == before["web-b-1"]
