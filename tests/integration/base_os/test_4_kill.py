# SPDX-License-Identifier: GPL-3.0-or-later
"""The module killed on the node at many moments, then run again: the node always converges, and nothing of the user is lost."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from tests.support.fleet import Fleet

from .conftest import PLAY

Shell = Callable[[str], str]
KILLS = 40 if os.environ.get("PIFLEET_TEST_FULL") else 3

# Back to before the role, but for what cannot be undone in place.
UNDO = """
rm -rf /etc/sysctl.d/90-pifleet.conf /etc/systemd/journald.conf.d /var/lib/pifleet
hostname raspberrypi; echo raspberrypi >/etc/hostname; sysctl -qw net.ipv4.ip_forward=0
printf '127.0.0.1 localhost\\n10.9.8.7 printer\\n' >/etc/hosts
systemctl reset-failed systemd-journald && systemctl restart systemd-journald
"""
# Waits until the run writes its first file, then ends it without warning. (Its second Python is the role's; no other one runs then.)
KILL = "for i in $(seq 6000); do [ -e /var/lib/pifleet/base_os.json ] && break; sleep 0.005; done; sleep {}; pkill -KILL -x python3; true"


def test_killed_at_any_moment_the_next_run_converges(converged: Fleet, sh: Shell) -> None:
    moments = random.Random(3)
    interrupted = 0
    for _ in range(KILLS):
        sh(UNDO)
        run = converged.start(PLAY)
        sh(KILL.format(f"{moments.uniform(0.0, 0.2):.3f}"))
        interrupted += run.wait(120).rc != 0
        converged.play(playbook=PLAY).require()
        assert sh("hostname; sysctl -n net.ipv4.ip_forward").split() == ["fresh-pi", "1"]
        assert "10.9.8.7 printer" in sh("cat /etc/hosts")
    assert converged.play(playbook=PLAY).require().changed == set()
    assert interrupted, "no run was interrupted: the test kills too late"
