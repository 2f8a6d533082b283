# SPDX-License-Identifier: GPL-3.0-or-later
"""The timer that writes the node's figures, and what it consists of."""

from __future__ import annotations

from ansible_collections.pifleet.ops.plugins.module_utils._observability.figures import FILE
from ansible_collections.pifleet.ops.plugins.module_utils._observability.host import File, Unit, Wanted

PROGRAM = "/usr/local/lib/pifleet/pifleet-metrics.pyz"
SERVICE = "/etc/systemd/system/pifleet-metrics.service"
TIMER = "/etc/systemd/system/pifleet-metrics.timer"
_HEADER = "# Managed by pifleet.ops (role observability): a change made here is overwritten.\n"
_SERVICE_TEXT = f"""{_HEADER}[Unit]
Description=Write the figures of this node for node-exporter (pifleet.ops)

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 {PROGRAM}
Environment=PYTHONDONTWRITEBYTECODE=1
SyslogIdentifier=pifleet-metrics
TimeoutStartSec=60
Nice=10
"""
_TIMER_TEXT = f"""{_HEADER}[Unit]
Description=Write the figures of this node each minute (pifleet.ops)

[Timer]
OnActiveSec=1s
OnUnitInactiveSec=60s
AccuracySec=1s

[Install]
WantedBy=timers.target
"""
_UNIT = Unit("pifleet-metrics.timer", "timers.target", (SERVICE, PROGRAM))


def present(program: bytes) -> Wanted:
    """Return the timer, with *program*. What a unit starts is there before the unit."""
    files = (File(PROGRAM, program, 0o755), File(SERVICE, _SERVICE_TEXT.encode()), File(TIMER, _TIMER_TEXT.encode()))
    return Wanted(files=files, units=(_UNIT,))


def absent() -> Wanted:
    """Return that there is no timer, nor what it wrote: figures that nobody renews would only grow old."""
    return Wanted(absent=(TIMER, SERVICE, PROGRAM, FILE), unwanted=(_UNIT,))
