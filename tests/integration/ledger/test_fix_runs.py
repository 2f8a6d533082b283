# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ledger adds up of fix runs in its own words is in PostgreSQL what it is in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.support.fix_runs import World


def test_the_figures_are_those_of_a_file(ledger: Callable[[], Store], tmp_path: Path) -> None:
    worlds = [World(tmp_path / "elsewhere", ledger()), World(tmp_path / "ledger.db")]
    for world in worlds:
        world.fail(world.step(world.analysed(), "patch"), "build")
        world.create(world.another_run(2), "api")
    theirs, ours = (world.fix_runs.tally() for world in worlds)
    assert theirs == ours
    assert set(ours.seconds) == {("web", "analyze"), ("web", "patch"), ("web", "build")}
