# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node does by itself becomes evidence with the next run: all of it, and once, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fleet import BIN, ROOT

from .conftest import FULL, ONE, PROGRAM, TWO, Stacks, stack

KEPT = "/var/lib/pifleet/stacks/unattended"


@pytest.fixture(scope="module")
def quiet(stacks: Stacks) -> Iterator[Stacks]:
    """Both nodes with one stack, whose timers start nothing meanwhile, and of which nothing waits to become evidence."""
    others = [path.relative_to(stacks.state.path) for path in stacks.state.path.glob("stacks/*/compose.yaml")]
    stacks.state.commit({**{str(path): None for path in others}, "stacks/web/compose.yaml": stack()}, "For evidence")
    stacks.play(stacks_remove_enabled=True).require()
    for node in (ONE, TWO):
        stacks.sh("systemctl stop pifleet-stacks.timer; while systemctl is-active -q pifleet-stacks.service; do sleep 0.2; done", node)
    stacks.play().require()
    for node in (ONE, TWO):  # the play has set the timer going again, if anything of it had changed
        stacks.sh("systemctl stop pifleet-stacks.timer; while systemctl is-active -q pifleet-stacks.service; do sleep 0.2; done", node)
    yield stacks
    for node in (ONE, TWO):
        stacks.sh("systemctl start pifleet-stacks.timer", node)


def told(stacks: Stacks) -> list[dict[str, Any]]:
    """The events of what nodes did by themselves, in the order of the chain."""
    with sqlite3.connect(stacks.state.path / ".pifleet/ledger.db", timeout=60) as ledger:
        rows = ledger.execute("SELECT content FROM events WHERE kind LIKE 'stack.%' ORDER BY seq").fetchall()
    return [event for (content,) in rows if "unattended" in (event := json.loads(content))["data"]]


def kept(stacks: Stacks, node: str = ONE) -> set[str]:
    """Ids of the attempts that a node keeps."""
    return {name.removesuffix(".json") for name in stacks.sh(f"ls {KEPT} 2>/dev/null || true", node).split()}


def repaired(stacks: Stacks, node: str = ONE) -> str:
    """Let the node repair a stopped container by itself. The id of that attempt."""
    before = kept(stacks, node)
    stacks.sh("docker stop -t 0 web-app-1", node)
    stacks.unattended(node)
    (one,) = kept(stacks, node) - before
    return one


def test_a_repair_of_each_node_is_evidence_after_the_next_run_and_forgotten_there(quiet: Stacks) -> None:
    done = {ONE: [repaired(quiet), repaired(quiet)], TWO: [repaired(quiet, TWO)]}
    before = told(quiet)
    quiet.play("--check").require()
    assert told(quiet) == before and kept(quiet) == set(done[ONE]), "a check collects nothing"
    assert quiet.play().require().changed == set()
    new = told(quiet)[len(before) :]
    assert {host: [e["data"]["unattended"]["id"] for e in new if e["host"] == host] for host in (ONE, TWO)} == done
    assert {(e["kind"], e["data"]["stack"], e["data"]["changed"]) for e in new} == {("stack.synced", "web", True)}
    assert all(e["data"]["actions"] == [{"kind": "start", "target": "app"}] for e in new)
    assert all(e["data"]["unattended"]["began_at"] < e["data"]["unattended"]["ended_at"] < e["at"] for e in new), "they share a clock here"
    assert kept(quiet) == kept(quiet, TWO) == set()
    quiet.play().require()
    assert len(told(quiet)) == len(before) + 3


def test_what_was_cut_off_is_told_of_and_so_is_what_came_of_it(quiet: Stacks) -> None:
    before = len(told(quiet))
    quiet.sh("docker stop -t 0 web-app-1")
    began = f"ls {KEPT}/*.json >/dev/null 2>&1"
    quiet.sh(f"python3 {PROGRAM} >/dev/null & until {began}; do sleep 0.01; done; kill -KILL $!; wait $! || true")
    (cut,) = kept(quiet)
    quiet.unattended()
    quiet.play("--limit", ONE).require()
    new = told(quiet)[before:]
    assert [e["kind"] for e in new] == ["stack.failed", "stack.synced"]
    assert new[0]["data"]["unattended"]["id"] == cut and "interrupted" in new[0]["data"]["last_error"]
    assert kept(quiet) == set()


def test_offered_again_it_is_no_second_event(quiet: Stacks) -> None:
    one = repaired(quiet)
    before = len(told(quiet))
    quiet.sh(f"cp -a {KEPT} /srv/kept-copy")
    quiet.play("--limit", ONE).require()
    quiet.sh(f"rm -r {KEPT}; mv /srv/kept-copy {KEPT}")
    assert kept(quiet) == {one}, "as a node whose controller was killed before it said that it has it"
    quiet.play("--limit", ONE).require()
    assert len(told(quiet)) == before + 1 and kept(quiet) == set()


def test_a_controller_that_is_killed_loses_and_doubles_nothing(quiet: Stacks) -> None:
    for _ in range(3 if FULL else 1):
        one = repaired(quiet)
        before = len(told(quiet))
        given = json.dumps({"fleet_root": str(quiet.state.path)})
        argv = [BIN / "ansible-playbook", "playbooks/stacks.yml", "-i", quiet.fleet.inventory, "--limit", ONE, "-e", given]
        env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        play = subprocess.Popen(
            argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while len(told(quiet)) == before and play.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(play.pid, signal.SIGKILL)
        play.wait(30)
        assert len(told(quiet)) == before + 1
        quiet.play("--limit", ONE).require()
        assert [e["data"]["unattended"]["id"] for e in told(quiet)[before:]] == [one]
        assert kept(quiet) == set()


def test_the_chain_holds_with_all_that(quiet: Stacks) -> None:
    verified = quiet.play(playbook="playbooks/evidence_verify.yml").require()
    assert "Traceback" not in verified.output
