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
# Waits until the run writes its first file, then ends it without warning, quicker than pkill starts. (Its second Python is the role's; no
# other one runs then.)
KILL = """python3 - {} <<'END'
import os, sys, time

end = time.monotonic() + 90
while not os.path.exists("/var/lib/pifleet/base_os.json") and time.monotonic() < end:
    time.sleep(0.001)
time.sleep(float(sys.argv[1]))
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{{pid}}/comm") as comm:
            if comm.read() == "python3\\n" and int(pid) != os.getpid():
                os.kill(int(pid), 9)
    except OSError:
        pass  # it has ended by itself
END
"""


def test_killed_at_any_moment_the_next_run_converges(converged: Fleet, sh: Shell) -> None:
    moments = random.Random(3)
    interrupted = 0
    for moment in [0.0, *(moments.uniform(0.0, 0.2) for _ in range(KILLS - 1))]:
        sh(UNDO)
        run = converged.start(PLAY)
        sh(KILL.format(f"{moment:.3f}"))
        interrupted += run.wait(600).rc != 0
        converged.play(playbook=PLAY).require()
        assert sh("hostname; sysctl -n net.ipv4.ip_forward").split() == ["fresh-pi", "1"]
        assert "10.9.8.7 printer" in sh("cat /etc/hosts")
    assert converged.play(playbook=PLAY).require().changed == set()
    assert interrupted, "no run was interrupted: the test kills too late"
