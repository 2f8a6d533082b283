# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/alert_test.yml: fired, routed by severity, received, resolved, recorded; and a receiver that refuses."""

from __future__ import annotations

import json

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._observability.alert_test import NAME
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import Queries, Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.integration.observability.conftest import TOKEN, Watch, until
from tests.support.fleet import ROOT

pytestmark = pytest.mark.full


def events(fleet: Watch) -> list[dict]:
    store = Store(fleet.folder / ".pifleet/ledger.db")
    return list(reversed(Queries(store).events(Wanted(kind="alert")).items))


def received(fleet: Watch, receiver: str, status: str) -> list[dict]:
    return [one for one in fleet.receiver.alerts(receiver, status) if one["labels"]["alertname"] == NAME]


def test_check_sends_nothing_and_says_what_is_overdue(observed: Watch) -> None:
    run = observed.day("alert_test", "--check").require()
    assert "Would fire an alert of severity critical" in run.output and "were never tested" in run.output
    assert NAME not in observed.firing() and events(observed) == []
    assert "were never tested" in observed.day("observability").require().output


def test_critical_alert_is_received_resolved_and_recorded(observed: Watch) -> None:
    run = observed.day("alert_test").require()
    (fired,) = received(observed, "critical", "firing")
    (resolved,) = received(observed, "critical", "resolved")
    assert received(observed, "warning", "firing") == []
    assert fired["labels"] == resolved["labels"] and fired["labels"]["severity"] == "critical"
    (event,) = events(observed)
    data = event["data"]
    assert (data["test_id"], data["receivers"], data["error"]) == (fired["labels"]["test"], ["critical"], "")
    assert data["fired_at"] <= data["routed_at"] <= data["delivered_at"] <= data["resolved_at"]
    assert data["seconds"] < 300
    page, _, anchor = fired["annotations"]["runbook_url"].partition("#")
    assert data["runbook"] == f"{page}#{anchor}"
    assert f"## {NAME}" in (ROOT / page).read_text() and anchor == NAME.lower()
    (body,) = event["bodies"]
    assert body["name"] == "alert-test.md"
    assert TOKEN not in run.output + json.dumps(event)
    assert NAME not in observed.firing()
    assert "were tested last at" in observed.day("alert_test", "--check").require().output


def test_receiver_that_refuses_fails_the_test_which_is_recorded_and_resolved(observed: Watch) -> None:
    observed.receiver.refusing = True
    try:
        run = observed.day("alert_test")
    finally:
        observed.receiver.refusing = False
    assert run.rc != 0
    assert "was told of it: critical" in " ".join(run.output.split())
    failed = events(observed)[-1]["data"]
    assert failed["error"] and not failed["delivered_at"] and failed["receivers"] == ["critical"]
    until(lambda: NAME not in observed.firing(), "it is resolved")
    # the one that passed counts
    assert "were tested last at" in observed.day("alert_test", "--check").require().output


def test_without_alertmanager_it_says_so(observed: Watch) -> None:
    run = observed.day("alert_test", "-e", "observability_host=watch-2.local")
    assert run.rc != 0 and "Alertmanager does not answer at http://127.0.0.1:9093" in " ".join(run.output.split())
    assert events(observed)[-1]["data"]["fired_at"] == ""
