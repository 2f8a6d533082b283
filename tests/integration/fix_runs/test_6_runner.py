# SPDX-License-Identifier: GPL-3.0-or-later
"""fix.yml, unchanged, as AWX runs it: through ansible-runner."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.fix_runs.conftest import NODE, Shop
from tests.support.runner import printed, run

BOOK = "playbooks/fix.yml"


def given(shop: Shop, instruction: str) -> tuple[str, str]:
    return "-e", json.dumps({"fleet_root": str(shop.repository.root), "service": "web", "instruction": instruction})


def test_a_service_is_repaired(broken: Shop, tmp_path: Path) -> None:
    others = broken.others()
    rc, events = run(broken.fleet, tmp_path / "runner", BOOK, *given(broken, "add greeting 1.0"))
    assert rc == 0, printed(events)[-3000:]
    stats = next(event["event_data"] for event in events if event["event"] == "playbook_on_stats")
    assert (stats["failures"], stats["dark"]) == ({}, {}) and stats["changed"][NODE] > 0
    assert (broken.last().status, broken.states()) == ("succeeded", "succeeded " * 5 + "skipped")
    assert broken.says() == "1.0 good"
    assert broken.others() == others


def test_a_refusal_is_told_there_and_touches_nothing(well: Shop, tmp_path: Path) -> None:
    everything = well.everything()
    rc, events = run(well.fleet, tmp_path / "runner", BOOK, *given(well, "dance"))
    assert rc == 2
    said = [str(event["event_data"]["res"].get("msg")) for event in events if event["event"] == "runner_on_failed"]
    assert "instruction" in said[-1]
    assert well.fix_runs.listed()[1] == 0 and well.everything() == everything


def test_check_shows_the_plan_there(broken: Shop, tmp_path: Path) -> None:
    everything = broken.everything()
    rc, events = run(broken.fleet, tmp_path / "runner", BOOK, *given(broken, "add greeting 1.0"), "--check")
    assert rc == 0, printed(events)[-3000:]
    assert "+greeting==1.0" in printed(events)
    assert broken.fix_runs.listed()[1] == 0 and broken.everything() == everything
