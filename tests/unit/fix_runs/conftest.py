# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fix_runs import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "ledger.db")
