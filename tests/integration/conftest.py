# SPDX-License-Identifier: GPL-3.0-or-later
"""The marker `full`: what CI leaves out of a folder that it runs."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: takes long, and runs only in the whole suite (make test-full)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only the whole suite runs."""
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out and not os.environ.get("PIFLEET_TEST_FULL"):
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
