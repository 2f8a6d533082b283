# SPDX-License-Identifier: GPL-3.0-or-later
"""Why something changed or failed, from what modules return."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._live import text
from ansible_collections.pifleet.ops.plugins.plugin_utils._live.outcome import Outcome, cause_of, hint_of, why_of

PLAN = [{"kind": "file", "target": "/etc/k3s", "reason": "content"}, {"kind": "unit", "target": "k3s", "reason": "restart"}]


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({"plan": PLAN, "msg": "other"}, "file /etc/k3s (content), unit k3s (restart)"),
        (
            {"plan": {"actions": [{"stack": "web", "kind": "recreate", "target": "app", "reasons": [{"reason": "image_changed"}]}]}},
            "web recreate app (image_changed)",
        ),
        (
            {"plan": [{"kind": "file", "target": str(n), "reason": "r"} for n in range(6)]},
            "file 0 (r), file 1 (r), file 2 (r), file 3 (r), and 2 more",
        ),
        ({"diff": {"before": {"path": "/a", "mode": "0644"}, "after": {"path": "/a", "mode": "0600"}}}, "/a (mode)"),
        ({"diff": [{"before": "x", "after": "y", "after_header": "/etc/hosts"}, {"prepared": "z"}]}, "/etc/hosts"),
        ({"msg": "1 package installed\nmore"}, "1 package installed"),
        ({"dest": "/etc/x", "checksum": "1"}, "/etc/x"),
        ({"rc": 0, "cmd": ["x"], "stdout": ""}, "the command ran"),
        ({}, ""),
        (
            {"results": [{"changed": True, "item": "a", "dest": "/a"}, {"changed": False, "item": "b"}, {"changed": True, "item": "c"}]},
            "a: /a, c",
        ),
        ({"results": [{"changed": True, "item": "sesame", "_ansible_no_log": True, "msg": "sesame"}]}, "an item"),
        ({"msg": "x" * 400}, "x" * 159 + "…"),
    ],
)
def test_reason_of_a_change(result: dict[str, Any], why: str) -> None:
    assert why_of(result) == why


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        ({"msg": "broken"}, "broken"),
        ({"msg": "non-zero return code", "rc": 3, "stderr": "no such file", "stdout": "x"}, "non-zero return code\nno such file"),
        ({"msg": "non-zero return code", "rc": 3, "stderr": "", "stdout": "said here"}, "non-zero return code\nsaid here"),
        ({"msg": "MODULE FAILURE", "module_stderr": "Traceback …"}, "MODULE FAILURE\nTraceback …"),
        ({"msg": "y" * 5000}, "y" * 5000),
        ({}, "it did not say why"),
        (
            {"msg": "One or more items failed", "results": [{"item": "a", "failed": True, "msg": "no a"}, {"item": "b"}]},
            "a: no a",
        ),
    ],
)
def test_cause_of_a_failure_is_whole(result: dict[str, Any], cause: str) -> None:
    assert cause_of(result) == cause


def test_hint_is_the_modules_own_or_says_where_the_task_stands() -> None:
    assert hint_of({"hint": "Start it.", "results": [{"hint": "Start it."}, {"hint": "Wait."}]}) == "Start it. Wait."
    made = Outcome()
    made.fail("a", "Join", "failed", {"msg": "no", "hint": "Start it."}, where="roles/x.yml:3", hidden=False)
    made.fail("b", "Join", "failed", {"msg": "no"}, where="roles/x.yml:3", hidden=False)
    made.fail("c", "Join", "unreachable", {"msg": "no"}, where="roles/x.yml:3", hidden=False)
    assert [one.hint for one in made.failures] == [
        "Start it.",
        "The task stands in roles/x.yml:3.",
        "Is it switched on, and does `ssh` reach it?",
    ]


def test_nothing_of_a_hidden_result_is_told() -> None:
    made = Outcome()
    made.change("a", "Copy", {"dest": "sesame", "msg": "sesame"}, hidden=True)
    made.fail("a", "Copy", "failed", {"msg": "sesame", "hint": "sesame"}, where="", hidden=True)
    assert "sesame" not in str(made)


def test_equal_changes_of_several_hosts_are_one_row() -> None:
    made = Outcome()
    for host, place in [("b", "/x"), ("a", "/x"), ("a", "/y"), ("b", "/x")]:
        made.change(host, "Copy", {"dest": place}, hidden=False)
    assert text.changes(made.changes.values()) == ["b, a | Copy | /x", "a | Copy | /y"]


def test_failures_are_told_with_all_their_lines_and_what_survived_apart() -> None:
    made = Outcome()
    made.fail("a", "Join", "failed", {"msg": "first\nsecond", "hint": "Do it."}, where="", hidden=False)
    made.fail("b", "Try", "ignored", {"msg": "never mind"}, where="", hidden=False)
    made.fail("b", "Try", "rescued", {"msg": "saved"}, where="", hidden=False)
    assert text.failures(made.fatal) == ["a | Join | failed", "  cause: first", "         second", "  hint:  Do it."]
    assert text.survived(made.survived) == ["ignored: b | Try | never mind", "rescued: b | Try | saved"]


def test_longest_tasks_stand_beside_the_last_run() -> None:
    took = {("p", f"task {n}"): float(n) for n in range(8)}
    assert text.times(70.0, 65.0, took, {("p", "task 7"): 5.0})[:3] == [
        "took 1:10 (last time 1:05)",
        "  7 s (last time 5 s)  task 7",
        "  6 s  task 6",
    ]
    assert len(text.times(70.0, None, took, {})) == 6
    assert text.times(0.5, None, {("p", "short"): 0.4}, {}) == ["took 0 s"]
