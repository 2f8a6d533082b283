# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-playbook killed at random points of a bootstrap: one re-run always converges."""

from __future__ import annotations

import random
import time

import pytest

from tests.integration.site.conftest import FULL
from tests.support.fleet import Fleet

POINTS = 20 if FULL else 2


@pytest.fixture(scope="module")
def whole_run(fleet: Fleet) -> float:
    """Seconds of an undisturbed bootstrap of fresh nodes."""
    fleet.wipe()
    return fleet.play().require().seconds


@pytest.mark.parametrize("point", range(POINTS))
def test_one_run_after_a_kill_converges(fleet: Fleet, whole_run: float, point: int) -> None:
    # spread over the whole run, at a random place of each part; seeded, so that a failure can be repeated
    moment = whole_run * (point + random.Random(point).random()) / POINTS
    fleet.wipe()
    process = fleet.start("site.yml")
    time.sleep(moment)
    process.kill()
    done = process.results()[-1]["task"] if process.results() else "nothing"
    fleet.play().require()
    assert fleet.ready() == set(fleet.hosts), f"killed after {moment:.1f} s, {done}"
    again = fleet.play().require()
    assert again.changed == set(), f"killed after {moment:.1f} s, {done}"
    running = fleet.sh(fleet.servers[0], "cat /run/pifleet-k3s.inputs")
    assert "/etc/rancher/k3s/config.yaml" in running


def test_the_killed_runs_are_reported(fleet: Fleet) -> None:
    process = fleet.start("site.yml")
    deadline = time.monotonic() + 30
    while not any("record" in t["task"] for t in process.results()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    assert "interrupted" in fleet.play().require().output
