# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import policy
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import Edit
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.policy import Tree

from tests.support.fix_runs import COMPOSE, made_profile, tree


@pytest.mark.parametrize(
    "path",
    [
        "../other/compose.yaml",
        "web/../../other/x",
        "/etc/passwd",
        "web/./x",
        "web//x",
        "",
        "web/x\n",
        "web\\x",
        "secrets.env",
        "other/requirements.txt",
        "WEB/requirements.txt",
        "web/Requirements.txt",
        "link",
        "web/link",
        "web/folder/x",
        "web/binary",
    ],
)
def test_what_is_not_a_listed_text_file_of_the_stack_is_refused(path: str) -> None:
    of = tree(**{"link": "120000", "web/link": "120000", "web/folder": "120000", "web/binary": "100644"})
    with pytest.raises(PifleetError):
        policy.refuse_path(path, of, made_profile(files=["compose.yaml", "web/**", "link"]))


def test_what_is_listed_may_be_changed() -> None:
    for path in ("compose.yaml", "web/requirements.txt", "web/deep/er/new.txt"):
        policy.refuse_path(path, tree(), made_profile())
    assert policy.allowed(tree({"web/x": "a"}, **{"web/x": "120000"}), made_profile()) == ["compose.yaml", "web/requirements.txt"]


def test_a_star_does_not_cross_folders() -> None:
    with pytest.raises(PifleetError, match="not among"):
        policy.refuse_path("web/deep/x.txt", tree(), made_profile(files=["web/*"]))


def refused(after: str, told: str, before: str = COMPOSE) -> None:
    with pytest.raises(PifleetError, match=told):
        policy.refuse_edits([Edit("stacks/shop/compose.yaml", before, after)], tree(), made_profile())


def test_of_the_compose_file_only_the_service_itself_may_change() -> None:
    refused(COMPOSE.replace("image: other:1", "image: other:2"), "more than the service web")
    refused(COMPOSE + "volumes: {data: {}}\n", "more than the service web")
    refused(COMPOSE + "  third: {image: x}\n", "more than the service web")
    refused("services: [", "no YAML")
    refused("[]", "no compose file")


def test_of_the_service_only_listed_keys_may_change() -> None:
    for line in ("privileged: true", "volumes: [/:/host]", "network_mode: host", "command: [sh]", "cap_add: [ALL]"):
        refused(COMPOSE.replace("    build: ./web\n", f"    build: ./web\n    {line}\n"), line.split(":", maxsplit=1)[0])
    refused(COMPOSE.replace("    build: ./web\n", "    build: {context: ./web, network: host}\n"), "build")
    changed = COMPOSE.replace("MODE: production", "MODE: test").replace("1.2.3", "1.2.4")
    policy.refuse_edits([Edit("stacks/shop/compose.yaml", COMPOSE, changed)], tree(), made_profile())


def test_a_shared_value_counts_for_each_that_has_it() -> None:
    shared = "x-env: &env {A: '1'}\nservices:\n  web: {image: a, environment: *env}\n  other: {image: b, environment: *env}\n"
    of = Tree("stacks/shop", {"compose.yaml": "100644"}, {"compose.yaml": shared})
    with pytest.raises(PifleetError, match="more than the service web"):
        policy.refuse_edits([Edit("stacks/shop/compose.yaml", shared, shared.replace("'1'", "'2'"))], of, made_profile())


def test_a_file_elsewhere_in_the_repository_is_refused() -> None:
    for path in ("stacks/other/compose.yaml", "fix_profiles/web.yml", "stacks/shop2/compose.yaml"):
        with pytest.raises(PifleetError, match="not below"):
            policy.refuse_edits([Edit(path, "", "x")], tree(), made_profile())


def test_a_risky_file_asks_for_an_approval_before_the_run() -> None:
    risky = made_profile(approval={"risky": ["compose*.yaml"]})
    assert policy.requirement([Edit("stacks/shop/compose.yaml", "", "x")], tree(), risky) == "pre-run"
    assert policy.requirement([Edit("stacks/shop/web/requirements.txt", "", "x")], tree(), risky) == "none"
    after = made_profile(approval={"requirement": "pre-verify"})
    assert policy.requirement([Edit("stacks/shop/compose.yaml", "", "x")], tree(), after) == "pre-verify"
