# SPDX-License-Identifier: GPL-3.0-or-later
"""A ledger of each test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".pifleet" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Callable[[], Store]:
    """Opens the test's ledger. tests/integration/ledger runs the same tests with one in PostgreSQL."""
    return lambda: Store(path)
