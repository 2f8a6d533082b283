# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases in PostgreSQL: what holds in a ledger file holds there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.adopt import adopt
from tests.unit.releases import test_executor, test_history
from tests.unit.releases.conftest import World, make_plan

__all__ = ["make_plan"]


@pytest.fixture
def world(url: str, folder: Path) -> World:
    return World(url, folder)


adopt(test_executor, globals())
adopt(test_history, globals())
