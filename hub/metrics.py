# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus scrapes of the hub: counted from the ledger at each scrape, so that the figures are the ledger's."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.pifleet.ops.hub.queue import Queue
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import FixRuns, Tally
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric


class FixRunCollector:
    """Counts fix runs and their steps, by the names that the file for node-exporter has."""

    def __init__(self, fix_runs: FixRuns) -> None:
        self._fix_runs = fix_runs

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. Raises LedgerError."""
        found: Tally = self._fix_runs.tally()
        runs = GaugeMetricFamily("pifleet_fix_runs", "Fix runs in the ledger, by what they are now.", labels=("service", "status"))
        for (service, status), count in sorted(found.runs.items()):
            runs.add_metric((service, status), count)
        steps = GaugeMetricFamily("pifleet_fix_run_steps", "Steps of these, by what they are now.", labels=("service", "step", "state"))
        for (service, step, state), count in sorted(found.steps.items()):
            steps.add_metric((service, step, state), count)
        seconds = GaugeMetricFamily("pifleet_fix_run_step_seconds", "Seconds that these took so far.", labels=("service", "step"))
        for (service, step), total in sorted(found.seconds.items()):
            seconds.add_metric((service, step), total)
        yield from (runs, steps, seconds)


class QueueCollector:
    """Says how the queue is."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        health = self._queue.health()
        yield GaugeMetricFamily("pifleet_queue_up", "Whether what is handed to the queue will be done.", value=int(health.ok))
        yield GaugeMetricFamily("pifleet_queue_pending", "Fix runs that wait for somebody to take them.", value=health.pending)
        yield GaugeMetricFamily("pifleet_queue_workers", "Who takes them.", value=health.workers)


def registry_of(fix_runs: FixRuns, queue: Queue | None = None) -> CollectorRegistry:
    """Return what ``generate_latest`` renders: figures of the fix runs, and of the *queue* where one is given."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FixRunCollector(fix_runs))
    if queue is not None:
        registry.register(QueueCollector(queue))
    return registry
