# SPDX-License-Identifier: GPL-3.0-or-later
"""Options as they come from an inventory, a command line, or the settings of the timer: never taken for something that they do not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import unattended
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import options
from ansible_collections.pifleet.ops.plugins.modules import stack_acknowledge, stack_host

ROLE = Path(stack_host.__file__).parents[2] / "roles/stacks"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("remove", "false"),
        ("remove_volumes", "no"),
        ("allow_empty", 0),
        ("timeout", "120"),
        ("timeout", True),
        ("stable_seconds", float("nan")),
        ("parallel", 1.5),
        ("parallel", True),
        ("scope", "web"),
        ("scope", [1]),
        ("path", 7),
        ("policy", "everything"),
    ],
)
def test_an_option_of_another_type_is_refused_and_named(name: str, value: Any) -> None:
    with pytest.raises(PifleetError, match=f"^{name} is "):
        options.settings({"path": "/x", name: value}, unattended=True)


def test_options_of_the_right_types_are_taken() -> None:
    given = options.settings({"path": "/x", "timeout": 120, "remove": False, "scope": ["w*"], "node_role": ["workers"], "home": None})
    assert (given.timeout, given.remove, given.scope, given.node_roles) == (120, False, ("w*",), ("workers",))


def test_texts_of_an_inventory_reach_the_timer_as_what_they_mean() -> None:
    texts = {
        "path": "/x",
        "remove": "false",
        "remove_volumes": "no",
        "allow_empty": "False",
        "timeout": "120",
        "parallel": "2",
        "scope": "a,b",
    }
    kept = json.loads(unattended.settings_text({"url": ""}, stack_host.options_of(texts), 5.0))["reconcile"]
    found = options.settings(kept, unattended=True)
    assert (found.remove, found.remove_volumes, found.allow_empty) == (False, False, False)
    assert (found.timeout, found.parallel, found.scope) == (120.0, 2, ("a", "b"))
    assert stack_host.options_of(None) is None


@pytest.mark.parametrize("wrong", [{"remove": "perhaps"}, {"timeout": "soon"}, {"path": None}, {"removes": True}])
def test_what_is_no_option_is_refused_before_it_is_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(PifleetError, match="reconcile: .*" + next(iter(wrong))):
        stack_host.options_of({"path": "/x", **wrong})


def _tasks(name: str) -> list[dict[str, Any]]:
    return yaml.safe_load((ROLE / f"tasks/{name}.yml").read_text())


def _of(name: str, module: str) -> dict[str, Any]:
    return next(task[f"pifleet.ops.{module}"] for task in _tasks(name) if f"pifleet.ops.{module}" in task)


def test_all_tasks_and_the_timer_judge_by_the_same_settings() -> None:
    timer = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__stacks_unattended"]
    reconciled = {**_of("main", "stack_reconcile"), "path": timer["path"]}
    own = {"home", "revision", "commit_message", "images_coming", "recorded"}  # of one run
    assert {k: v for k, v in reconciled.items() if k not in own} == timer
    assert _of("status", "stack_info") == timer
    acknowledged = _of("acknowledge", "stack_acknowledge")
    assert {k: v for k, v in acknowledged.items() if k not in ("stack", "plan_digest", "expires_in")} == timer


@pytest.mark.parametrize(
    ("result", "fails"),
    [
        ({"stacks": [{"status": "synced"}]}, False),
        # a check after a run that failed: the module predicts, and does not fail
        ({"stacks": [{"status": "failed"}]}, False),
        ({"stacks": [{"status": "failed"}], "msg": "web failed"}, True),
        ({"msg": "Docker is down"}, True),
        ({"rc": 137}, True),
        ({"skipped": True}, False),
    ],
)
def test_the_role_fails_where_the_module_did(result: dict[str, Any], fails: bool) -> None:
    task = _tasks("tell")[-1]
    env = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    env.tests["skipped"] = lambda value: bool(value.get("skipped"))
    held = all(env.compile_expression(when, undefined_to_none=False)(__stacks_result=result) for when in task["when"])
    assert held is fails
    if held:
        assert env.from_string(task["ansible.builtin.fail"]["msg"]).render(__stacks_result=result).strip()


class _Shown:
    revision, commit_message = "abc", "Message"


def test_what_an_acknowledgement_applies_is_labelled_with_the_revision_in_force() -> None:
    asked = {"path": "/x", "revision": "", "commit_message": ""}
    assert stack_acknowledge.with_revision(asked, _Shown()) == {"path": "/x", "revision": "abc", "commit_message": "Message"}
    given = {"path": "/x", "revision": "mine", "commit_message": "My message"}
    assert stack_acknowledge.with_revision(given, _Shown()) == given
