# SPDX-License-Identifier: GPL-3.0-or-later
"""Rebuilds recorded by real runs that end, fail, run out of time or disk, and are killed: what ledger, report and result then say."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._rebuild_report import STEPS, Rebuild, from_json, verify

from tests.support.controller import ROOT, Controller, Played, wait_for_file
from tests.support.rebuild_details import DETAILS

NODE = "pi-4.local"
Task = dict[str, Any]


def play(*tasks: Task, hosts: str = "one", **keywords: Any) -> str:
    """A playbook that opens the record, runs *tasks* on *hosts*, and closes it. JSON is YAML."""
    edge = {"hosts": "all", "gather_facts": False}
    opened = {"pifleet.ops.run_record": {"state": "opened"}, "run_once": True, "register": "opened"}
    show = {"ansible.builtin.debug": {"msg": "OPENED{{ opened.rebuilds | to_json }}ENDED"}, "run_once": True}
    closed = {"pifleet.ops.run_record": {"state": "closed"}, "run_once": True}
    work = {"hosts": hosts, "gather_facts": False, "tasks": list(tasks), **keywords}
    return json.dumps([{**edge, "tasks": [opened, show]}, work, {**edge, "tasks": [closed]}])


def record(state: str, **more: Any) -> Task:
    return {"pifleet.ops.rebuild_record": {"state": state, **more}, "register": "recorded"}


def show(name: str) -> Task:
    return {"ansible.builtin.debug": {"msg": name + "{{ recorded | to_json }}ENDED"}}


def started(**more: Any) -> Task:
    return record("started", **{"node": NODE, "role": "agent", "reasons": ["wiped"], "detail": DETAILS["detect"], **more})


def steps(*names: str) -> list[Task]:
    return [record("step", step=name, detail=DETAILS[name]) for name in names]


def whole(**finish: Any) -> list[Task]:
    return [started(hardware="Raspberry Pi 4"), show("STARTED"), *steps(*STEPS[1:]), record("finished", **finish), show("FINISHED")]


def said(played: Played, name: str) -> Any:
    """What a task printed under *name*; the callback prints JSON in JSON."""
    text = played.out.split(f'"msg": "{name}', 1)[1].split('ENDED"', 1)[0]
    return json.loads(json.loads(f'"{text}"'))


@pytest.fixture(autouse=True)
def _results_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_CALLBACK_RESULT_FORMAT", "json")


def ledger(controller: Controller) -> Store:
    return Store(controller.folder / ".pifleet" / "ledger.db")


def recorded(controller: Controller, host: str = "one") -> tuple[Rebuild, ...]:
    return Rebuilds(ledger(controller)).of_host(host)


def reports(controller: Controller) -> list[Path]:
    return sorted((controller.folder / "docs" / "governance" / "reviews").glob("*"))


def test_rebuild_leaves_whole_evidence(controller: Controller) -> None:
    played = controller.play(play(*whole(budget_minutes=60)), "--limit", "one")
    assert played.rc == 0, played.out
    assert played.changed == 0
    assert "WARNING" not in played.out
    (rebuild,) = recorded(controller)
    assert verify(rebuild) == []
    assert rebuild.hardware == "Raspberry Pi 4"
    begun, ended = said(played, "STARTED"), said(played, "FINISHED")
    assert (begun["rebuild_id"], begun["attempt"], begun["resumed"], begun["details"]) == (rebuild.rebuild_id, 1, False, {})
    assert [step["step"] for step in ended["steps"]] == list(STEPS)
    assert sum(step["seconds"] for step in ended["steps"]) == pytest.approx(ended["seconds"], abs=1e-6)
    assert (ended["seconds"], ended["total_seconds"], ended["within_budget"]) == (rebuild.seconds, rebuild.total_seconds, True)
    (run,) = Runs(ledger(controller)).all()
    (report,) = reports(controller)
    assert ended["report"] == str(report)
    assert report.name == f"rebuild-{NODE}-{run.run_id}.md"
    assert rebuild.started_at == run.started_at
    kept = {artifact.name: (artifact.media_type, body) for artifact, body in Runs(ledger(controller)).artifacts(run.run_id)}
    assert kept == {
        f"rebuild-{NODE}.json": ("application/json", kept[f"rebuild-{NODE}.json"][1]),
        report.name: ("text/markdown", report.read_bytes()),
    }
    assert from_json(kept[f"rebuild-{NODE}.json"][1]) == rebuild
    assert f"| Requester | {run.header.requester} |" in report.read_text()
    assert "The record is whole" in report.read_text()
    assert said(controller.play(play(), "--limit", "one"), "OPENED") == {}


def test_evidence_without_one_step_is_found_out(controller: Controller) -> None:
    controller.play(play(*whole()), "--limit", "one")
    with ledger(controller).write() as db:
        db.exec_driver_sql("DELETE FROM rebuild_steps WHERE step = 'join'")
    assert any("step join is missing" in finding for finding in verify(recorded(controller)[0]))


def test_host_that_nobody_reaches_can_be_recorded(controller: Controller) -> None:
    """Nothing connects, and hosts at once have a rebuild each."""
    played = controller.play(play(*whole(), hosts="gone,two"), "--limit", "gone,two")
    assert played.rc == 0, played.out
    assert [verify(recorded(controller, host)[0]) for host in ("gone", "two")] == [[], []]


def test_failed_host_is_resumed_by_the_next_run(controller: Controller) -> None:
    fail = {"ansible.builtin.fail": {"msg": "on purpose"}}
    assert controller.play(play(started(), *steps("retire"), fail), "--limit", "one").rc != 0
    (rebuild,) = recorded(controller)
    assert (rebuild.status, rebuild.attempts[0].steps[-1].outcome) == ("failed", "failed")
    again = {"node_before": None, "pods_before": [], "volumes": [], "host_key": None}
    tasks = [started(detail=again), show("STARTED"), *steps(*STEPS[1:]), record("finished")]
    played = controller.play(play(*tasks), "--limit", "one")
    assert played.rc == 0, played.out
    run = rebuild.attempts[0].run_id
    assert said(played, "OPENED") == {
        "one": {
            "rebuild_id": rebuild.rebuild_id,
            "node": NODE,
            "status": "failed",
            "reasons": ["wiped"],
            "last_step": "retire",
            "run_id": run,
            "began_at": rebuild.attempts[0].started_at,
        }
    }
    begun = said(played, "STARTED")
    assert (begun["rebuild_id"], begun["attempt"], begun["resumed"]) == (rebuild.rebuild_id, 2, True)
    assert begun["details"] == {"detect": DETAILS["detect"], "retire": DETAILS["retire"]}
    (rebuild,) = recorded(controller)
    assert verify(rebuild) == []
    assert [len(attempt.steps) for attempt in rebuild.attempts] == [2, 7]
    (report,) = reports(controller)
    assert f"### Attempt 1: run {run}" in report.read_text()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_killed_run_is_resumed_by_the_next(controller: Controller, sent: signal.Signals) -> None:
    wait = {"ansible.builtin.shell": "touch '{{ fleet_root }}/at-work' && exec sleep 60"}
    command = controller.command(play(started(), *steps("retire", "prepare"), wait), "--limit", "one")
    child = subprocess.Popen(command, cwd=ROOT, env=controller.env(), stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for_file(controller.folder / "at-work")
    child.send_signal(sent)
    child.wait(timeout=60)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    checked = controller.play(play(), "--limit", "one", "--check")
    assert said(checked, "OPENED")["one"]["status"] == "interrupted", "a check tells it"
    assert recorded(controller)[0].status == "running", "and marks nothing"
    played = controller.play(play(*whole()), "--limit", "one")
    assert played.rc == 0, played.out
    assert said(played, "OPENED")["one"]["last_step"] == "prepare"
    (rebuild,) = recorded(controller)
    assert verify(rebuild) == []
    assert [(attempt.steps[-1].step, attempt.steps[-1].outcome) for attempt in rebuild.attempts] == [
        ("prepare", "interrupted"),
        ("workloads", "ok"),
    ]


def test_report_of_a_run_that_was_killed_before_its_commit_is_replaced(controller: Controller) -> None:
    """What a kill between the report's file and the ledger's commit leaves: a report of a run that did not finish."""
    controller.play(play(started(), {"ansible.builtin.fail": {}}), "--limit", "one")
    folder = controller.folder / "docs" / "governance" / "reviews"
    folder.mkdir(parents=True)
    stale = folder / f"rebuild-{NODE}-{recorded(controller)[0].attempts[0].run_id}.md"
    other = folder / f"rebuild-{NODE}-20200101T000000.000Z-00000000.md"
    for file in (stale, other):
        file.write_text("x")
    assert controller.play(play(*whole()), "--limit", "one").rc == 0
    left = reports(controller)
    assert other in left and stale not in left
    assert len(left) == 2


def test_record_that_is_not_whole_fails_and_stays_open(controller: Controller) -> None:
    played = controller.play(play(started(), *steps("retire", "join"), record("finished")), "--limit", "one")
    assert played.rc != 0
    assert "step prepare is missing" in played.out
    assert "lacks the detail node_after" in played.out
    played.assert_clear()
    assert [r.status for r in recorded(controller)] == ["failed"]
    assert reports(controller) == []


def test_budget_that_is_exceeded(controller: Controller) -> None:
    played = controller.play(play(*whole(budget_minutes=0.001)), "--limit", "one")
    assert played.rc == 0, played.out
    assert said(played, "FINISHED")["within_budget"] is False
    assert "succeeded, but took" in said(played, "FINISHED")["over_budget"]
    assert [(r.status, verify(r)) for r in recorded(controller)] == [("succeeded", [])], "it was rebuilt all the same"
    (report,) = reports(controller)
    assert "**over** the budget" in report.read_text()
    played = controller.play(play(*whole(budget_minutes=60)), "--limit", "one")
    assert (said(played, "FINISHED")["within_budget"], said(played, "FINISHED")["over_budget"]) == (True, "")


def test_budget_counts_from_the_first_attempt(controller: Controller) -> None:
    """The last attempt alone keeps to it; the node was away for longer."""
    failed = {"name": "Fail", "ansible.builtin.fail": {"msg": "on purpose"}}
    assert controller.play(play(started(), *steps("retire"), failed), "--limit", "one").rc != 0
    with closing(sqlite3.connect(controller.folder / ".pifleet" / "ledger.db")) as db, db:
        early = "2020-01-01T00:00:00.000000Z"
        db.execute("UPDATE rebuilds SET started_at = ?", (early,))
        db.execute("UPDATE runs SET started_at = ? WHERE id IN (SELECT run_id FROM rebuild_steps)", (early,))
        db.execute("UPDATE rebuild_steps SET started_at = ? WHERE step = 'detect'", (early,))
    played = controller.play(play(*whole(budget_minutes=60)), "--limit", "one")
    assert played.rc == 0, played.out
    ended = said(played, "FINISHED")
    assert (ended["seconds"] < 3600 < ended["total_seconds"], ended["within_budget"]) == (True, False)
    assert "since the first of 2 attempts" in ended["over_budget"]


@pytest.mark.parametrize("over", [False, True])
def test_budget_is_for_the_stacks_too(controller: Controller, over: bool) -> None:
    """The rebuild alone kept to it; what the run did after it took years."""
    finished = {**record("finished", budget_minutes=60), "register": "finished"}
    began = {"started_at": "2020-01-01T00:00:00.000000Z"} if over else {}
    kept = {"ansible.builtin.set_fact": {"__rebuild_finished": "{{ finished | combine(began) }}"}, "vars": {"began": began}}
    compared = {"ansible.builtin.include_tasks": str(ROOT / "roles/rebuild/tasks/budget.yml"), "vars": {"rebuild_budget_minutes": 60}}
    played = controller.play(play(started(), *steps(*STEPS[1:]), finished, kept, compared), "--limit", "one")
    assert (played.rc != 0) is over, played.out
    assert ("but with its stacks the run took" in played.out) is over
    assert [r.status for r in recorded(controller)] == ["succeeded"]


def test_report_that_cannot_be_written(controller: Controller) -> None:
    """A folder that is a file is what also root cannot write to."""
    (controller.folder / "taken").write_text("")
    played = controller.play(play(*whole(report_dir="taken/reviews")), "--limit", "one")
    assert played.rc != 0
    assert "cannot be written" in played.out and "stays open" in played.out
    played.assert_clear()
    assert [r.status for r in recorded(controller)] == ["failed"]
    played = controller.play(play(*whole(report_dir="taken-not/reviews")), "--limit", "one")
    assert played.rc == 0, played.out
    assert len(list((controller.folder / "taken-not" / "reviews").glob("*.md"))) == 1
    assert len(recorded(controller)[0].attempts) == 2


def test_disk_that_is_full(controller: Controller) -> None:
    """/dev/full cannot hold a ledger or a folder, so the limit of a file's size stands for it, for the run and all that it starts."""
    big = {**DETAILS["workloads"], "lost": ["default/by-hand"] * 3_000}  # fits as a step, but not as a step, a record and a report
    assert controller.play(play(started(), {"ansible.builtin.fail": {}}), "--limit", "one").rc != 0
    tasks = [started(), *steps(*STEPS[1:6]), record("step", step="workloads", detail=big), record("finished")]
    command = controller.command(play(*tasks), "--limit", "one")
    blocks = (controller.folder / ".pifleet" / "ledger.db").stat().st_size // 512 + 200
    limited = ["sh", "-c", f'trap "" XFSZ; ulimit -f {blocks}; exec "$@"', "sh", *command]
    played = controller.run(limited)
    assert played.rc != 0
    assert "cannot be used" in played.out
    played.assert_clear()
    assert reports(controller) == [], "no report of what is not in the ledger"
    (rebuild,) = recorded(controller)
    assert rebuild.status != "succeeded"
    assert (rebuild.attempts[1].steps[-1].step, rebuild.attempts[1].steps[-1].ended_at) == ("workloads", None)
    resumed = controller.play(play(*whole()), "--limit", "one")
    assert resumed.rc == 0, resumed.out
    assert said(resumed, "OPENED")["one"]["status"] == "interrupted", "with a full disk the end of the run was not recorded either"
    assert verify(recorded(controller)[0]) == []


def test_node_that_is_healthy_ends_its_rebuild(controller: Controller) -> None:
    controller.play(play(started(), {"ansible.builtin.fail": {}}), "--limit", "one")
    played = controller.play(play(record("abandoned"), show("GIVEN UP"), record("abandoned"), show("NONE")), "--limit", "one")
    assert played.rc == 0, played.out
    (rebuild,) = recorded(controller)
    assert (said(played, "GIVEN UP")["rebuild_id"], said(played, "NONE")["rebuild_id"]) == (rebuild.rebuild_id, None)
    assert rebuild.status == "abandoned"
    assert said(controller.play(play(), "--limit", "one"), "OPENED") == {}


def test_check_writes_nothing(controller: Controller) -> None:
    tasks = [*whole(budget_minutes=1), record("noted", detail={"a": 1}), record("abandoned")]
    played = controller.play(play(*tasks), "--limit", "one", "--check")
    assert played.rc == 0, played.out
    assert played.changed == 0
    begun, ended = said(played, "STARTED"), said(played, "FINISHED")
    assert [begun[key] for key in ("rebuild_id", "attempt", "resumed", "details")] == [None, None, None, {}]
    assert [ended[key] for key in ("rebuild_id", "started_at", "seconds", "total_seconds", "report", "within_budget", "steps")] == [
        None
    ] * 6 + [[]]
    assert recorded(controller) == ()
    assert not (controller.folder / "docs").exists()


def test_secrets_enter_neither_ledger_nor_report(controller: Controller) -> None:
    detail = {
        **DETAILS["retire"],
        "removed": ["sudo correcthorse", "password: hunter2", f"K10{'a' * 64}::server:sesame"],
        "join_token": "opensesame",
    }
    tasks = [started(hardware="correcthorse"), record("step", step="retire", detail=detail), *steps(*STEPS[2:]), record("finished")]
    text = play(*tasks, vars={"ansible_become_password": "{{ 'correct' ~ 'horse' }}"}, no_log=True)
    played = controller.play(text, "--limit", "one", "-e", "rebuild_accept_new_host_key=true")
    assert played.rc == 0, played.out
    (run,) = Runs(ledger(controller)).all()
    (report,) = reports(controller)
    bodies = b"".join(body for _artifact, body in Runs(ledger(controller)).artifacts(run.run_id))
    everything = bodies + report.read_bytes() + (controller.folder / ".pifleet" / "ledger.db").read_bytes()
    assert not [s for s in (b"correcthorse", b"hunter2", b"sesame") if s in everything]
    detail = recorded(controller)[0].attempts[0].steps[1].detail
    assert detail["removed"][0] == "sudo ********"


def test_variable_that_says_yes_is_no_secret(controller: Controller) -> None:
    """`-e rebuild_accept_new_host_key=true` is a text, whose name ends like that of a secret."""
    node = {**DETAILS["detect"], "node_before": {"labels": {"node-role.kubernetes.io/control-plane": "true"}}}
    tasks = [started(detail=node), *steps(*STEPS[1:]), record("finished")]
    assert controller.play(play(*tasks), "--limit", "one", "-e", "rebuild_accept_new_host_key=true").rc == 0
    assert recorded(controller)[0].attempts[0].steps[0].detail["node_before"] == node["node_before"]


#: (what comes before, what is wrong, what is said of it), one after the other in one run
WRONG: list[tuple[list[Task], Task, str]] = [
    ([], record("started"), "node, role, reasons"),
    ([], record("step"), "step"),
    ([], record("step", step="dance"), "value of step must be one of"),
    ([], record("begun"), "value of state must be one of"),
    ([], started(role="king"), "value of role must be one of"),
    ([], started(node="../../x"), "is no name of a node"),
    ([], started(reasons=[]), "reason"),
    ([], record("abandoned", detail={"a": 1}), "takes no detail"),
    ([], steps("retire")[0], "No rebuild of one was started in this run"),
    ([started()], record("finished", budget_minutes=0), "budget_minutes is 0.0"),
    ([], record("finished", budget_minutes="soon"), "budget_minutes"),
    ([], record("noted", detail="text"), "detail"),
    (steps("join"), steps("retire")[0], "cannot go back to retire"),
]


def test_wrong_arguments_are_told(controller: Controller) -> None:
    tasks = [
        task
        for number, (before, wrong, _says) in enumerate(WRONG)
        for task in (*before, {**wrong, "ignore_errors": True}, show(f"CASE {number} "))
    ]
    played = controller.play(play(*tasks), "--limit", "one")
    assert played.rc == 0, played.out
    for number, (_before, _wrong, says) in enumerate(WRONG):
        result = said(played, f"CASE {number} ")
        assert result["failed"] is True, says
        assert says in result["msg"]
    played.assert_clear()


def test_outside_of_a_run_nothing_is_recorded(controller: Controller) -> None:
    played = controller.play(json.dumps([{"hosts": "one", "gather_facts": False, "tasks": [started()]}]))
    assert played.rc != 0
    assert "No run is open in the ledger" in played.out
    played.assert_clear()
