# SPDX-License-Identifier: GPL-3.0-or-later
"""The drill: on a fleet that runs a node is wiped and comes back, and the report has what the ledger has."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from tests.integration.runbooks.conftest import NODE
from tests.support.checkout import Checkout, kill
from tests.support.fleet import Fleet
from tests.support.pages import Story

BOOK = "ansible-playbook playbooks/drill.yml"


def test_it_refuses_to_wipe_what_was_not_confirmed(checkout: Checkout, fleet: Fleet) -> None:
    before = fleet.nodes()[NODE]["metadata"]["uid"]
    for args, says in (
        ("", "Say which node is wiped"),
        ("-e node=nobody -e confirm=nobody", "nobody is not in the group k3s_cluster"),
        (f"-e node={fleet.servers[0]} -e confirm={fleet.servers[0]}", "is the only server"),
        (f"-e node={NODE}", f"add exactly: -e confirm={NODE}"),
        (f"-e node={NODE} -e confirm=lab", f"add exactly: -e confirm={NODE}"),
        (f"-e node={NODE} -e confirm={NODE} --limit {NODE}", "without --limit"),
    ):
        code, output = checkout.shell(f"{BOOK} {args}")
        assert code != 0
        assert says in " ".join(output.split())
    assert fleet.nodes()[NODE]["metadata"]["uid"] == before


def noted(checkout: Checkout) -> set[str]:
    """The names of what the runs left, past the code that writes it."""
    with closing(sqlite3.connect(f"file:{checkout.folder}/.pifleet/ledger.db?mode=ro", uri=True, timeout=60)) as db:
        return {name for (name,) in db.execute("SELECT name FROM artifacts JOIN runs ON runs.id = run_id WHERE status = 'running'")}


@pytest.mark.full
def test_a_drill_that_was_killed_begins_again_with_the_node_that_it_wiped(checkout: Checkout, fleet: Fleet) -> None:
    line = f"{BOOK} -e node={NODE} -e confirm={NODE}"
    process = checkout.start(line)
    while "drill-wipe.txt" not in noted(checkout):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    kill(process)
    code, output = checkout.shell(line)
    assert code == 0, output[-6000:]
    assert fleet.ready() == set(fleet.hosts)
    with closing(sqlite3.connect(f"file:{checkout.folder}/.pifleet/ledger.db?mode=ro", uri=True)) as db:
        (last,) = db.execute("SELECT id FROM runs WHERE playbook LIKE '%drill.yml' ORDER BY id DESC LIMIT 1").fetchone()
        names = [name for (name,) in db.execute("SELECT name FROM artifacts WHERE run_id = ? ORDER BY number", (last,))]
        rebuilds = db.execute("SELECT count(*) FROM rebuilds WHERE host = ? AND status = 'succeeded'", (NODE,)).fetchone()[0]
    assert names[0] == "drill-recover.txt"
    assert rebuilds >= 2


@pytest.mark.full
def test_drill(tell: Callable[..., Story], checkout: Checkout, fleet: Fleet) -> None:
    report = checkout.folder / "docs/governance/reviews/end-to-end-validation.md"
    report.unlink(missing_ok=True)
    before = fleet.nodes()[NODE]["metadata"]
    with tell("docs/runbooks/drill.md") as page:
        page.run("--check")
        assert fleet.nodes()[NODE]["metadata"]["uid"] == before["uid"]
        assert not report.exists()
        page.run("confirm=NODE")
    assert fleet.ready() == set(fleet.hosts)
    assert fleet.nodes()[NODE]["metadata"]["uid"] != before["uid"]
    with closing(sqlite3.connect(f"file:{checkout.folder}/.pifleet/ledger.db?mode=ro", uri=True)) as db:
        drill = "SELECT id FROM runs WHERE playbook LIKE '%drill.yml' AND status = 'succeeded' ORDER BY id DESC LIMIT 1"
        kept = dict(db.execute(f"SELECT name, sha256 FROM artifacts WHERE run_id = ({drill})").fetchall())
    phases = ["bootstrap", "stacks", "wipe", "rebuild", "evidence"]
    assert {name for name in kept if name.startswith("drill-")} == {f"drill-wiping-{NODE}.txt", *(f"drill-{phase}.txt" for phase in phases)}
    text = report.read_text()
    assert text.count("The ledger is what was recorded") == 1
    for phase in phases:
        assert f"| {phase} | " in text
        assert kept[f"drill-{phase}.txt"] in text
    assert f"| Node | {NODE} (agent) |" in text
