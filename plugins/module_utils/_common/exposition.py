# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures for Prometheus: files that node-exporter reads. https://prometheus.io/docs/instrumenting/exposition_formats/"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file

#: where Debian's node-exporter looks, and the chart's is told to: https://github.com/prometheus/node_exporter#textfile-collector
FOLDER = "/var/lib/prometheus/node-exporter"
#: what it reads, and nothing else
SUFFIX = ".prom"

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Gauge:
    """*told*: what it says, in one line; *samples*: values by their labels."""

    name: str
    told: str
    samples: Mapping[Labels, float]


def text(gauges: Iterable[Gauge]) -> str:
    """Return *gauges* in Prometheus' text format, always in the same order."""
    lines = []
    for gauge in gauges:
        lines += [f"# HELP {gauge.name} {gauge.told}", f"# TYPE {gauge.name} gauge"]
        for labels, value in sorted(gauge.samples.items()):
            pairs = ",".join(f'{name}="{_escaped(part)}"' for name, part in labels)
            lines.append(f"{gauge.name}{{{pairs}}} {value}" if pairs else f"{gauge.name} {value}")
    return "\n".join([*lines, ""])


def write(path: str | Path, gauges: Iterable[Gauge]) -> None:
    """Write *gauges* where node-exporter looks, whole or not at all. Raises OSError."""
    atomic_file.write_atomic(path, text(gauges), 0o644)


def _escaped(part: str) -> str:
    return part.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
