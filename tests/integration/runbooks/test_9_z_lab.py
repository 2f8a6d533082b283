# SPDX-License-Identifier: GPL-3.0-or-later
"""The page about the lab: its commands and its faults, on nodes that come to nothing by them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.runbooks.conftest import NODE
from tests.support.checkout import Checkout
from tests.support.fleet import Fleet
from tests.support.pages import Story


@pytest.mark.full
def test_lab(tell: Callable[..., Story], fleet: Fleet, checkout: Checkout) -> None:
    # another fleet beside it is this one as well: addresses of another one are not a test's to take
    with tell("docs/lab.md", **{"inventory/lab-ha": str(checkout.inventory)}) as page:
        page.run("python -m lab up")
        page.run("lab-ha")
        page.run("make site")
        status = page.run("python -m lab status")
        assert all(host in status for host in fleet.hosts)
        page.run("journalctl")
        fleet.sh(NODE, 'test -n "$(ip route show default)"')
        page.run("ip route del default")
        assert fleet.sh(NODE, "ip route show default") == ""
        page.run("http.server 6443")
        fleet.sh(NODE, "until ss -Hltn sport = :6443 | grep -q 6443; do sleep 0.2; done")
        umount = page.take("umount /sys/fs/cgroup/memory")
        if "memory" in fleet.sh(NODE, "ls /sys/fs/cgroup"):  # a machine with cgroup v1
            assert checkout.shell(umount)[0] == 0
        before = fleet.sh(NODE, "cat /etc/machine-id")
        page.run("--stale-host-key")
        page.run("python -m lab wipe pi-cluster-4")
        assert fleet.sh(NODE, "cat /etc/machine-id") != before
        page.run("python -m lab down")
    fleet.up()
    fleet.first_run_after("1d")
