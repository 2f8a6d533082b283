# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of fix runs: counters and timers for StatsD, where one that is dead costs nothing, and a file for Prometheus."""

from __future__ import annotations

import ipaddress
import json
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
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.text import run_seconds, seconds_of

if TYPE_CHECKING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import Tally

#: the artifact with the figures of its fix run
REPORT = "metrics.json"
#: what node-exporter reads, and nothing else
SUFFIX = exposition.SUFFIX
#: https://github.com/statsd/statsd/blob/master/exampleConfig.js
PORT = 8125
#: bytes of a datagram that no network of today takes apart: https://github.com/statsd/statsd/blob/master/docs/metric_types.md
_DATAGRAM = 1400
#: seconds that a name may take to become an address
_PATIENCE = 0.2


def of_change(before: FixRun, after: FixRun) -> list[str]:
    """Return the lines of StatsD about what has ended between *before* and *after*: steps, and the fix run itself.

    https://github.com/statsd/statsd/blob/master/docs/metric_types.md
    """
    moved = [step for step, was in zip(after.steps, before.steps, strict=True) if step.is_over and step.state != was.state]
    lines = [line for step in moved for line in _ended(f"{_word(after.service)}.{step.name}", step.state, seconds_of(step))]
    return lines + (_ended(_word(after.service), after.status, run_seconds(after)) if before.is_open and not after.is_open else [])


def report(run: FixRun) -> str:
    """Return the figures of a fix run that is over, as its artifact ``metrics.json`` has them."""
    told = {
        "status": run.status,
        "seconds": run_seconds(run),
        "steps": {step.name: {"state": step.state, "seconds": seconds_of(step)} for step in run.steps},
        "artifacts": {artifact.name: artifact.size_bytes for artifact in run.artifacts if artifact.name != REPORT},
    }
    return json.dumps(told, indent=1) + "\n"


def send(lines: Iterable[str], host: str, port: int) -> None:
    """Send *lines* over UDP to *host*, if there is one. Never raises; a name that nobody answers for is not waited for."""
    lines = list(lines)
    if not host or not lines:
        return
    try:
        ipaddress.ip_address(host)
    except ValueError:
        sender = threading.Thread(target=_send, args=(lines, host, port), daemon=True)
        sender.start()
        sender.join(_PATIENCE)
    else:
        _send(lines, host, port)  # no name to be looked up: nothing waits


def gauges(found: Tally) -> list[Gauge]:
    """Return *found* as Prometheus reads it, by the names that the hub's ``/metrics`` has."""
    told = (
        ("pifleet_fix_runs", "Fix runs in the ledger, by what they are now.", ("service", "status"), found.runs),
        ("pifleet_fix_run_steps", "Steps of these, by what they are now.", ("service", "step", "state"), found.steps),
        ("pifleet_fix_run_step_seconds", "Seconds that these took so far.", ("service", "step"), found.seconds),
        ("pifleet_fix_run_seconds", "Seconds from their creation to their end, of those that are over.", ("service", "status"), found.took),
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


def _ended(about: str, state: str, seconds: float | None) -> list[str]:
    timer = [f"pifleet.fix_runs.{about}.seconds:{round(seconds * 1000)}|ms"] if seconds is not None else []
    return [f"pifleet.fix_runs.{about}.{state}:1|c", *timer]


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
