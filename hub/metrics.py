# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus scrapes of the hub: counted from the ledger at each scrape, so that the figures are the ledger's."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.pifleet.ops.hub.queue import Queue
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import metrics
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import FixRuns
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric


class FixRunCollector:
    """Counts fix runs and their steps: the figures that the file for node-exporter has."""

    def __init__(self, fix_runs: FixRuns) -> None:
        self._fix_runs = fix_runs

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. Raises LedgerError."""
        for gauge in metrics.gauges(self._fix_runs.tally()):
            family = GaugeMetricFamily(gauge.name, gauge.told)
            for labels, value in sorted(gauge.samples.items()):
                family.add_sample(gauge.name, dict(labels), value)
            yield family


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
