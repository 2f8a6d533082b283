# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-playbook killed at random points of a bootstrap: --check predicts what is left to do, and one re-run always converges."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing

import pytest

from tests.integration.site.conftest import FULL
from tests.support.fleet import ROOT, Fleet, Run

POINTS = 20 if FULL else 2


def test_nodes_that_lost_their_cluster_begin_a_new_one_and_it_is_said(fleet: Fleet, bootstrap: Run) -> None:
    said = " ".join(bootstrap.output.split())
    assert f"/{fleet.inventory.name}/kubeconfig reaches at https://{fleet.address(fleet.servers[0])}:6443, and no server holds it" in said
    assert "playbooks/restore.yml -e snapshot=latest" in said


def status_of(pid: int) -> str:
    """What the ledger says of the newest run of a process."""
    with closing(sqlite3.connect(ROOT / ".pifleet" / "ledger.db", timeout=60)) as ledger:
        found = ledger.execute("SELECT status FROM runs WHERE pid = ? ORDER BY started_at DESC LIMIT 1", (pid,)).fetchone()
    return str(found[0])


@pytest.mark.parametrize("point", range(POINTS))
def test_one_run_after_a_kill_converges(fleet: Fleet, bootstrap: Run, point: int) -> None:
    # spread over the whole run, at a random place of each part; seeded, so that a failure can be repeated
    moment = bootstrap.seconds * (point + random.Random(point).random()) / POINTS
    fleet.wipe()
    process = fleet.start("site.yml")
    time.sleep(moment)
    begun = bool(process.results()) and process.process.poll() is None
    process.kill()
    for host in fleet.hosts:  # a module goes on where it was begun, and a check beside it cannot know what it still does
        fleet.sh(host, "timeout 150 sh -c 'while pgrep -x sudo; do sleep 0.2; done' >/dev/null || true")
    done = process.results()[-1]["task"] if process.results() else "nothing"
    check = fleet.play("--check").require()
    run = fleet.play().require()
    assert run.changed == check.changed, f"killed after {moment:.1f} s, {done}"
    if begun:  # said by whichever run of this checkout comes next, another fleet's too, so the ledger is asked
        assert status_of(process.process.pid) == "interrupted"
    assert fleet.ready() == set(fleet.hosts), f"killed after {moment:.1f} s, {done}"
    again = fleet.play().require()
    assert again.changed == set(), f"killed after {moment:.1f} s, {done}"
    running = fleet.sh(fleet.servers[0], "cat /run/pifleet-k3s.inputs")
    assert "/etc/rancher/k3s/config.yaml" in running
