# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are really run, fail, lose hosts and are killed: what the ledger then says."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import Queries, Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Run, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.support.controller import ROOT, Controller, wait_for_file, with_callback

OPEN = """
- name: Open the record
  hosts: all
  gather_facts: false
  tags: [always]
  tasks:
    - name: Open the run's record in the ledger
      pifleet.ops.run_record:
        state: opened
      run_once: true
"""
CLOSE = """
- name: Close the record
  hosts: all
  gather_facts: false
  tags: [always]
  tasks:
    - name: Close the run's record in the ledger
      pifleet.ops.run_record:
        state: closed
      run_once: true
      register: closed

    - name: Show it
      ansible.builtin.debug:
        var: closed
      run_once: true
"""
WORK = """
- name: Work
  hosts: all
  gather_facts: false
  tasks:
    - name: Reach the host
      ansible.builtin.ping:

    - name: Fail some
      ansible.builtin.fail:
        msg: on purpose
      when: inventory_hostname in (fails | default('')).split(',')

    - name: Go on
      ansible.builtin.ping:
"""


def recorded(controller: Controller) -> tuple[Run, ...]:
    return Runs(Store(controller.folder / ".pifleet" / "ledger.db")).all()


def test_run_under_limit_is_recorded(controller: Controller) -> None:
    played = controller.play(OPEN + WORK + CLOSE, "--limit", "two,three", "--tags", "all")
    assert played.rc == 0, played.out
    assert played.changed == 0
    assert "WARNING" not in played.out
    (run,) = recorded(controller)
    assert (run.status, run.hosts) == ("succeeded", {"two": "ok", "three": "ok"})
    assert run.header.host_limit == "two,three"
    assert run.header.playbook.startswith("play-")
    assert run.header.inventory == ("hosts.yml",)
    assert run.header.requester == pwd.getpwuid(os.getuid()).pw_name
    assert (run.header.revision, run.header.check_mode, run.header.collection_version) == (None, False, "0.1.0")
    counts = Runs(Store(controller.folder / ".pifleet" / "ledger.db")).counts(run.run_id)
    assert (counts["three"].ok, counts["three"].skipped) == (2, 1)


def test_revision_of_the_fleet_is_recorded(controller: Controller) -> None:
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(controller.folder)]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    controller.play(OPEN + CLOSE, "--limit", "one")
    assert [(r.header.revision, r.header.dirty) for r in recorded(controller)] == [(head, True)]


def test_unreachable_and_failed_hosts_are_told_apart(controller: Controller) -> None:
    """The first host of the play is the unreachable one: opening and closing connect to nobody."""
    played = controller.play(OPEN + WORK + CLOSE, "-e", "fails=two")
    assert played.rc != 0
    (run,) = recorded(controller)
    assert (run.status, run.hosts) == ("failed", {"gone": "unreachable", "one": "ok", "three": "ok", "two": "failed"})
    assert played.out.count("unreachable") >= 2, "the closing action says it too"


def test_serial_play_keeps_its_failures(controller: Controller) -> None:
    controller.play(OPEN + WORK.replace("gather_facts", "serial: 1\n  gather_facts") + CLOSE, "-e", "fails=one", "--limit", "one,two")
    assert [r.status for r in recorded(controller)] == ["failed"]


def test_rescued_host_has_not_failed(controller: Controller) -> None:
    rescue = """
- hosts: all
  gather_facts: false
  tasks:
    - block:
        - ansible.builtin.fail:
      rescue:
        - ansible.builtin.ping:
"""
    assert controller.play(OPEN + rescue + CLOSE, "--limit", "one").rc == 0
    assert [(r.status, r.hosts) for r in recorded(controller)] == [("succeeded", {"one": "ok"})]


def test_run_that_fails_on_all_hosts_is_closed_as_failed(controller: Controller) -> None:
    played = controller.play(OPEN + WORK + CLOSE, "-e", "fails=one,two", "--limit", "one,two")
    assert "Close the record" not in played.out, "Ansible plays no more"
    (run,) = recorded(controller)
    assert (run.status, run.hosts) == ("failed", {"one": "failed", "two": "failed"})
    assert run.ended_at


# --- the gate ------------------------------------------------------------------------------------------------------------

BROKEN = {
    "cannot be made": "CallbackModule.__init__ = broken\n",
    "fails inside at results": "CallbackModule._count = broken\n",
    "fails at the start of tasks": "CallbackModule.v2_runner_on_start = _recorded(broken)\n",
    "hears no results": "CallbackModule.v2_runner_on_ok = silent\n",
    "hears no failures": "CallbackModule.v2_runner_on_failed = silent\n",
    "hears nothing": "CallbackModule.v2_runner_on_start = CallbackModule.v2_runner_on_ok = silent\n",
}
_HOW = """
def broken(self, *args, **kwargs):
    raise RuntimeError("broken on purpose")


def silent(self, *args, **kwargs):
    pass


"""


@pytest.mark.parametrize("how", BROKEN)
def test_with_a_broken_callback_the_run_fails_at_the_gate(controller: Controller, how: str) -> None:
    """The collection with another callback in its place: Ansible only warns of it."""
    env = with_callback(controller.folder, _HOW + BROKEN[how])
    played = controller.play(OPEN + WORK + CLOSE, "--limit", "one,two", "-e", "fails=two", env=env)
    assert played.rc != 0
    assert "The evidence of this run is missing: the callback pifleet.ops.evidence did not record it" in played.out
    assert 'File "' not in played.out
    (run,) = recorded(controller)
    assert run.status == "failed"
    if how in ("hears no failures", "hears nothing"):
        checked = controller.play(OPEN + CLOSE, "--limit", "one", "--check", env=env)
        assert (checked.rc != 0) == (how == "hears nothing"), "a check predicts it, as far as it can"


def test_without_the_callback_it_is_said_and_the_next_run_reports(controller: Controller) -> None:
    (controller.folder / "ansible.cfg").write_text(f"[defaults]\ncollections_path = {ROOT}/.collections\n")
    disabled = {"ANSIBLE_CONFIG": str(controller.folder / "ansible.cfg")}
    gate = controller.play(OPEN + CLOSE, "--limit", "one", env=disabled)
    assert gate.rc != 0
    assert "The evidence of this run is missing" in gate.out
    assert [r.status for r in recorded(controller)] == ["failed"]
    (controller.folder / ".pifleet" / "ledger.db").unlink()
    first = controller.play(OPEN + WORK + CLOSE, "-e", "fails=one", "--limit", "one", env=disabled)
    assert "callbacks_enabled = pifleet.ops.evidence" in first.out
    assert [r.status for r in recorded(controller)] == ["running"]
    second = controller.play(OPEN + CLOSE, "--limit", "one")
    assert recorded(controller)[0].run_id in second.out
    assert "never ended" in second.out
    assert [r.status for r in recorded(controller)] == ["interrupted", "succeeded"]
    assert "never ended" not in controller.play(OPEN + CLOSE, "--limit", "one").out


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_run_that_is_killed_is_reported_by_the_next(controller: Controller, sent: signal.Signals) -> None:
    wait = (
        "\n- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.shell: touch '{{ fleet_root }}/at-work' && exec sleep 60\n"
    )
    command = controller.command(OPEN + wait + CLOSE, "--limit", "one")
    child = subprocess.Popen(command, cwd=ROOT, env=controller.env(), stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for_file(controller.folder / "at-work")
    child.send_signal(sent)
    child.wait(timeout=60)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    (killed,) = recorded(controller)
    assert killed.status == "running"
    checked = controller.play(OPEN + CLOSE, "--limit", "one", "--check")
    assert killed.run_id in checked.out
    assert recorded(controller)[0].status == "running", "a check marks nothing"
    assert killed.run_id in controller.play(OPEN + CLOSE, "--limit", "one").out
    assert [r.status for r in recorded(controller)] == ["interrupted", "checked", "succeeded"]


def test_check_leaves_the_record_that_a_check_ran(controller: Controller) -> None:
    note = """
- hosts: all
  gather_facts: false
  tasks:
    - pifleet.ops.run_record: {state: noted, artifact: {name: diff, content: text}}
      run_once: true
"""
    played = controller.play(OPEN + note + CLOSE, "--limit", "one", "--check")
    assert played.rc == 0, played.out
    assert played.changed == 0
    (run,) = recorded(controller)
    assert (run.status, run.hosts, run.header.check_mode) == ("checked", {}, True)
    with Store(controller.folder / ".pifleet" / "ledger.db").read() as db:
        counts = {t: db.exec_driver_sql(f"SELECT count(*) FROM {t}").scalar() for t in ("runs", "run_hosts", "artifacts", "bodies")}
    assert counts == {"runs": 1, "run_hosts": 0, "artifacts": 0, "bodies": 0}
    assert not list(controller.folder.rglob("*.bak"))


def test_secrets_enter_neither_ledger_nor_output(controller: Controller) -> None:
    note = """
- hosts: all
  gather_facts: false
  vars:
    ansible_become_password: "{{ 'correct' ~ 'horse' }}"
  tasks:
    - pifleet.ops.run_record:
        state: noted
        artifact:
          name: diff
          media_type: text/x-diff
          content: "sudo correcthorse\\n-password: hunter2\\n+token: K10{{ 'a' * 64 }}::server:sesame\\n+kept: yes"
      run_once: true
"""
    played = controller.play(OPEN + note + CLOSE, "--limit", "one")
    assert played.rc == 0, played.out
    (run,) = recorded(controller)
    ((artifact, body),) = Runs(Store(controller.folder / ".pifleet" / "ledger.db")).artifacts(run.run_id)
    assert (artifact.name, artifact.media_type) == ("diff", "text/x-diff")
    assert b"kept: yes" in body
    everything = body + (controller.folder / ".pifleet" / "ledger.db").read_bytes() + played.out.encode()
    assert not [s for s in (b"correcthorse", b"hunter2", b"sesame") if s in everything]


NODE_DID = """
- hosts: one
  gather_facts: false
  vars:
    ansible_become_password: correcthorse
    attempt:
      project: web
      revision: rev2
      began_at: "2026-01-01T00:00:00.000000Z"
      ended_at: "2026-01-01T00:00:09.000000Z"
      lost: 0
      stack: {name: web, status: failed, changed: true, last_error: "no: correcthorse, password=hunter2", drift: [], actions: []}
  tasks:
    - pifleet.ops.run_record:
        state: noted
        unattended: {one: ["{{ attempt | combine({'id': '20260101T000000.000000Z-00ff'}) }}"], two: []}
      register: kept
    - ansible.builtin.assert: {that: kept.recorded == wanted}
"""


def test_what_a_node_did_by_itself_is_recorded_once_however_often_it_is_offered(controller: Controller) -> None:
    wanted = '{"wanted": {"one": ["20260101T000000.000000Z-00ff"], "two": []}}'
    for _ in range(2):
        played = controller.play(OPEN + NODE_DID + CLOSE, "--limit", "one,two", "-e", wanted)
        assert played.rc == 0, played.out
    assert controller.play(OPEN + NODE_DID + CLOSE, "--limit", "one,two", "--check", "-e", '{"wanted": {}}').rc == 0
    (event,) = Queries(Store(controller.folder / ".pifleet" / "ledger.db")).events(Wanted(kind="stack")).items
    assert (event["kind"], event["host"], event["run_id"]) == ("stack.failed", "one", recorded(controller)[0].run_id)
    assert event["data"]["unattended"]["revision"] == "rev2"
    assert "hunter2" not in str(event) and "correcthorse" not in str(event)
    outside = controller.play(NODE_DID, "-e", '{"wanted": {}}')
    assert outside.rc == 0, outside.out
    assert "stays with them" in " ".join(outside.out.split()), "nobody may forget it"


def test_artifact_outside_of_a_run_is_not_lost_silently(controller: Controller) -> None:
    note = (
        "- hosts: one\n  gather_facts: false\n  tasks:\n    - pifleet.ops.run_record: {state: noted, artifact: {name: diff, content: x}}\n"
    )
    played = controller.play(note)
    assert played.rc == 0
    assert "diff is not kept as evidence" in played.out


def test_closing_what_was_not_opened_fails(controller: Controller) -> None:
    played = controller.play(CLOSE, "--limit", "one")
    assert played.rc != 0
    assert "never opened" in played.out
    played.assert_clear()


def test_several_playbooks_in_one_process(controller: Controller) -> None:
    second = controller.folder / "second.yml"
    second.write_text(OPEN + CLOSE)
    assert controller.play(OPEN + WORK + CLOSE, "--limit", "one", str(second)).rc == 0
    assert [r.status for r in recorded(controller)] == ["succeeded", "succeeded"]


@pytest.mark.parametrize("harm", ["damaged", "newer", "folder"])
def test_ledger_that_cannot_be_used_is_told_with_the_way_out(controller: Controller, harm: str) -> None:
    path = controller.folder / ".pifleet" / "ledger.db"
    if harm == "damaged":
        path.parent.mkdir()
        path.write_bytes(b"no database at all" * 100)
        says = "damaged"
    elif harm == "newer":
        with Store(path).write() as db:
            db.exec_driver_sql("UPDATE alembic_version SET version_num = '7777'")
        says = "newer pifleet.ops (schema 7777"
    else:
        path.parent.write_text("")
        says = "cannot be"
    played = controller.play(OPEN + WORK, "--limit", "one,two")
    assert played.rc != 0
    assert says in " ".join(played.out.split())
    assert "Reach the host" not in played.out, "nothing is touched"
    played.assert_clear()


def test_wrong_arguments_are_told(controller: Controller) -> None:
    wrong = {"{state: noted}": "artifact", "{state: begun}": "value of state must be one of", "{state: opened, requester: me}": "requester"}
    tasks = "".join(f"    - pifleet.ops.run_record: {arguments}\n      ignore_errors: true\n" for arguments in wrong)
    played = controller.play(f"- hosts: one\n  gather_facts: false\n  tasks:\n{tasks}")
    assert played.recap["one"]["ignored"] == len(wrong)
    for says in wrong.values():
        assert says in played.out
    played.assert_clear()


def test_playbook_of_an_installed_collection_records_in_the_current_directory(controller: Controller, tmp_path: Path) -> None:
    installed = tmp_path / "path" / "ansible_collections" / "pifleet" / "ops"
    shutil.copytree(ROOT / "plugins", installed / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "meta", installed / "meta")
    (installed / "MANIFEST.json").write_text('{"collection_info": {"namespace": "pifleet", "name": "ops", "version": "9.8.7"}}')
    (installed / "playbooks").mkdir()
    (installed / "playbooks" / "x.yml").write_text(OPEN + CLOSE)
    before = {p for p in installed.rglob("*") if "__pycache__" not in p.parts}
    (tmp_path / "fleet").mkdir()
    command = [*controller.command("[]")[:6], "pifleet.ops.x", "--limit", "one"]
    env = {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "path")}
    played = controller.run(command, env=env, cwd=tmp_path / "fleet")
    assert played.rc == 0, played.out
    (run,) = Runs(Store(tmp_path / "fleet" / ".pifleet" / "ledger.db")).all()
    assert (run.status, run.header.playbook, run.header.collection_version) == ("succeeded", "pifleet.ops.x", "9.8.7")
    assert {p for p in installed.rglob("*") if "__pycache__" not in p.parts} == before
