# SPDX-License-Identifier: GPL-3.0-or-later
"""The shared lab. Tests of this folder run in the order of their files; each leaves a converged cluster behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.fleet import NO_STACKS, ROOT, Fleet, Run

FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """The four nodes of inventory/lab, running. Their runs leave out what site.yml does besides the bootstrap."""
    lab = Fleet(ROOT / os.environ.get("PIFLEET_TEST_INVENTORY", "inventory/lab"), NO_STACKS)
    lab.up()
    return lab


@pytest.fixture
def whole(fleet: Fleet) -> Fleet:
    """The same, with all that site.yml does."""
    return Fleet(fleet.inventory)


@pytest.fixture
def converged(fleet: Fleet) -> Fleet:
    """The same, with a converged cluster: mostly the test before has left one."""
    if not fleet.is_up():
        fleet.play().require()
    return fleet


@pytest.fixture(scope="session")
def bootstrap(fleet: Fleet) -> Run:
    """An undisturbed bootstrap of nodes that had a cluster and lost everything: when it is first asked for."""
    if not (ROOT / ".pifleet/lab" / fleet.inventory.name / "kubeconfig").exists():
        fleet.play().require()
    fleet.wipe()
    return fleet.play().require()


def renew(fleet: Fleet, *workers: str) -> None:
    """Give the workers new storage, and let the cluster forget them."""
    fleet.wipe(*workers)
    for worker in workers:
        fleet.forget(worker)


def with_server(fleet: Fleet) -> None:
    """Have a server that runs."""
    if "active" not in fleet.sh(fleet.servers[0], "systemctl is-active k3s || true").split():
        fleet.play("--limit", fleet.servers[0]).require()


@pytest.fixture
def fresh_worker(fleet: Fleet) -> Iterator[str]:
    """A worker with nothing on it, unknown to a cluster whose server runs. It is as new again afterwards, whatever was done to it."""
    with_server(fleet)
    worker = fleet.workers[-1]
    if fleet.sh(worker, "ls -d /etc/rancher /var/lib/pifleet /usr/local/bin/k3s 2>/dev/null || true"):
        renew(fleet, worker)
    yield worker
    renew(fleet, worker)


def altered(fleet: Fleet, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Fleet:
    """The same nodes by a copy of the inventory, with *change* made to its groups of hosts."""
    copy = tmp_path / "inventory" / fleet.inventory.name
    shutil.copytree(fleet.inventory, copy)
    (tmp_path / ".pifleet").symlink_to(ROOT / ".pifleet")
    hosts = yaml.safe_load((copy / "hosts.yml").read_text())
    change(hosts["all"]["children"]["k3s_cluster"]["children"])
    (copy / "hosts.yml").write_text(yaml.safe_dump(hosts))
    return Fleet(copy, fleet.settings)
