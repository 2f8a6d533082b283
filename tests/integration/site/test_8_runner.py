# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml, unchanged, as AWX runs it: through ansible-runner, with its events and its way of printing."""

from __future__ import annotations

from pathlib import Path

from tests.integration.site.test_7_evidence import newest
from tests.support.fleet import Fleet
from tests.support.runner import printed, run


def test_converged_fleet_through_ansible_runner(converged: Fleet, tmp_path: Path) -> None:
    converged.play().require()
    units = converged.invocations()
    rc, events = run(converged, tmp_path, "site.yml")
    stats = next(e["event_data"] for e in events if e["event"] == "playbook_on_stats")
    assert rc == 0, printed(events)[-3000:]
    assert (stats["changed"], stats["failures"], stats["dark"]) == ({}, {}, {})
    assert set(stats["ok"]) >= set(converged.hosts)
    assert newest(converged)["status"] == "succeeded"
    assert converged.invocations() == units


def test_what_fails_fails_there_too(converged: Fleet, tmp_path: Path) -> None:
    rc, events = run(converged, tmp_path, "site.yml", "-e", "k3s_join_timeout=soon")
    assert rc == 2
    said = [e["event_data"]["res"]["msg"] for e in events if e["event"] == "runner_on_failed"]
    assert "k3s_join_timeout: is refused" in said[-1]
