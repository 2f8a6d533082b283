# SPDX-License-Identifier: GPL-3.0-or-later
"""A ledger of each test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

HEADER = Header("site.yml", "a" * 40, False, None, ("all",), (), ("inventory/lab",), False, "operator", "2.19.14", "0.1.0")


def process_number(number: int = 1) -> Process:
    """Who runs Ansible: another one for each number."""
    return Process("controller", "boot", number, f"start-{number}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".pifleet" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Callable[[], Store]:
    """Opens the test's ledger, as each process does for itself. tests/integration/ledger runs the same tests with one in PostgreSQL."""
    return lambda: Store(path)


@pytest.fixture
def runs(ledger: Callable[[], Store]) -> Runs:
    """A repository that takes no process for gone."""
    return Runs(ledger(), gone=lambda _process: False)


@pytest.fixture
def header() -> Header:
    return HEADER


@pytest.fixture
def someone() -> Callable[[int], Process]:
    return process_number
