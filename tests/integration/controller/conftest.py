# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller and a fleet's folder of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.controller import Controller


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)
