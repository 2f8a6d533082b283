# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that the unattended runs consist of on a node."""

from __future__ import annotations

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import places
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.host_plan import File

HEADER = "# Managed by pifleet.ops (role stacks): a change made here is overwritten.\n"
#: seconds from the timer's start, at boot or when it is set up, to the first run; with the spread below 30, within which status is there
FIRST_AFTER = 15
#: seconds over which the nodes of a fleet are spread, at most, so that they do not ask the git server at the same moment
SPREAD = 12

_SERVICE = """{header}[Unit]
Description=Refresh and reconcile the stacks of this node (pifleet.ops)
After=docker.service network-online.target time-sync.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 {program}
Environment=PYTHONDONTWRITEBYTECODE=1
SyslogIdentifier=pifleet-stacks
TimeoutStartSec=1h
Nice=10
IOSchedulingPriority=7
"""
_TIMER = """{header}[Unit]
Description=Refresh and reconcile the stacks of this node from time to time (pifleet.ops)

[Timer]
OnActiveSec={first}s
OnUnitInactiveSec={interval}s
RandomizedDelaySec={delay}s
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def files(program_sha256: str, settings: str, interval: int) -> tuple[File, ...]:
    """Return the files in the order of writing: what a unit starts is there before the unit. *interval*: seconds between two runs.

    Raises PifleetError for an interval that is none.
    """
    if interval < 10:
        raise PifleetError(f"stacks_timer_interval is {interval} seconds.", "Set it to 10 or more.")
    spread = max(1, min(SPREAD, interval // 10))
    return (
        File(places.SETTINGS, 0o600, settings),
        File(places.PROGRAM, 0o755, None, program_sha256),
        File(places.SERVICE, 0o644, _SERVICE.format(header=HEADER, program=places.PROGRAM)),
        File(places.TIMER, 0o644, _TIMER.format(header=HEADER, first=FIRST_AFTER, interval=interval, delay=spread)),
    )
