# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of fix runs: counters and timers for StatsD, where one that is dead costs nothing, and a file for Prometheus."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.pifleet.ops.plugins.module_utils._common import exposition
from ansible_collections.pifleet.ops.plugins.module_utils._common.exposition import Gauge
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.text import seconds_of

if TYPE_CHECKING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import Tally

#: what node-exporter reads, and nothing else
SUFFIX = exposition.SUFFIX
#: bytes of a datagram that no network of today takes apart: https://github.com/statsd/statsd/blob/master/docs/metric_types.md
_DATAGRAM = 1400
#: seconds that a name may take to become an address
_PATIENCE = 0.2


def of_step(run: FixRun, name: str) -> list[str]:
    """Return the lines of StatsD about a step that has ended. https://github.com/statsd/statsd/blob/master/docs/metric_types.md"""
    step, service = run.step(name), _word(run.service)
    seconds = seconds_of(step)
    timer = [f"pifleet.fix_runs.{service}.{name}.seconds:{round(seconds * 1000)}|ms"] if seconds is not None else []
    return [f"pifleet.fix_runs.{service}.{name}.{step.state}:1|c", *timer]


def of_run(run: FixRun) -> list[str]:
    """Return the lines of StatsD about a fix run that is over."""
    return [f"pifleet.fix_runs.{_word(run.service)}.{run.status}:1|c"]


def send(lines: Iterable[str], host: str, port: int) -> None:
    """Send *lines* over UDP to *host*, if there is one. Never raises; a name that nobody answers for is not waited for."""
    if host:
        sender = threading.Thread(target=_send, args=(list(lines), host, port), daemon=True)
        sender.start()
        sender.join(_PATIENCE)


def gauges(found: Tally) -> list[Gauge]:
    """Return *found* as Prometheus reads it, by the names that the hub's ``/metrics`` has."""
    told = (
        ("pifleet_fix_runs", "Fix runs in the ledger, by what they are now.", ("service", "status"), found.runs),
        ("pifleet_fix_run_steps", "Steps of these, by what they are now.", ("service", "step", "state"), found.steps),
        ("pifleet_fix_run_step_seconds", "Seconds that these took so far.", ("service", "step"), found.seconds),
    )
    return [
        Gauge(name, help_text, {tuple(zip(labels, key, strict=True)): value for key, value in values.items()})
        for name, help_text, labels, values in told
    ]


def write(path: Path, found: Tally) -> None:
    """Write *found* where node-exporter looks, whole or not at all. Raises OSError."""
    exposition.write(path, gauges(found))


def _send(lines: Sequence[str], host: str, port: int) -> None:
    with suppress(OSError, OverflowError, UnicodeError):
        family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as sender:
            sender.setblocking(False)
            for datagram in _packed(lines):
                sender.sendto(datagram, address)


def _packed(lines: Iterable[str]) -> list[bytes]:
    made: list[bytes] = []
    for line in lines:
        data = line.encode()
        if made and len(made[-1]) + 1 + len(data) <= _DATAGRAM:
            made[-1] += b"\n" + data
        else:
            made.append(data)
    return made


def _word(name: str) -> str:
    """*name* without what separates words and values in StatsD."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)
