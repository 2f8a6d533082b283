# SPDX-License-Identifier: GPL-3.0-or-later
"""When each alert fires, and when it does not: figures in, alerts out, for ``promtool test rules``; and who is told of what, for amtool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts/kube-prometheus-stack"
RULES: Mapping[str, Any] = yaml.safe_load((CHART / "rules.yaml").read_text())["additionalPrometheusRulesMap"]
GROUPS = [group for one in RULES.values() for group in one["groups"]]
BY_NAME: Mapping[str, Mapping[str, Any]] = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
SEVERITY: Mapping[str, str] = {name: rule["labels"]["severity"] for name, rule in BY_NAME.items()}
ROUTES: Mapping[str, Any] = yaml.safe_load((CHART / "alertmanager-config.yaml").read_text())["alertmanager"]["config"]

PI, NODE = 'instance="pi-1"', {"instance": "pi-1", "job": "node-exporter"}
ON = 'instance="pi-1",job="node-exporter"'


@dataclass(frozen=True)
class Case:
    """*series*: values every 30 seconds, in promtool's notation; *at*: when it is looked; *labels*: of the alert that fires then, besides
    its severity, None where none does; *texts*: its annotations that are not the rule's own word for word."""

    alert: str
    series: Mapping[str, str]
    at: str
    labels: Mapping[str, str] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)

    def test(self) -> dict[str, Any]:
        """Return it as promtool reads it. https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/"""
        rule = BY_NAME[self.alert]
        expected = []
        if self.labels is not None:
            annotations = {**rule["annotations"], **self.texts}
            expected = [{"exp_labels": {**rule["labels"], **self.labels}, "exp_annotations": annotations}]
        return {
            "interval": "30s",
            "input_series": [{"series": name, "values": values} for name, values in self.series.items()],
            "alert_rule_test": [{"eval_time": self.at, "alertname": self.alert, "exp_alerts": expected}],
        }


def gauge(alert: str, name: str, bad: str, good: str, patience: int, summary: str, **more: Any) -> list[Case]:
    """One figure of a node: bad for longer than *patience* minutes; bad, and not yet that long; good."""
    labels = {**NODE, **more.get("labels", {})}
    selector = ",".join(f'{key}="{value}"' for key, value in labels.items())
    series, texts = f"{name}{{{selector}}}", {"summary": summary, **more.get("texts", {})}
    return [
        Case(alert, {series: f"{bad}x60"}, f"{patience + 1}m", labels, texts),
        Case(alert, {series: f"{bad}x60"}, f"{patience - 1}m" if patience > 1 else "30s"),
        Case(alert, {series: f"{good}x60"}, f"{patience + 1}m"),
    ]


CASES: Sequence[Case] = [
    # answered, then not: from the fourth minute after
    Case("NodeDown", {f"up{{{ON}}}": "1x3 0x20"}, "5m30s", NODE, {"summary": "pi-1 does not answer"}),
    Case("NodeDown", {f"up{{{ON}}}": "1x3 0x20"}, "4m"),
    Case("NodeDown", {f"up{{{ON}}}": "1x3 0x2 1x20"}, "8m"),
    Case("NodeDown", {'up{instance="pi-1",job="another"}': "0x20"}, "8m"),
    *gauge("NodeUndervoltage", "pifleet_undervoltage", "1", "0", 1, "pi-1 has too little voltage"),
    Case(
        "NodeUndervoltageOccurred",
        {f"pifleet_undervoltage_occurred{{{ON}}}": "1x20", f"pifleet_undervoltage{{{ON}}}": "0x20"},
        "6m",
        NODE,
        {"summary": "pi-1 had too little voltage since it was booted"},
    ),
    # what is still so is told by the other alert
    Case("NodeUndervoltageOccurred", {f"pifleet_undervoltage_occurred{{{ON}}}": "1x20", f"pifleet_undervoltage{{{ON}}}": "1x20"}, "6m"),
    Case("NodeUndervoltageOccurred", {f"pifleet_undervoltage_occurred{{{ON}}}": "0x20", f"pifleet_undervoltage{{{ON}}}": "0x20"}, "6m"),
    *gauge("NodeThrottled", "pifleet_throttled", "1", "0", 5, "pi-1 is throttled"),
    *gauge("NodeHot", "pifleet_temperature_celsius", "78.4", "75", 10, "pi-1 has 78 °C"),
    *gauge("StorageWorn", "pifleet_storage_wear_ratio", "0.8", "0.7", 15, "mmcblk0 of pi-1 is worn", labels={"device": "mmcblk0"}),
    # 32 GB, written 1001 times over, and 1000 times
    Case(
        "StorageWorn",
        {
            f'pifleet_storage_written_bytes{{device="mmcblk0",{ON}}}': "32032000000000x40",
            f'pifleet_storage_size_bytes{{device="mmcblk0",{ON}}}': "32000000000x40",
        },
        "16m",
        {**NODE, "device": "mmcblk0"},
        {"summary": "mmcblk0 of pi-1 is worn"},
    ),
    Case(
        "StorageWorn",
        {
            f'pifleet_storage_written_bytes{{device="mmcblk0",{ON}}}': "32000000000000x40",
            f'pifleet_storage_size_bytes{{device="mmcblk0",{ON}}}': "32000000000x40",
        },
        "16m",
    ),
    *gauge(
        "StorageErrors",
        "pifleet_storage_errors",
        "2",
        "0",
        1,
        "The file system on mmcblk0p2 of pi-1 has errors",
        labels={"device": "mmcblk0p2"},
        texts={"description": "2 errors were found since it was checked last."},
    ),
    *gauge("NodeClockUnsynced", "pifleet_clock_synchronised", "0", "1", 10, "The clock of pi-1 is not synchronised"),
    # written at the beginning, and never again: time is 0 there
    Case(
        "NodeFiguresStale",
        {f'node_textfile_mtime_seconds{{file="/x/pifleet-node.prom",{ON}}}': "0x60"},
        "16m",
        {**NODE, "file": "/x/pifleet-node.prom"},
        {"summary": "The figures of pi-1 are old, or cannot be read"},
    ),
    Case(
        "NodeFiguresStale",
        {f"node_textfile_scrape_error{{{ON}}}": "1x60"},
        "6m",
        NODE,
        {"summary": "The figures of pi-1 are old, or cannot be read"},
    ),
    Case("NodeFiguresStale", {f'node_textfile_mtime_seconds{{file="/x/pifleet-node.prom",{ON}}}': "0+30x60"}, "16m"),
    # somebody else's file may be as old as it likes
    Case("NodeFiguresStale", {f'node_textfile_mtime_seconds{{file="/x/other.prom",{ON}}}': "0x60"}, "16m"),
    *(
        Case(
            "StackDrifted",
            {f'pifleet_stack_status{{stack="proxy",status="{status}",{ON}}}': "1x60"},
            "16m",
            {**NODE, "stack": "proxy", "status": status},
            {"summary": f"Stack proxy of pi-1 is {status}"},
        )
        for status in ("drifted", "missing")
    ),
    Case("StackDrifted", {f'pifleet_stack_status{{stack="proxy",status="synced",{ON}}}': "1x60"}, "16m"),
    Case("StackDrifted", {f'pifleet_stack_status{{stack="proxy",status="drifted",{ON}}}': "1x10 0x60"}, "16m"),
    *gauge(
        "StackReconcileFailed",
        "pifleet_stack_status",
        "1",
        "0",
        5,
        "Stack proxy of pi-1 could not be reconciled",
        labels={"stack": "proxy", "status": "failed"},
    ),
    Case("StackReconcileFailed", {f'pifleet_stack_status{{stack="proxy",status="drifted",{ON}}}': "1x60"}, "16m"),
    *gauge("StacksNotReconciled", "pifleet_stacks_success", "0", "1", 15, "The stacks of pi-1 are not reconciled"),
    Case(
        "StacksNotReconciled",
        {f"pifleet_stacks_run_timestamp_seconds{{{ON}}}": "0x200"},
        "77m",
        NODE,
        {"summary": "The stacks of pi-1 are not reconciled"},
    ),
    Case("StacksNotReconciled", {f"pifleet_stacks_run_timestamp_seconds{{{ON}}}": "0+30x200"}, "77m"),
    Case("OutboxStuck", {f"pifleet_outbox_oldest_timestamp_seconds{{{ON}}}": "60x200"}, "67m", NODE),
    Case("OutboxStuck", {f"pifleet_outbox_dead_rows{{{ON}}}": "1x60"}, "6m", NODE),
    # empty is 0, whatever the time
    Case("OutboxStuck", {f"pifleet_outbox_oldest_timestamp_seconds{{{ON}}}": "0x200", f"pifleet_outbox_dead_rows{{{ON}}}": "0x200"}, "67m"),
    Case("OutboxStuck", {f"pifleet_outbox_oldest_timestamp_seconds{{{ON}}}": "60x200"}, "55m"),
    *(
        Case(
            "RebuildOverBudget",
            {f'pifleet_rebuild_{name}{{node="pi-4",{ON}}}': f"{value}x3000" for name, value in {**figures, "budget_seconds": 3600}.items()},
            at,
            {**NODE, "node": "pi-4"} if fires else None,
            {"summary": "The rebuild of pi-4 takes, or took, longer than its budget"},
        )
        for figures, at, fires in (
            ({"started_timestamp_seconds": 60}, "62m", True),
            ({"started_timestamp_seconds": 60}, "59m", False),
            ({"started_timestamp_seconds": 0}, "62m", False),
            ({"seconds": 3601, "ended_timestamp_seconds": 60}, "1m", True),
            ({"seconds": 3600, "ended_timestamp_seconds": 60}, "1m", False),
            ({"seconds": 3601, "ended_timestamp_seconds": 60}, "24h2m", False),
        )
    ),
    Case(
        "AlertTestOverdue",
        {f'pifleet_alert_test_timestamp_seconds{{severity="critical",{ON}}}': f"{-31 * 86400}x20"},
        "1m",
        {**NODE, "severity": "warning"},
    ),
    Case("AlertTestOverdue", {f'pifleet_alert_test_timestamp_seconds{{severity="critical",{ON}}}': f"{-29 * 86400}x20"}, "1m"),
    Case("AlertTestOverdue", {f'pifleet_alert_test_timestamp_seconds{{severity="warning",{ON}}}': f"{-31 * 86400}x20"}, "1m"),
    Case("Watchdog", {}, "1m", {}),
    Case(
        "NotificationsFailing",
        {'alertmanager_notifications_failed_total{integration="webhook",instance="a"}': "0+1x60"},
        "12m",
        {"integration": "webhook", "instance": "a"},
        {"summary": "Alertmanager cannot notify by webhook"},
    ),
    Case("NotificationsFailing", {'alertmanager_notifications_failed_total{integration="webhook",instance="a"}': "5x60"}, "12m"),
    Case(
        "RulesFailing",
        {'prometheus_rule_evaluation_failures_total{rule_group="r;g",instance="a"}': "0+1x60"},
        "12m",
        {"rule_group": "r;g", "instance": "a"},
        {"description": "Rules of r;g failed: what they watch is not watched."},
    ),
    Case("RulesFailing", {'prometheus_rule_evaluation_failures_total{rule_group="r;g",instance="a"}': "5x60"}, "12m"),
]
#: alerts that cannot but fire
ALWAYS = {"Watchdog"}

#: labels, and who is told
TOLD: Sequence[tuple[Mapping[str, str], str]] = [
    ({"severity": "critical"}, "critical"),
    ({"severity": "warning"}, "warning"),
    ({"severity": "info"}, "nobody"),
    ({"severity": "none"}, "nobody"),
    ({"alertname": "Watchdog", "severity": "none"}, "watchdog"),
    # nothing that has no severity, or an unknown one, is lost
    ({"alertname": "Anything"}, "warning"),
    ({"severity": "page"}, "warning"),
    *(({"alertname": name, "severity": SEVERITY[name]}, SEVERITY[name]) for name in BY_NAME if name not in ALWAYS),
]


def rules_file() -> str:
    """The rules as a rules file of Prometheus."""
    return yaml.safe_dump({"groups": GROUPS}, sort_keys=False, allow_unicode=True)


def promtool_file(cases: Sequence[Case]) -> str:
    """The cases as promtool reads them."""
    tests = [case.test() for case in cases]
    return yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "30s", "tests": tests}, sort_keys=False, allow_unicode=True)
