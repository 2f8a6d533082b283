# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures of the ledger: of its outbox, its rebuilds and its tests of alerts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity, textfile
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.alert_tests import AlertTests, Due, due
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import Queries, Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds, Subject
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from prometheus_client.parser import text_string_to_metric_families

Ledger = Callable[[], Store]
Someone = Callable[[int], Process]
NOON = datetime(2025, 1, 2, 12, tzinfo=timezone.utc)


def figures(settings: identity.Settings) -> dict[str, float]:
    assert settings.textfile is not None
    samples = [s for family in text_string_to_metric_families(settings.textfile.read_text()) for s in family.samples]
    return {" ".join([sample.name.removeprefix("pifleet_"), *sample.labels.values()]): sample.value for sample in samples}


@pytest.fixture
def settings(tmp_path: Path) -> identity.Settings:
    return identity.Settings(tmp_path, textfile=tmp_path / "figures/pifleet-ledger.prom")


def test_nobody_asks(tmp_path: Path, ledger: Ledger) -> None:
    assert textfile.publish(identity.Settings(tmp_path), ledger()) == ""


def test_a_rebuild_under_way(settings: identity.Settings, ledger: Ledger, header: Header, someone: Someone) -> None:
    Runs(ledger(), now=lambda: NOON).open(header, someone(1), ["pi-4"])
    Rebuilds(ledger(), now=lambda: NOON).start(someone(1), Subject("pi-4", "pi-4.local", "agent", ("gone",)), {})
    assert textfile.publish(settings, ledger()) == ""
    found = figures(settings)
    assert found["rebuild_started_timestamp_seconds pi-4.local"] == NOON.timestamp()
    assert found["rebuild_budget_seconds pi-4.local"] == 3600
    assert "rebuild_seconds pi-4.local" not in found
    assert found["outbox_rows"] == found["outbox_dead_rows"] == found["outbox_oldest_timestamp_seconds"] == 0


def test_a_test_of_alerts_is_due_thirty_days_after_one_that_passed(
    settings: identity.Settings, ledger: Ledger, header: Header, someone: Someone
) -> None:
    moment = [NOON]
    tests = AlertTests(ledger(), now=lambda: moment[0])
    assert due(ledger()) == (Due("critical", None, True),)
    with pytest.raises(PifleetError, match="No run is open"):
        tests.refuse_without_run(someone(1))
    Runs(ledger(), now=lambda: NOON).open(header, someone(1), ["pi-4"])
    tests.refuse_without_run(someone(1))
    tests.record(someone(1), {"severity": "critical", "error": ""}, b"# report")
    moment[0] += timedelta(days=29)
    tests.record(someone(1), {"severity": "critical", "error": "it was not delivered"}, b"# another")
    (known,) = due(ledger(), lambda: moment[0])
    assert known.last and known.last.startswith("2025-01-02T12:00") and not known.overdue
    moment[0] += timedelta(days=1, seconds=1)
    assert due(ledger(), lambda: moment[0])[0].overdue
    textfile.publish(settings, ledger())
    assert figures(settings)["alert_test_timestamp_seconds critical"] == NOON.timestamp()
    told = Queries(ledger()).events(Wanted(kind="alert")).items
    assert [event["kind"] for event in told] == ["alert.tested"] * 2


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path, ledger: Ledger, header: Header, someone: Someone) -> None:
    Runs(ledger(), now=lambda: NOON).open(header, someone(1), ["pi-4"])
    why = textfile.publish(identity.Settings(tmp_path, textfile=Path("/proc/none/x.prom")), ledger())
    assert why.startswith("/proc/none/x.prom cannot be written: No such file or directory.")


@pytest.mark.parametrize(("text", "what"), [("textfile: figures.txt", "is figures.txt"), ("textfile: 3", "is no text")])
def test_settings_that_cannot_be(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / identity.FILE).write_text(text)
    with pytest.raises(identity.SettingsError, match=what):
        identity.load(tmp_path)
    (tmp_path / identity.FILE).write_text("textfile: figures/pifleet.prom")
    assert identity.load(tmp_path).textfile == tmp_path / "figures/pifleet.prom"
