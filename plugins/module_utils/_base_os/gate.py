# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate that the clock is synchronised: a Pi has no clock that runs while it is off, and k3s makes certificates by the time it has."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError


def wait_until_synchronised(synchronised: Callable[[], bool], sleep: Callable[[float], None], timeout: int) -> None:
    """Return once *synchronised* says so, looking once a second for *timeout* seconds (0: look once). Raises PifleetError after that."""
    for second in range(timeout + 1):
        if synchronised():
            return
        if second < timeout:
            sleep(1.0)
    raise PifleetError(
        f"The clock is not synchronised after {timeout} s.",
        "Check that the node reaches a time server (UDP port 123; `timedatectl timesync-status` or `chronyc sources` on the node), "
        "set base_os_ntp_servers to one it reaches, or raise base_os_clock_sync_timeout.",
    )


def chrony_is_synchronised(run: Runner) -> bool:
    """Whether chrony follows a source. Without ``rtcsync`` in its configuration it does not tell the kernel, so it has to be asked."""
    done = run(["chronyc", "-c", "tracking"], timeout=10)
    return done.ok and done.stdout.strip().endswith(",Normal")  # the last field of tracking is the leap status
