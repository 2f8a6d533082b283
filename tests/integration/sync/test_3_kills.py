# SPDX-License-Identifier: GPL-3.0-or-later
"""`kill -9` of either side before a line of its own code that chance has chosen. What was acknowledged is at the hub, and after the next
start both sides have the same: nothing lost, nothing doubled."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import owner, sync
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.service import Service

from tests.integration.sync.conftest import FULL, SyncFleet, new_fleet
from tests.support import dies
from tests.support.controller import ROOT
from tests.support.hub import HubProcess
from tests.support.sync import append

#: of each side
KILLS = 100 if FULL else 5
EVENTS = 520
SERVICE = "ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.service"


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory, hub: HubProcess) -> Path:
    """A ledger with more events than go into one batch, and bodies; nothing of it is queued yet."""
    fleet = new_fleet(tmp_path_factory.mktemp("evidence") / "fleet", hub)
    append(fleet.store, EVENTS, [b"one", b"two" * 5000, b"three"])
    return Path(fleet.store.name)


@dataclass
class Fleets:
    """Makes fleets with the same evidence, each with an identity of its own."""

    folder: Path
    hub: HubProcess
    evidence: Path
    made: int = 0

    def new(self) -> SyncFleet:
        self.made += 1
        fleet = new_fleet(self.folder / f"fleet{self.made}", self.hub)
        Path(fleet.store.name).parent.mkdir(mode=0o700)
        shutil.copy(self.evidence, fleet.store.name)
        return fleet


@pytest.fixture
def fleets(tmp_path: Path, hub: HubProcess, evidence: Path) -> Fleets:
    return Fleets(tmp_path, hub, evidence)


def started(fleet: SyncFleet, runner: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Start the service: it looks once, sends what there is, and waits."""
    return subprocess.Popen(
        [*runner, SERVICE, "--root", str(fleet.folder), "--interval", "600"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")}, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def eventually(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def arrived(fleet: SyncFleet) -> bool:
    try:
        fleet.assert_arrived()
    except AssertionError:
        return False
    return True


def test_service_that_is_killed(fleets: Fleets, tmp_path: Path) -> None:
    counter, chance = tmp_path / "lines", random.Random(6)
    fleet = fleets.new()
    whole = started(fleet, dies.runner(counter))
    eventually(lambda: arrived(fleet))
    lines = dies.counted(counter)
    whole.terminate()
    assert whole.wait(60) == 0
    assert lines > 1000
    killed = 0
    for point in sorted(chance.sample(range(1, lines), KILLS)):
        fleet = fleets.new()
        dying = started(fleet, dies.runner(counter, point))
        eventually(lambda dying=dying, fleet=fleet: dying.poll() is not None or arrived(fleet))  # type: ignore[misc]
        dying.kill()
        assert dying.wait(60) == -9
        killed += dies.counted(counter) >= point
        fleet.assert_acknowledged_is_kept()
        Service(fleet.settings, lambda seconds: seconds > 0).run()
        fleet.assert_arrived()
        assert sync.compare_with_hub(fleet.settings).equal, f"killed before line {point} of {lines}"
        assert owner.read_all(fleet.settings.sync_dir) == (), "the record of the dead is gone with that of the living"
    assert killed >= KILLS // 2, "it died in earnest"


@pytest.fixture
def mortal(hub: HubProcess, tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Starts the hub anew, to die at a line."""

    def start(point: int) -> None:
        hub.kill()
        hub.runner = dies.runner(tmp_path / "lines", point)
        hub.start()

    yield start
    hub.runner = (sys.executable, "-m")
    hub.kill()
    hub.start()


def test_hub_that_is_killed(fleets: Fleets, mortal: Callable[[int], None], tmp_path: Path) -> None:
    hub, counter, chance = fleets.hub, tmp_path / "lines", random.Random(7)

    def deliver(fleet: SyncFleet) -> None:
        """Run the service until all is sent; a hub that is dead is started again, as systemd does."""

        def wait(seconds: float) -> bool:
            if seconds and hub.process is not None and hub.process.poll() is not None:
                assert hub.process.returncode == -9
                fleet.assert_acknowledged_is_kept()
                hub.runner = (sys.executable, "-m")
                hub.start()
                return False
            return seconds > 0 and arrived(fleet)

        Service(fleet.settings, wait).run()

    mortal(0)
    fleet = fleets.new()
    first = dies.counted(counter)
    deliver(fleet)
    last = dies.counted(counter)
    assert last - first > 200
    killed = 0
    for point in sorted(chance.sample(range(first + 1, last - (last - first) // 20), KILLS)):
        mortal(point)
        fleet = fleets.new()
        deliver(fleet)
        killed += dies.counted(counter) >= point
        fleet.assert_arrived()
        assert sync.compare_with_hub(fleet.settings).equal, f"killed before line {point} of {last}"
    assert killed >= KILLS // 2, "it died in earnest"
