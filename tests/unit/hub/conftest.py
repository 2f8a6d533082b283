# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.hub_office import HubFleet


@pytest.fixture
def fleet(tmp_path: Path) -> HubFleet:
    return HubFleet(tmp_path / "fleet")
