# SPDX-License-Identifier: GPL-3.0-or-later
"""The shared lab. Tests of this folder run in the order of their files; each leaves a converged cluster behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.fleet import ROOT, Fleet

FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """The four nodes of inventory/lab, running."""
    lab = Fleet(ROOT / os.environ.get("PIFLEET_TEST_INVENTORY", "inventory/lab"))
    lab.up()
    return lab


@pytest.fixture
def converged(fleet: Fleet) -> Fleet:
    """The same, with a converged cluster: a run that has nothing to do is quick."""
    fleet.play().require()
    return fleet


@pytest.fixture
def fresh_worker(fleet: Fleet) -> Iterator[str]:
    """A worker with nothing on it, unknown to a cluster whose server runs. It is as new again afterwards, whatever was done to it."""
    fleet.play("--limit", fleet.servers[0]).require()
    worker = fleet.workers[-1]
    fleet.wipe(worker)
    fleet.forget(worker)
    yield worker
    fleet.wipe(worker)
    fleet.forget(worker)
