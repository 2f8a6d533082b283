# SPDX-License-Identifier: GPL-3.0-or-later
"""A rebuild that is killed in the middle: the same command goes on, and its record shows both attempts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._rebuild_report import STEPS, verify

from tests.integration.rebuild.conftest import ACCEPT, LEDGER, Rebuilt, rows, steps_of
from tests.support.fleet import Process

FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))


def wait_for_step(process: Process, node: str, step: str, earlier: int) -> None:
    """Return as soon as the rebuild that *process* makes has begun *step*."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.process.poll() is None:
        found = rows("SELECT id FROM rebuilds WHERE host = ?", node)
        if len(found) > earlier and steps_of(node)[-1]["step"] == step:
            return
        time.sleep(0.05)
    raise AssertionError(f"the rebuild did not come to {step}: {process.log.read_text()[-3000:]}")


# between each pair of steps: the moment at which the later one has just begun
@pytest.mark.parametrize("step", STEPS[1:] if FULL else ("prepare", "ready"))
def test_the_same_command_goes_on(fleet: Rebuilt, step: str) -> None:
    units, begun = fleet.invocations(fleet.others), len(rows("SELECT id FROM rebuilds WHERE host = ?", fleet.node))
    fleet.settled()
    fleet.swap()
    process = fleet.start("site.yml", "--limit", fleet.node, *ACCEPT)
    wait_for_step(process, fleet.node, step, begun)
    process.kill()

    run = fleet.rebuild().require()

    assert {host for host, _task in run.changed} <= {fleet.node}
    assert fleet.ready() == set(fleet.hosts)
    assert fleet.invocations(fleet.others) == units
    assert len(rows("SELECT id FROM rebuilds WHERE host = ?", fleet.node)) == begun + 1
    record = Rebuilds(Store(LEDGER)).of_host(fleet.node)[-1]
    assert (len(record.attempts), record.status) == (2, "succeeded")
    assert record.attempts[0].steps[-1].step == step
    assert record.attempts[0].steps[-1].outcome == "interrupted"
    assert verify(record) == []
    fleet.settled()
    assert fleet.rebuild().require().changed == set()


def test_a_node_that_came_back_otherwise_is_not_resumed(fleet: Rebuilt, tmp_path: Path) -> None:
    """A rebuild is cut off after the retirement, and somebody brings the node back without its record."""
    fleet.settled()
    fleet.swap()
    begun = len(rows("SELECT id FROM rebuilds WHERE host = ?", fleet.node))
    process = fleet.start("site.yml", "--limit", fleet.node, *ACCEPT)
    wait_for_step(process, fleet.node, "prepare", begun)
    process.kill()
    fleet.rebuild("-e", f"fleet_root={tmp_path}").require()  # which has a ledger of its own

    run = fleet.rebuild().require()

    assert run.changed == set()
    assert "did not bring it back" in run.output
    record = Rebuilds(Store(LEDGER)).of_host(fleet.node)[-1]
    assert (record.status, len(record.attempts)) == ("abandoned", 1)
    assert "did not bring it back" not in fleet.rebuild().require().output
    fleet.settled()
