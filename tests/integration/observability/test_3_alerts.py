# SPDX-License-Identifier: GPL-3.0-or-later
"""From a figure to a message, through what really runs, without the rules' patience, which promtool tests: nobody waits hours."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.integration.observability.cases import BY_NAME, RULES
from tests.integration.observability.conftest import HOST, OTHER, Watch, until

pytestmark = pytest.mark.full

FIGURES = "/var/lib/prometheus/node-exporter"
#: what each alert of a node comes from
CAUSES = {
    "NodeUndervoltage": "pifleet_undervoltage 1",
    # what was, and is no more
    "NodeUndervoltageOccurred": "pifleet_undervoltage_occurred 1\npifleet_undervoltage 0",
    "NodeThrottled": "pifleet_throttled 1",
    "NodeHot": "pifleet_temperature_celsius 81",
    "StorageWorn": 'pifleet_storage_wear_ratio{device="mmcblk0"} 0.9',
    "StorageErrors": 'pifleet_storage_errors{device="mmcblk0p2"} 1',
    "NodeClockUnsynced": "pifleet_clock_synchronised 0",
    "StackDrifted": 'pifleet_stack_status{stack="proxy",status="drifted"} 1',
    "StackReconcileFailed": 'pifleet_stack_status{stack="web",status="failed"} 1',
    "StacksNotReconciled": "pifleet_stacks_success 0",
    "OutboxStuck": "pifleet_outbox_dead_rows 1",
    "RebuildOverBudget": (
        'pifleet_rebuild_started_timestamp_seconds{node="pi-4"} 1700000000\npifleet_rebuild_budget_seconds{node="pi-4"} 3600'
    ),
    "AlertTestOverdue": 'pifleet_alert_test_timestamp_seconds{severity="critical"} 1',
}


@pytest.fixture(scope="module")
def impatient(observed: Watch) -> Iterator[Watch]:
    """Rules without patience, scraped and evaluated each second; and the role's own again afterwards."""
    observed.sh(
        HOST,
        "sed -i 's/for: .*/for: 0s/' /etc/prometheus/rules/pifleet.yml && "
        "sed -i -E 's/(scrape_interval|scrape_timeout|evaluation_interval): .*/\\1: 1s/' /etc/prometheus/prometheus.yml && "
        "sed -i -E 's/group_wait: .*/group_wait: 1s/' /etc/prometheus/alertmanager.yml && "
        "systemctl restart prometheus prometheus-alertmanager",
    )
    observed.sh(OTHER, "systemctl stop pifleet-metrics.timer pifleet-metrics.service")
    until(lambda: observed.sh(HOST, "curl -sf http://127.0.0.1:9090/-/ready || true") != "", "Prometheus serves")
    yield observed
    observed.sh(OTHER, f"rm -f {FIGURES}/test.prom; systemctl start pifleet-metrics.timer prometheus-node-exporter")
    assert {host for host, _task in observed.day("observability").require().changed} == {HOST}


def figures(fleet: Watch, text: str) -> None:
    """Whole or not at all, as the collection's own writers do."""
    fleet.sh(OTHER, f"cat >{FIGURES}/.new <<'END'\n{text}\nEND\nmv {FIGURES}/.new {FIGURES}/test.prom; rm -f {FIGURES}/pifleet-node.prom")


def test_every_alert_of_the_fleet_has_its_cause_here() -> None:
    groups = [g for g in RULES["pifleet"]["groups"] if g["name"] != "pifleet-monitoring"]
    names = {rule["alert"] for group in groups for rule in group["rules"]}
    assert names == {*CAUSES, "NodeDown", "NodeFiguresStale"}


def test_every_cause_comes_to_its_receiver(impatient: Watch) -> None:
    """NodeUndervoltage keeps NodeThrottled back, and so comes first."""
    for alert in ("NodeUndervoltage", "others"):
        wanted = {alert} if alert in CAUSES else set(CAUSES) - {"NodeUndervoltage"}
        figures(impatient, "\n".join(CAUSES[name] for name in sorted(wanted)))
        for name in sorted(wanted):
            receiver = BY_NAME[name]["labels"]["severity"]

            def came(name: str = name, receiver: str = receiver) -> bool:
                return any(one["labels"]["alertname"] == name for one in impatient.receiver.alerts(receiver))

            until(came, f"{name} comes to {receiver}")
    messages = [one for receiver in ("critical", "warning") for one in impatient.receiver.alerts(receiver)]
    assert {one["labels"]["instance"] for one in messages if one["labels"]["alertname"] in CAUSES} >= {OTHER}
    figures(impatient, "")


def test_stale_figures_are_told(impatient: Watch) -> None:
    impatient.sh(OTHER, f"touch -d '1 hour ago' {FIGURES}/pifleet-node.prom")
    until(lambda: "NodeFiguresStale" in impatient.firing(), "NodeFiguresStale")
    impatient.sh(OTHER, "systemctl start pifleet-metrics.service")
    until(lambda: "NodeFiguresStale" not in impatient.firing(), "NodeFiguresStale ends", 400)


def test_a_dead_node_is_told_and_keeps_its_other_alerts_back(impatient: Watch) -> None:
    began = time.time()
    impatient.sh(OTHER, "systemctl stop prometheus-node-exporter")
    until(lambda: any(one["labels"]["alertname"] == "NodeDown" for one in impatient.receiver.alerts("critical")), "NodeDown comes")
    assert time.time() - began < 60
    (down,) = (a for a in impatient.get("9093/api/v2/alerts") if a["labels"]["alertname"] == "NodeDown")
    assert down["labels"]["instance"] == OTHER
    others = [a for a in impatient.get("9093/api/v2/alerts") if a["labels"].get("instance") == OTHER and a is not down]
    assert all(a["status"]["inhibitedBy"] for a in others if a["labels"]["alertname"] != "NodeDown")
    impatient.sh(OTHER, "systemctl start prometheus-node-exporter")


def test_the_watchdog_comes_by_itself(observed: Watch) -> None:
    until(lambda: observed.receiver.alerts("watchdog") != [], "the watchdog comes")
