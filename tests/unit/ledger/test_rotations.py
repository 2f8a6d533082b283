# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotations in the ledger: each recorded once, and what is overdue."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rotations import ROTATED, TAKEN_BACK, Rotations, due
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
HEADER = Header("rotate_secrets.yml", None, None, None, (), (), ("hosts",), False, "me", "2.19", "0.1.0")


def test_each_rotation_is_recorded_once_and_is_due_again_after_its_period(tmp_path: Path) -> None:
    store = Store(tmp_path / "ledger.db")
    mine = process.identify(1)
    moment = [NOW]
    rotations = Rotations(store, now=lambda: moment[0])

    def shown(*kinds: str) -> list[tuple[str, bool]]:
        return [(d.what, d.overdue) for d in due(store, kinds, lambda: moment[0])]

    assert shown("data_keys") == [("data_keys", True)]
    with pytest.raises(PifleetError, match="No run is open"):
        rotations.record(mine, ROTATED, {"what": "data_keys", "rotation": "r1"})
    Runs(store).open(HEADER, mine, ["pi-1"])
    for _again in range(2):
        rotations.record(mine, ROTATED, {"what": "data_keys", "rotation": "r1"})
        moment[0] += timedelta(days=1)
    rotations.record(mine, TAKEN_BACK, {"what": "k3s_token", "rotation": "r2"})
    moment[0] = NOW + timedelta(days=90)
    assert shown("data_keys", "k3s_token") == [("data_keys", False), ("k3s_token", True)]
    moment[0] += timedelta(seconds=1)
    assert shown("data_keys") == [("data_keys", True)]
    assert due(store, ["data_keys"])[0].last == "2026-06-01T00:00:00.000000Z"
