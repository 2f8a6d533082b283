# SPDX-License-Identifier: GPL-3.0-or-later
"""No test here asks whether data reached the disk, and there are thousands of writes: fsync is left out."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
