# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of hub and workers, and workers on several machines: what one of them had under way when it was lost, another one ends."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.integration.fix_queue.conftest import Queued
from tests.integration.fix_queue.test_2_kills import finished
from tests.support.fix_queue import Machines
from tests.support.fleet import ROOT
from tests.support.postgres import Server
from tests.support.rabbitmq import Broker


@pytest.fixture
def machines(well: Queued, image: str, servers: Callable[..., tuple[Broker, Server]]) -> Iterator[Machines]:
    broker, server = servers()
    keys = ROOT / ".pifleet/lab" / well.fleet.inventory.name
    office = Machines(well.repository.root, well.fleet.inventory, broker, image, (keys, server.folder))
    well.office = office
    yield office
    office.stop()


def test_nothing_of_the_checkouts_own_is_in_the_image(image: str) -> None:
    words = ["docker", "run", "--rm", image, "ls", "-A", "/opt/pifleet"]
    found = set(subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout.split())
    assert found == {
        ".collections", ".venv", "LICENSE", "ansible.cfg", "galaxy.yml", "hub", "meta", "playbooks", "plugins", "pyproject.toml",
        "requirements.yml", "roles", "scripts", "site.yml", "uv.lock",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["celery"], indirect=True)
def test_a_machine_is_lost(well: Queued, machines: Machines) -> None:
    others = well.others()
    machines.start_workers()
    run = machines.enqueue("bump greeting to 1.1")
    before = finished(machines.at(run, "restart"))
    lost = machines.machine_of(run)
    machines.lose(lost)
    last = machines.reached(run, "succeeded")
    assert {lost, machines.machine_of(last)} == {"one", "two"}
    assert set(before) == {"analyze", "patch", "build"}
    assert {name: finished(last)[name] for name in before} == before
    assert (well.says(), well.others(), well.states()) == ("1.1 good", others, "succeeded " * 5 + "skipped")
    # the one that is left does what comes next
    machines.reached(machines.enqueue("bump greeting to 1.0"), "succeeded")
    assert well.says() == "1.0 good"
