# SPDX-License-Identifier: GPL-3.0-or-later
"""A ledger of each test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".pifleet" / "ledger.db"


@pytest.fixture
def runs(path: Path) -> Runs:
    """A repository that takes no process for gone."""
    return Runs(Store(path), gone=lambda _process: False)


@pytest.fixture
def header() -> Header:
    return Header("site.yml", "a" * 40, False, None, ("all",), (), ("inventory/lab",), False, "operator", "2.19.14", "0.1.0")


@pytest.fixture
def someone() -> Callable[[int], Process]:
    return lambda number=1: Process("controller", "boot", number, f"start-{number}")
