# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's own commands on a fleet of two nodes, and the stand-in on three servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import lab

NODES = Path(__file__).parent / "lab-nodes"

# Three servers by hand take minutes; the playbooks' own tests of them run always.
collect_ignore = [] if os.environ.get("PIFLEET_TEST_FULL") else ["test_2_standin.py"]


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    """Both nodes, as new."""
    lab("down", inventory=NODES)
    lab("up", inventory=NODES)
    yield
    lab("down", inventory=NODES)
