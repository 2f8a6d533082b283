# SPDX-License-Identifier: GPL-3.0-or-later
"""What the callback counted, and when that is no evidence of a run."""

from __future__ import annotations

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import recording
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.recording import Counts, Recording


def whole() -> Recording:
    """Of a run whose closing task goes on."""
    made = Recording("run-1", started=5, ended=4)
    made.count("a", "ok", "changed")
    made.count("b", "failed")
    return made


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ({}, ""),
        ({"broken": "v2_runner_on_ok (TypeError)"}, "it failed in v2_runner_on_ok (TypeError)"),
        ({"run_id": ""}, "it did not see that the record was opened"),
        ({"run_id": "run-0"}, "it recorded another run, run-0"),
        ({"ended": 2}, "it saw 2 results of 4 tasks"),
        ({"hosts": {}}, "it did not see how b failed"),
    ],
)
def test_gate_says_why_a_recording_is_no_evidence(harm: dict[str, object], says: str) -> None:
    made = whole()
    for name, value in harm.items():
        setattr(made, name, value)
    assert made.problem("run-1", ["b"]) == says


def test_host_that_was_unreachable_is_seen() -> None:
    made = whole()
    made.count("c", "unreachable")
    assert made.problem("run-1", ["b", "c"]) == ""
    assert made.problem("run-1", ["b", "c", "e", "d"]) == "it did not see how d, e failed"


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [
        (Counts(), "not_run"),
        (Counts(skipped=1), "ok"),
        (Counts(ok=9, failed=1), "failed"),
        (Counts(failed=1, unreachable=1), "unreachable"),
    ],
)
def test_outcome_is_the_worst(counts: Counts, outcome: str) -> None:
    assert counts.outcome == outcome


def test_plays_end_where_the_next_one_begins_and_names_have_an_end() -> None:
    made = Recording()
    made.end_play()
    made.play("one")
    made.play("two")
    for number in range(recording.NAMED + 3):
        made.name(made.failures, "a", f"task {number}")
    told = made.report()
    assert [(p["name"], p["seconds"] is not None) for p in told["plays"]] == [("one", True), ("two", True)]
    assert (len(made.failures), len(told["failures"])) == (recording.NAMED, 100)
    assert told["failures"][0] == {"host": "a", "play": "two", "task": "task 0"}
    assert made.report()["plays"] == told["plays"], "an ended play stays as it is"


def test_longer_tasks_are_kept_with_the_longest_that_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 0.0, 0.5, 3.0, 4.0, 9.0, 11.0, 12.0, 13.0])
    monkeypatch.setattr(recording.time, "monotonic", lambda: next(moments))
    made = Recording()
    for task in ("short", "long", "long", "", "long"):
        made.step(task)
    assert made.steps == {("", "long"): 2.5}
    assert made.report()["steps"] == [{"play": "", "task": "long", "seconds": 5.0}]


def test_each_playbook_of_a_process_has_a_recording_of_its_own() -> None:
    first = recording.begin()
    assert recording.current() is first
    assert recording.begin() is not first
