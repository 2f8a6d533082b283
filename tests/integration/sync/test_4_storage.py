# SPDX-License-Identifier: GPL-3.0-or-later
"""A full disk, a read-only one, damaged pages, two writers, wrong clocks: at the ledger, its outbox and the hub. What happens is said, and
afterwards nothing is lost or doubled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import gate, sync
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.hub_client import HttpHub
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Settings
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Result, Row
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import append_event
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError

from tests.integration.controller.test_run_record import CLOSE, OPEN
from tests.integration.sync.conftest import SyncFleet, new_fleet
from tests.support.controller import ROOT
from tests.support.hub import HubProcess
from tests.support.small_disk import SmallDisk
from tests.support.sync import append

BODIES = [b"one", b"two" * 5000]
SERVICE = "ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.service"
MARK = b"the one whose bytes are changed"


@pytest.fixture
def disk(fleet: SyncFleet) -> Iterator[SmallDisk]:
    """What the fleet's ledger stands on."""
    with SmallDisk(fleet.folder / ".pifleet") as mounted:
        yield mounted


@pytest.fixture
def hub_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "hub") as mounted:
        yield mounted


@pytest.fixture
def small_hub(hub_disk: SmallDisk) -> Iterator[HubProcess]:
    """A hub whose database stands on a disk of its own."""
    with HubProcess(hub_disk.folder) as running:
        yield running


@pytest.fixture
def far_fleet(tmp_path: Path, small_hub: HubProcess) -> SyncFleet:
    return new_fleet(tmp_path / "fleet", small_hub)


# --- the controller's disk -----------------------------------------------------------------------------------------------


def test_full_disk_of_the_ledger_refuses_and_loses_nothing(fleet: SyncFleet, disk: SmallDisk) -> None:
    ids = append(fleet.store, 20, BODIES)
    disk.fill()
    for what in (lambda: append(fleet.store, 200, [os.urandom(100_000)]), lambda: sync.sync_now(fleet.settings)):
        with pytest.raises(LedgerError, match=r"full|I/O.*Make room|disk"):
            what()
    assert (fleet.received(), fleet.queued()) == ([], {})
    assert sync.status(fleet.settings).unqueued == 20, "looking needs no room"
    disk.free()
    sync.sync_now(fleet.settings)
    assert fleet.received() == ids
    fleet.assert_arrived()


def test_disk_that_is_full_when_the_hub_has_acknowledged(fleet: SyncFleet, disk: SmallDisk) -> None:
    """The receipts cannot be written: the rows are sent once more, and the hub keeps them once."""
    append(fleet.store, 200, BODIES)

    class Failing(HttpHub):
        def send_events(self, rows: Sequence[Row]) -> list[Result]:
            results = super().send_events(rows)
            disk.fill()
            return results

    def connect(settings: Settings) -> HttpHub:
        with sync.connect(settings):
            token = sync.token.read(settings.token, sync.preflight.utc_now())
        return Failing(sync.identity_of(settings), token, settings.ca_file)

    with pytest.raises(LedgerError, match=r"full|I/O"):
        sync.sync_now(fleet.settings, connect=connect)
    assert len(fleet.received()) == 200
    disk.free()
    fleet.assert_acknowledged_is_kept()
    assert sync.sync_now(fleet.settings).delivered.events == 200
    fleet.assert_arrived()


def test_read_only_ledger_can_be_looked_at_and_not_sent_from(fleet: SyncFleet, disk: SmallDisk) -> None:
    append(fleet.store, 3, BODIES)
    disk.read_only(True)
    assert sync.status(fleet.settings).unqueued == 3
    with pytest.raises(LedgerError, match=r"readonly|read-only.*write access"):
        sync.sync_now(fleet.settings)
    assert fleet.received() == []
    disk.read_only(False)
    assert sync.sync_now(fleet.settings).delivered.events == 3
    fleet.assert_arrived()


# --- the hub's disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["full", "read-only"])
def test_hub_without_a_disk_to_write_acknowledges_nothing(far_fleet: SyncFleet, hub_disk: SmallDisk, harm: str) -> None:
    append(far_fleet.store, 300, [os.urandom(300_000), b"small"])
    if harm == "full":
        hub_disk.fill()
    else:
        hub_disk.read_only(True)
    done = sync.sync_now(far_fleet.settings)
    assert "out of order (503)" in str(done.delivered.error), done
    assert (done.delivered.events, done.delivered.bodies, done.delivered.rejected) == (0, 0, 0)
    assert sync.status(far_fleet.settings).active.dead == 0, "the hub's fault counts against no row"
    if harm == "full":
        hub_disk.free()
    else:
        hub_disk.read_only(False)
    assert sync.sync_now(far_fleet.settings).delivered.events == 300
    far_fleet.assert_arrived()
    assert sync.compare_with_hub(far_fleet.settings).equal


def test_damaged_hub_acknowledges_nothing_and_what_its_backup_lacks_is_sent_again(far_fleet: SyncFleet, small_hub: HubProcess) -> None:
    append(far_fleet.store, 20, BODIES)
    sync.sync_now(far_fleet.settings)
    database = small_hub.folder / "hub.db"
    backup = database.read_bytes()
    append(far_fleet.store, 10)
    sync.sync_now(far_fleet.settings)
    append(far_fleet.store, 5)
    damage(database)
    assert "503" in str(sync.sync_now(far_fleet.settings).delivered.error)
    database.write_bytes(backup)
    assert sync.sync_now(far_fleet.settings).delivered.events == 5
    found = sync.compare_with_hub(far_fleet.settings)
    assert (found.ok, found.counts["event"]["missing"], found.counts["event"]["equal"]) == (False, 10, 25)
    with far_fleet.store.write() as db:  # as the runbook says
        db.exec_driver_sql("DELETE FROM sync_receipts")
        db.exec_driver_sql("DELETE FROM sync_cursors")
    assert sync.sync_now(far_fleet.settings).delivered.events == 35
    far_fleet.assert_arrived()


# --- damaged pages of the ledger -----------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    """Overwrite the beginnings of most pages, where SQLite has what it needs to find anything."""
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 4096):
        content[start : start + 64] = b"\xff" * 64
    path.write_bytes(bytes(content))


def test_damaged_ledger_sends_nothing_and_goes_on_from_its_backup(fleet: SyncFleet) -> None:
    append(fleet.store, 20, BODIES)
    sync.sync_now(fleet.settings)
    ids = append(fleet.store, 3)
    path = Path(fleet.store.name)
    shutil.copy(path, fleet.folder / "backup")
    before = fleet.received()
    damage(path)
    with pytest.raises(LedgerError, match=r"damaged.*mv .*\.damaged"):
        sync.sync_now(fleet.settings)
    assert fleet.received() == before
    path.rename(f"{path}.damaged")
    shutil.copy(fleet.folder / "backup", path)
    assert sync.sync_now(fleet.settings).delivered.events == 3
    assert set(ids) <= set(fleet.received())
    fleet.assert_arrived()


def test_damaged_ledger_is_quarantined_by_the_next_run_and_the_one_after_it_goes_on(fleet: SyncFleet) -> None:
    """What the hub had acknowledged it keeps once; what comes later arrives, and says which file the new ledger follows."""
    append(fleet.store, 20, BODIES)
    sync.sync_now(fleet.settings)
    before = fleet.received()
    path = Path(fleet.store.name)
    damage(path)
    content = path.read_bytes()
    played = fleet.controller.play(OPEN + CLOSE, "--limit", "one")
    assert (played.rc, "was moved to" in played.out) == (2, True), played.out
    played.assert_clear()
    (kept,) = path.parent.glob("ledger.db.damaged-*")
    assert (kept.read_bytes(), path.exists()) == (content, False)
    played = fleet.controller.play(OPEN + CLOSE, "--limit", "one")
    assert played.rc == 0, played.out
    assert sync.sync_now(fleet.settings).delivered.error is None
    with fleet.store.read() as db:
        mine = db.exec_driver_sql("SELECT id, kind FROM events ORDER BY seq").all()
    assert mine[0].kind == "ledger.replaced"
    assert sorted(fleet.received()) == sorted([*before, *(row.id for row in mine)])
    found = sync.compare_with_hub(fleet.settings)
    assert (found.counts["event"]["equal"], found.counts["event"]["missing"], found.counts["event"]["different"]) == (len(mine), 0, 0)


@pytest.mark.parametrize("copies", [1, 2], ids=["in the outbox", "in the ledger too"])
def test_flipped_bytes_on_the_disk_are_sent_from_the_ledger_or_quarantined(fleet: SyncFleet, copies: int) -> None:
    """An event stands in the file twice; *copies* of it are changed, in the file itself."""
    append(fleet.store, 4, BODIES)
    with fleet.store.write() as db:
        marked = append_event(db, "test.event", {"text": MARK.decode()}).event_id
    gate.queue_evidence(fleet.folder)
    path = Path(fleet.store.name)
    content = path.read_bytes()
    assert content.count(MARK) == 2
    changed = content.replace(MARK, MARK.upper()) if copies == 2 else _last_replaced(fleet, content)
    path.write_bytes(changed)
    done = sync.sync_now(fleet.settings).delivered
    assert (done.events, done.quarantined) == ((5, 0) if copies == 1 else (4, 1))
    assert (marked in fleet.received()) == (copies == 1)
    assert sync.status(fleet.settings).active.quarantined == copies - 1
    if copies == 1:
        fleet.assert_arrived()


def _last_replaced(fleet: SyncFleet, content: bytes) -> bytes:
    """Return *content* with the outbox's copy changed: the one whose change the ledger's own table does not show."""
    for place in (content.find(MARK), content.rfind(MARK)):
        changed = content[:place] + MARK.upper() + content[place + len(MARK) :]
        Path(fleet.store.name).write_bytes(changed)
        with fleet.store.read() as db:
            if MARK in b"".join(bytes(row[0]) for row in db.exec_driver_sql("SELECT content FROM events")):
                return changed
    raise AssertionError("it stands nowhere else")


# --- several at once -----------------------------------------------------------------------------------------------------


SENDER = """
import sys
from pathlib import Path
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity, sync
for _ in range(int(sys.argv[2])):
    done = sync.sync_now(identity.load(Path(sys.argv[1])))
    assert done.delivered.error is None, done
"""


def test_two_that_send_and_one_that_writes(fleet: SyncFleet) -> None:
    """Of two that send the same rows at once the hub keeps them once, and each row gets one receipt."""
    append(fleet.store, 600, BODIES)
    senders = [
        subprocess.Popen(
            [sys.executable, "-c", SENDER, str(fleet.folder), "4"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
        )
        for _ in range(2)
    ]
    for number in range(20):
        append(fleet.store, 5, [b"body %d" % number])
    assert [sender.wait(120) for sender in senders] == [0, 0]
    sync.sync_now(fleet.settings)
    fleet.assert_arrived()
    assert sync.compare_with_hub(fleet.settings).equal


# --- clocks --------------------------------------------------------------------------------------------------------------


@contextmanager
def shifted_hub(hub: HubProcess, hours: int) -> Iterator[None]:
    runner = hub.runner
    hub.kill()
    hub.runner = (sys.executable, "-m", "tests.support.shifted", str(hours))
    hub.start()
    yield
    hub.kill()
    hub.runner = runner
    hub.start()


@pytest.mark.parametrize("hours", [24, -24])
def test_clock_of_the_hub(fleet: SyncFleet, hub: HubProcess, hours: int) -> None:
    append(fleet.store, 3, BODIES)
    (fleet.folder / "token").write_text(hub.token(fleet.source, f"of three days {fleet.source}", days=3))
    with shifted_hub(hub, hours):
        sync.sync_now(fleet.settings)
        fleet.assert_arrived()


def test_clock_of_the_hub_that_has_the_token_expired(fleet: SyncFleet, hub: HubProcess) -> None:
    """The controller could not know; it is told, remembers, and keeps everything until there is another token."""
    append(fleet.store, 3, BODIES)
    (fleet.folder / "token").write_text(hub.token(fleet.source, f"of an hour {fleet.source}", days=1 / 24))
    with shifted_hub(hub, 24):
        assert "refuses the token" in str(sync.sync_now(fleet.settings).delivered.error)
    assert sync.status(fleet.settings).exit_code == 2
    fleet.give_token()
    sync.sync_now(fleet.settings)
    fleet.assert_arrived()


@pytest.mark.parametrize("hours", [24, -24])
def test_clock_of_the_controller(fleet: SyncFleet, hours: int) -> None:
    """Rows that were queued, refused and postponed under a wrong clock are sent under the right one."""
    append(fleet.store, 3, BODIES)
    (fleet.folder / "token").write_text(fleet.hub.token(fleet.source, f"of three days {fleet.source}", days=3))
    fleet.hub.kill()
    code = SENDER.replace("assert done.delivered.error is None, done", "assert done.delivered.error is not None")
    code = f"from tests.support.shifted import shift\nshift({hours})\n{code}"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / '.collections'}"}
    try:
        subprocess.run([sys.executable, "-c", code, str(fleet.folder), "1"], cwd=ROOT, env=environment, check=True)
    finally:
        fleet.hub.start()
    status = sync.status(fleet.settings)
    assert (status.active.event_count, status.active.dead) == (3, 0)
    assert status.active.oldest is not None
    sync.sync_now(fleet.settings)
    fleet.assert_arrived()
