# SPDX-License-Identifier: GPL-3.0-or-later
"""The test of alerts against an Alertmanager that is played: what it waits for, and what it never claims."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._observability.alert_test import AlertTest, Result, Way
from ansible_collections.pifleet.ops.plugins.plugin_utils import _alert_test

from tests.integration.observability.cases import ROUTES

WAYS = {"critical": Way(("webhook",), True, 10, 30), "nobody": Way((), False, 10, 30)}


class Alertmanager:
    """*receiver*: to whom it routes; *fails*: requests that fail; *status*: of the alert; *gone*: (method, number) that is not answered."""

    def __init__(self, receiver: str = "critical", *, fails: int = 0, **status: list[str]) -> None:
        self.receiver, self.fails, self.now = receiver, fails, 0.0
        self.status = {"silencedBy": [], "inhibitedBy": [], **status}
        self.alerts: dict[str, Any] = {}
        self.posted: list[dict[str, Any]] = []
        self.ok = self.bad = 0
        self.silent = False
        self.named = True

    def __call__(self, method: str, path: str, body: str) -> str:
        if self.silent:
            raise PifleetError("it does not answer")
        if method == "POST":
            (alert,) = json.loads(body)
            self.posted.append(alert)
            self.sent = False
            self.due = self.now + 10
            return ""
        if path == "/metrics":
            if self.posted and not self.sent and self.now >= self.due:
                self.sent = self.fails == 0
                self.ok, self.bad = self.ok + int(self.sent), self.bad + int(not self.sent)
            labels = '{integration="webhook",receiver_name="critical"}' if self.named else '{integration="webhook"}'
            total = f"alertmanager_notification_requests_total{labels} {self.ok + self.bad}"
            return f"{total}\nalertmanager_notification_requests_failed_total{labels} {self.bad}\n"
        return json.dumps([{**self.posted[-1], "status": self.status, "receivers": [{"name": self.receiver}]}])

    def time(self) -> float:
        return 1_700_000_000 + self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds

    def test(self) -> Result:
        return AlertTest(self, self, WAYS).run("id", "critical", "docs/x.md#y")


@pytest.mark.parametrize("named", [True, False])
def test_passes(*, named: bool) -> None:
    there = Alertmanager()
    there.named = named
    found = there.test()
    assert (found.error, found.receivers, found.seconds) == ("", ("critical",), 10.0)
    assert found.fired_at <= found.routed_at < found.delivered_at < found.resolved_at
    fired, resolved = there.posted
    assert fired["labels"] == resolved["labels"]
    assert fired["endsAt"] > resolved["endsAt"]


@pytest.mark.parametrize(
    ("there", "routed", "error"),
    [
        (Alertmanager(fails=1), ("critical",), "Not within 100 seconds was told of it: critical"),
        (Alertmanager("pager"), ("pager",), "It was routed to pager, which is not configured here"),
        (Alertmanager("nobody"), ("nobody",), "It was routed to nobody, which tells nobody"),
        (Alertmanager(silencedBy=["x"]), (), "A silence, or another alert, keeps it back"),
        (Alertmanager(inhibitedBy=["x"]), (), "A silence, or another alert, keeps it back"),
    ],
)
def test_fails_and_resolves_it_all_the_same(there: Alertmanager, routed: tuple[str, ...], error: str) -> None:
    """What was seen until then is kept."""
    found = there.test()
    assert error in found.error
    assert (found.receivers, bool(found.routed_at)) == (routed, bool(routed))
    assert found.fired_at and not found.delivered_at and not found.resolved_at
    assert len(there.posted) == 2


def test_nothing_is_claimed_of_one_that_does_not_answer() -> None:
    there = Alertmanager()
    there.silent = True
    found = there.test()
    assert (found.error, found.fired_at) == ("it does not answer", "")


def test_times_are_those_of_the_routes() -> None:
    ways = _alert_test.ways_of(ROUTES)
    assert ways["critical"] == {"integrations": ["webhook"], "resolved": True, "wait": 10, "interval": 30}
    assert ways["warning"] == {"integrations": ["webhook"], "resolved": True, "wait": 30, "interval": 300}
    assert ways["watchdog"]["resolved"] is False
    assert ways["nobody"]["integrations"] == []
    with pytest.raises(PifleetError, match="'soon', which is no time"):
        _alert_test.ways_of({"route": {"receiver": "a", "group_wait": "soon"}, "receivers": [{"name": "a"}]})


@pytest.mark.parametrize(("text", "value"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("0", 0), ("500ms", 0.5)])
def test_durations(text: str, value: float) -> None:
    assert _alert_test.seconds(text) == value


def test_the_report_has_no_gaps() -> None:
    there = Alertmanager(fails=1)
    for one in (Alertmanager().test(), there.test()):
        data = {name: getattr(one, name) for name in Result.__slots__}
        text = _alert_test.to_markdown(data, "pi-1")
        assert "{{" not in text and ("failed" if one.error else "passed") in text and "docs/x.md#y" in text
