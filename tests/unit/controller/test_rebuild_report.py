# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a rebuild: what a person and a program read in it, and that nothing in a record can break it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import cleaned
from ansible_collections.pifleet.ops.plugins.plugin_utils._rebuild_report import (
    NEEDED,
    STEPS,
    TEMPLATE,
    Attempt,
    Rebuild,
    Step,
    from_json,
    merged,
    to_json,
    to_markdown,
    verify,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.rebuild_details import DETAILS, NEW_KEY, OLD_KEY

TEXT = TEMPLATE.read_text()


def at(second: int) -> str:
    return f"2025-01-02T03:{second // 60:02d}:{second % 60:02d}.000001Z"


def attempt(run_id: str, begin: int, steps: int = 7, details: dict[str, dict[str, Any]] = DETAILS, first: int = 1) -> Attempt:
    """Steps of 10 seconds each; where there are fewer than all, the last one was interrupted."""
    whole = steps == len(STEPS)
    made = [
        Step(first + n, name, at(begin + 10 * n), at(begin + 10 * n + 10), "ok", details.get(name, {}))
        for n, name in enumerate(STEPS[:steps])
    ]
    if not whole:
        made[-1] = replace(made[-1], ended_at=None, outcome="interrupted")
    return Attempt(run_id, "operator", "site.yml", "a" * 40, False, "0.1.0", at(begin), tuple(made))


def record(*attempts: Attempt, budget: float | None = 60.0) -> Rebuild:
    made = attempts or (attempt("run-1", 0),)
    return Rebuild(
        rebuild_id="rebuild-1",
        host="pi-4",
        node="pi-4.local",
        role="agent",
        hardware="Raspberry Pi 4",
        status="succeeded",
        reasons=("the host has no k3s data", "another machine id"),
        budget_minutes=budget,
        started_at=made[0].started_at,
        ended_at=made[-1].ended_at,
        attempts=made,
    )


def shown(of: Rebuild) -> str:
    return to_markdown(of, TEXT)


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text.split(f"\n## {title}\n")[1], flags=re.M)[0]


def test_all_is_told() -> None:
    text = shown(record())
    for wanted in (
        "# Rebuild of pi-4.local",
        "| Verdict | succeeded, within the budget |",
        "| Hardware | Raspberry Pi 4 |",
        "| Reasons | the host has no k3s data; another machine id |",
        "| Requester | operator |",
        "| Runs | run-1 |",
        f"| Revision | {'a' * 40} |",
        "| k3s before | v1.34.1+k3s1 |",
        "| k3s after | v1.34.1+k3s1 |",
        "| Budget | 60.0 minutes since the first attempt |",
        "| This run took | 70.000 s |",
        f"| retire | {at(10)} | {at(20)} | 10.000 s | ok |",
        f"| **sum** | {at(0)} | {at(70)} | 70.000 s | |",
        "| pvc-1 | media/library | 5Gi | local-path | /var/lib/rancher/x |",
        "- secret kube-system/pi-4.local.node-password.k3s",
        "| media/player-5d9 | ReplicaSet/player | Running | yes |",
        "makes them again: default/by-hand",
        f"| old | ssh-ed25519 | {OLD_KEY} | known_hosts:3 |",
        f"| new | ssh-ed25519 | {NEW_KEY} | offered by the node |",
        "Replaced: yes",
        f"| machine_id | {'0' * 32} | {'1' * 32} | **differs** |",
        "| labels | kubernetes.io/arch=arm64, pifleet.io/disk=ssd | kubernetes.io/arch=arm64, pifleet.io/disk=ssd | same |",
        "```diff\n-machine_id: 000\n+machine_id: 111\n```",
        "The record is whole",
        "| reviewer | date | signature |",
    ):
        assert wanted in text, wanted
    assert "default/by-hand" in section(text, "Workloads").split("### Pods after")[0]
    assert "default/by-hand" not in section(text, "Workloads").split("### Pods after")[1].split("Lost")[0]
    assert not re.search(r"\{[{%#]|[#%}]\}", text), "nothing of the template's language is left"


def test_every_table_is_one() -> None:
    """Each row has as many cells as its header, and no blank line tears a table apart."""
    for block in re.findall(r"(?:^\|.*\n)+", shown(record(attempt("run-1", 0, 3), attempt("run-2", 100, first=4))), re.M):
        rows = block.splitlines()
        assert re.fullmatch(r"[|\s-]+", rows[1]), block
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, block


def test_each_attempt_is_told() -> None:
    of = record(attempt("run-1", 0, 3), attempt("run-2", 100, details={}, first=4))
    text = shown(of)
    assert "### Attempt 1: run run-1" in text and "### Attempt 2: run run-2" in text
    assert f"| prepare | {at(20)} | unknown | unknown | interrupted |" in text
    assert "| Runs | run-1, run-2 |" in text
    assert "| This run took | 70.000 s |" in text and "| Since the first attempt | 170.000 s |" in text
    assert "pvc-1" in text, "what the first attempt saw is not lost"


def test_node_that_the_cluster_did_not_know() -> None:
    details = {
        **DETAILS,
        "detect": {"node_before": None, "pods_before": [], "volumes": [], "host_key": None},
        "retire": {"removed": [], "snapshot": None},
    }
    of = record(attempt("run-1", 0, details=details), budget=None)
    text = shown(of)
    assert verify(of) == []
    assert "| k3s before | unknown |" in text
    assert "| Verdict | succeeded |" in text and "| Budget | none |" in text
    assert "No volume" in section(text, "Data lost")
    assert "Nothing." in section(text, "What was removed")
    assert "They did not change." in section(text, "SSH host keys")


def test_budget() -> None:
    assert [record(budget=b).within_budget for b in (None, 70 / 60, 69.9 / 60)] == [None, True, False]
    assert "**over** the budget" in shown(record(budget=1.0))
    resumed = [attempt("run-1", 0, 3), attempt("run-2", 100, details={}, first=4)]
    assert [record(*resumed, budget=b).within_budget for b in (1.2, 170 / 60, 169.9 / 60)] == [False, True, False], "the node was away"
    assert "| This run took | 70.000 s |" in shown(record(*resumed))
    assert "| Since the first attempt | 170.000 s |" in shown(record(*resumed))


def test_what_is_wrong_with_the_record_is_told() -> None:
    of = record()
    broken = replace(of, attempts=(replace(of.attempts[0], steps=of.attempts[0].steps[:3] + of.attempts[0].steps[4:]),))
    assert verify(broken) == [
        "the record of step number 4 is missing",
        "run run-1: step install is missing",
        f"run run-1: step join begins at {at(40)}, and what was before it ended at {at(30)}",
        "the steps of run run-1 take 60.000000 s together, the whole 70.000000 s",
        "step install lacks the detail version",
    ]
    assert "- run run-1: step install is missing" in section(shown(broken), "Evidence")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_missing_step_of_an_earlier_attempt_is_found_out(number: int) -> None:
    one, two = attempt("run-1", 0, 3), attempt("run-2", 100, first=4)
    broken = replace(one, steps=tuple(s for s in one.steps if s.number != number))
    assert verify(record(one, two)) == []
    assert verify(record(broken, two))


def test_microsecond_too_few_is_found_out() -> None:
    of = record()
    assert verify(replace(of, ended_at=at(70).replace("000001Z", "000002Z"))) == [
        "the steps of run run-1 take 70.000000 s together, the whole 70.000001 s"
    ]


@pytest.mark.parametrize(("step", "key"), [(step, key) for step, keys in NEEDED.items() for key in keys])
def test_detail_that_is_missing_or_garbage_is_found_out(step: str, key: str) -> None:
    without = {**DETAILS, step: {k: v for k, v in DETAILS[step].items() if k != key}}
    assert verify(record(attempt("run-1", 0, details=without))) == [f"step {step} lacks the detail {key}"]
    garbage = {**DETAILS, step: {**DETAILS[step], key: 3.5}}
    of = record(attempt("run-1", 0, details=garbage))
    assert verify(of) == [f"the detail {key} of step {step} is of the kind float"]
    assert "3.5" not in shown(of)


HOSTILE = "a|b\n# x `c` <script>*[y](z)\\"


def test_no_value_can_become_markdown() -> None:
    details = {
        **DETAILS,
        "detect": {**DETAILS["detect"], "pods_before": [{"name": HOSTILE, "controller": HOSTILE}, HOSTILE, None], "volumes": [HOSTILE]},
        "workloads": {**DETAILS["workloads"], "lost": [HOSTILE]},
        "ready": {**DETAILS["ready"], "diff": "```\n# out\n````"},
    }
    text = shown(replace(record(attempt("run-1", 0, details=details)), hardware=HOSTILE, reasons=(HOSTILE,)))
    escaped = r"a\|b # x \`c\` &lt;script>\*\[y\](z)\\"
    assert f"| Hardware | {escaped} |" in text
    assert f"| {escaped} | {escaped} | none | none |" in text
    assert "<script" not in text and "\n# x" not in text
    assert "`````diff\n```\n# out\n````\n`````" in text, "the diff cannot end its block"


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.floats() | st.integers(), lambda part: st.lists(part) | st.dictionaries(st.text(), part)
    )
)
def test_garbage_in_a_detail_breaks_nothing(garbage: Any) -> None:
    clean = cleaned(garbage)
    details = {step: dict.fromkeys(keys, clean) for step, keys in NEEDED.items()}
    of = record(attempt("run-1", 0, details=details))
    assert from_json(to_json(of)) == of
    assert shown(of).count("\n## ") == shown(record()).count("\n## ")


def test_json_is_canonical_and_whole() -> None:
    of = record(attempt("run-1", 0, 3), attempt("run-2", 100, first=4))
    text = to_json(of)
    table = json.loads(text)
    assert text == json.dumps(table, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    assert (table["seconds"], table["total_seconds"], table["within_budget"]) == (70.0, 170.0, True)
    assert [a["seconds"] for a in table["attempts"]] == [None, 70.0]
    assert sum(s["seconds"] for s in table["attempts"][1]["steps"]) == table["seconds"]
    assert table["attempts"][0]["steps"][0]["detail"] == DETAILS["detect"]
    assert from_json(text) == of


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"attempts": 1}', "null", '{"attempts": [{"steps": [1]}]}', b"\xff\xfe"])
def test_what_is_no_record_is_refused(text: str | bytes) -> None:
    with pytest.raises(PifleetError, match="no record of a rebuild"):
        from_json(text)


def test_record_with_fields_of_another_kind_is_refused() -> None:
    table = json.loads(to_json(record()))
    table["attempts"][0]["steps"][0]["detail"] = "none"
    with pytest.raises(PifleetError, match="no record of a rebuild"):
        from_json(json.dumps(table))


def test_latest_word_counts_of_what_is_done_again() -> None:
    one = attempt("run-1", 0, details={"workloads": {"waiting": ["a/b"]}, "install": {"version": "1"}})
    two = attempt("run-2", 100, details={"workloads": {"waiting": []}, "prepare": {"restarted": False}})
    known = merged([one, two])
    assert known["workloads"] == {"waiting": []}
    assert known["install"] == {"version": "1"}
    first = attempt("run-0", 0, details={"prepare": {"restarted": True}})
    assert merged([first, two])["prepare"] == {"restarted": True}


def test_secrets_are_masked_and_the_rest_is_kept() -> None:
    found = {
        "token": "abc",
        "list": ["password: hunter2", 5, None, 1.5],
        "node": {"labels": {"ready": "true"}},
        7: float("nan"),
        "secret": {},
    }
    assert cleaned(found, ["sesame"]) == {
        "token": "********",
        "list": ["password: ********", 5, None, 1.5],
        "node": {"labels": {"ready": "true"}},
        "7": "nan",
        "secret": {},
    }
    assert cleaned({"a": "open sesame"}, ["sesame"]) == {"a": "open ********"}


def test_template_that_is_broken_is_told() -> None:
    for text in ("{{ nobody_knows }}", "{% if %}"):
        with pytest.raises(PifleetError, match="template of the report cannot be used"):
            to_markdown(record(), text)


def test_template_is_a_form_by_itself() -> None:
    for title in ("Steps", "Data lost", "What was removed", "SSH host keys", "Workloads", "The node in the cluster", "Evidence", "Review"):
        assert f"\n## {title}\n" in TEXT
