# SPDX-License-Identifier: GPL-3.0-or-later
"""A synthetic alert on its way: fired, routed, delivered, resolved, each seen by what Alertmanager itself says.

https://prometheus.io/docs/alerting/latest/clients/ and its own figures: requests to a receiver, and those that failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

NAME = "PifleetAlertTest"
#: seconds that Alertmanager may take beyond what its configuration asks it to wait
PATIENCE = 60.0
#: after which a test that was cut off is over by itself
_LONGEST = timedelta(minutes=15)
_SAMPLE = re.compile(r"^alertmanager_notification_requests(_failed)?_total\{([^}]*)\} (\S+)$", re.M)

#: (method, path, body) to the answer's text. Raises PifleetError.
Call = Callable[[str, str, str], str]


class Clock(Protocol):
    """The process's clocks: seconds since the epoch, *monotonic* seconds, and *sleep*."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Way:
    """A receiver. *integrations*: by which it is told; *resolved*: whether it is told of the end too; *wait*, *interval*: seconds that its
    routes let a group wait for its first, and its next message."""

    integrations: tuple[str, ...]
    resolved: bool
    wait: float
    interval: float


@dataclass(frozen=True, slots=True)
class Result:
    """How far the test came: times are UTC, empty where it did not come to that. *error*: why it failed, empty where it did not."""

    test_id: str
    severity: str
    runbook: str
    fired_at: str = ""
    routed_at: str = ""
    delivered_at: str = ""
    resolved_at: str = ""
    receivers: tuple[str, ...] = ()
    seconds: float | None = None
    error: str = ""


class AlertTest:
    """One test, by *call*. *ways*: every receiver of the configuration, by name."""

    def __init__(self, call: Call, clock: Clock, ways: Mapping[str, Way]) -> None:
        self._call, self._clock, self._ways = call, clock, ways

    def run(self, test_id: str, severity: str, runbook: str) -> Result:
        """Return how the test went. What was fired is resolved in any case, by its own end where nothing else is left."""
        found = Result(test_id, severity, runbook)
        try:
            before = self._requests()
            self._post(found, _LONGEST)
        except PifleetError as error:
            return replace(found, error=str(error))
        began = self._clock.monotonic()
        found = replace(found, fired_at=self._now())
        try:
            # one after the other, so that what was seen until then is kept where it fails
            found = self._route(found)
            found = self._deliver(found, before, began)
        except PifleetError as error:
            found = replace(found, error=str(error))
        try:
            told = self._requests()
            self._post(found, timedelta(0))
            return found if found.error else self._resolve(found, told)
        except PifleetError as error:
            return replace(found, error=found.error or str(error))

    def _route(self, found: Result) -> Result:
        names = self._routed(found)
        return replace(found, receivers=names, routed_at=self._now())

    def _deliver(self, found: Result, before: Mapping[tuple[str, str], int], began: float) -> Result:
        names = found.receivers
        unknown = [name for name in names if name not in self._ways]
        told = [name for name in names if name in self._ways and self._ways[name].integrations]
        if unknown or not told:
            what = f"It was routed to {', '.join(unknown or names)}, {'which is not configured here' if unknown else 'which tells nobody'}."
            raise PifleetError(what, "Compare alertmanager-config.yaml with what runs: playbooks/observability.yml.")
        limit = max(self._ways[name].wait + self._ways[name].interval for name in told) + PATIENCE
        self._wait_for(told, before, limit, "was told of it")
        return replace(found, delivered_at=self._now(), seconds=round(self._clock.monotonic() - began, 1))

    def _resolve(self, found: Result, before: Mapping[tuple[str, str], int]) -> Result:
        told = [name for name in found.receivers if name in self._ways and self._ways[name].resolved]
        if told:
            self._wait_for(told, before, max(self._ways[name].interval for name in told) + PATIENCE, "was told of its end")
        return replace(found, resolved_at=self._now())

    def _routed(self, found: Result) -> tuple[str, ...]:
        end = self._clock.monotonic() + PATIENCE
        while self._clock.monotonic() < end:
            for alert in json.loads(self._call("GET", "/api/v2/alerts", "")):
                if alert["labels"].get("test") == found.test_id:
                    state = alert["status"]
                    if state["silencedBy"] or state["inhibitedBy"]:
                        raise PifleetError("A silence, or another alert, keeps it back.", "`amtool silence query` lists silences.")
                    return tuple(sorted(receiver["name"] for receiver in alert["receivers"]))
            self._clock.sleep(0.5)
        raise PifleetError("Alertmanager took it, and does not have it.", "See Alertmanager's journal.")

    def _wait_for(self, receivers: list[str], before: Mapping[tuple[str, str], int], limit: float, what: str) -> None:
        end, missing = self._clock.monotonic() + limit, receivers
        while missing:
            if self._clock.monotonic() >= end:
                hint = "Is its address in observability_receivers right, and does it answer? Alertmanager's journal has what it said."
                raise PifleetError(f"Not within {limit:g} seconds {what}: {', '.join(missing)}.", hint)
            self._clock.sleep(0.5)
            now = self._requests()
            missing = [name for name in missing if any(_count(now, key) <= _count(before, key) for key in self._keys(name))]

    def _keys(self, name: str) -> list[tuple[str, str]]:
        return [(name, integration) for integration in self._ways[name].integrations]

    def _requests(self) -> dict[tuple[str, str], int]:
        """How many requests succeeded, by receiver (empty without the feature receiver-name-in-metrics) and integration."""
        found: dict[tuple[str, str], int] = {}
        for failed, labels, value in _SAMPLE.findall(self._call("GET", "/metrics", "")):
            named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            key = (named.get("receiver_name", ""), named["integration"])
            found[key] = found.get(key, 0) + int(float(value)) * (-1 if failed else 1)
        return found

    def _post(self, found: Result, until: timedelta) -> None:
        now = datetime.fromtimestamp(self._clock.time(), tz=timezone.utc)
        alert = {
            "labels": {"alertname": NAME, "severity": found.severity, "test": found.test_id},
            "annotations": {
                "summary": f"Test of the route of {found.severity} alerts: nothing is wrong",
                "description": "Sent by playbooks/alert_test.yml, which resolves it too.",
                "runbook_url": found.runbook,
            },
            # the end alone decides whether it is over; without a beginning it would begin when it ends
            "startsAt": (now - timedelta(seconds=1)).isoformat(),
            "endsAt": (now + until).isoformat(),
        }
        self._call("POST", "/api/v2/alerts", json.dumps([alert]))

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock.time(), tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _count(requests: Mapping[tuple[str, str], int], key: tuple[str, str]) -> int:
    """Where Alertmanager does not tell its receivers apart, all of an integration are counted together."""
    return requests.get(key, requests.get(("", key[1]), 0))
