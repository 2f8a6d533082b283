# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds for all tests: the checkout can be imported under the name it has once installed, what it runs prints as Ansible does by default,
and where PIFLEET_NO_SKIPS is set (`make test`, CI), a skipped or expectedly failing test is a failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

# tests read what a run prints up to its recap, and nothing behind that; those of the live view ask for it
os.environ["ANSIBLE_STDOUT_CALLBACK"] = "ansible.builtin.default"

# how long an example takes, or its making, says something about the machine's other work, not about the code; and CI draws the same ones
# each time, so that a change is judged by what it changes
settings.register_profile(
    "pifleet",
    deadline=None,
    derandomize=not os.environ.get("PIFLEET_TEST_FULL"),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pifleet")

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


def _refused(report: _Report) -> _Report:
    """Return *report*, turned into a failure where it is a skip that may not be."""
    if os.environ.get("PIFLEET_NO_SKIPS") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skipped, and nothing may be skipped in this run: {report.longrepr}"
        if hasattr(report, "wasxfail"):
            del report.wasxfail
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _refused((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _refused((yield))
