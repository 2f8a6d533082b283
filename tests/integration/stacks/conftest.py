# SPDX-License-Identifier: GPL-3.0-or-later
"""Two lab nodes without k3s. Most tests use the first one's Docker Engine, each from a clean node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.stack_node import StackNode

HERE = Path(__file__).resolve().parent
FIRST, SECOND = "stack-1.local", "stack-2.local"


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    lab = Fleet(HERE / "lab-stacks")
    lab.up()
    yield lab
    lab.lab("down", "-i", str(lab.inventory))


@pytest.fixture(scope="session")
def engine(fleet: Fleet) -> StackNode:
    """The first node with a running engine, the lab's images and the modules of this checkout."""
    found = StackNode(f"pifleet-{fleet.inventory.name}-{FIRST}")
    found.install()
    return found


@pytest.fixture
def node(engine: StackNode) -> StackNode:
    """The same, clean."""
    engine.clean()
    return engine
