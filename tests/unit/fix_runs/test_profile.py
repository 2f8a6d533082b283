# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import profile

from tests.support.fix_runs import PROFILE, made_profile


def test_a_profile_has_defaults_for_all_that_is_not_said() -> None:
    found = profile.parse(yaml.safe_dump({key: PROFILE[key] for key in ("stack", "service", "node", "files")}), "p.yml")
    assert (found.approval.requirement, found.health.interval, found.health.timeout, found.timeouts.restart) == ("none", 5, 120, 60)
    assert profile.parse_fleet("{}").two_person


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"files": []}, "files"),
        ({"files": ["../other/compose.yaml"]}, "files.0"),
        ({"files": ["/etc/passwd"]}, "files.0"),
        ({"files": ["web//x"]}, "files.0"),
        ({"stack": "../x"}, "stack"),
        ({"shell": "rm"}, "shell: there is no such key"),
        ({"approval": {"valid_for_minutes": 4}}, "valid_for_minutes"),
        ({"approval": {"requirement": "sometimes"}}, "requirement"),
        ({"risk": "high"}, "high risk.*requirement: pre-run"),
        ({"risk": "high", "approval": {"requirement": "pre-verify"}}, "high risk.*requirement: pre-run"),
        ({"health": {"url": "file:///etc/passwd"}}, "health.url"),
        ({"health": {"url": "http://x y/"}}, "health.url"),
        ({"health": {"checks": ["nothing"]}}, "nothing"),
        ({"health": {"checks": ["migrated"]}}, "takes parameters"),
        ({"commands": {"x": {"argv": ["{program}"], "parameters": {"program": "word"}}}}, "program"),
        ({"commands": {"x": {"argv": ["a", "{b}"]}}}, "different things"),
        ({"commands": {"x": {"argv": []}}}, "argv"),
        ({"keep": "forget"}, "keep"),
    ],
)
def test_what_is_not_in_the_schema_is_refused_by_its_place(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(PifleetError, match=told):
        made_profile(**changed)


def test_a_service_of_high_risk_waits_before_it_is_touched() -> None:
    assert made_profile(risk="high", approval={"requirement": "pre-run"}).risk == "high"
    assert made_profile(risk="medium", approval={"requirement": "pre-verify"}).risk == "medium"


@pytest.mark.parametrize("text", ["- a", "a: [", "stack: a\nstack: b\n", ""])
def test_what_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(PifleetError, match=r"p\.yml"):
        profile.parse(text, "p.yml")


@pytest.mark.parametrize("name", ["../web", "web/x", "", "Web", "a" * 80, "web\n"])
def test_the_name_of_a_service_is_no_path(name: str) -> None:
    with pytest.raises(PifleetError, match="no name of a service"):
        profile.place(name)


@pytest.mark.parametrize("value", ["; rm -rf /", "$(id)", "--force", "../x", "a b", "", "a\n", "`id`", "|x"])
def test_a_parameter_of_a_command_is_no_option_and_no_shell(value: str) -> None:
    command = made_profile().commands["migrated"]
    assert command.filled("migrated", {"table": "orders"}) == ["/app", "check", "orders"]
    with pytest.raises(PifleetError, match="table"):
        command.filled("migrated", {"table": value})
    with pytest.raises(PifleetError, match="takes"):
        command.filled("migrated", {"table": "a", "more": "b"})
