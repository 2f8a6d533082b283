# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that can happen between the service and a real hub over TLS; afterwards both sides have the same, nothing lost or doubled."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import hub_client, sync, token
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.hub_client import HttpHub
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Settings
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Clearance, Outbox
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.service import Service
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import utc_now

from tests.integration.sync.conftest import FULL, SyncFleet
from tests.support.faulty import FAULTS, FaultyHub
from tests.support.hub import HubProcess, certificates
from tests.support.sync import Clock, append, event_row

BODIES = [b"one", b"two" * 5000, b"three"]


class Passing:
    """Time that passes by being waited for, on the outbox's clock too. *then*: called after each wait, says whether the service ends."""

    def __init__(self, then: Callable[[float], bool]) -> None:
        self.clock = Clock(utc_now())
        self.seconds: list[float] = []
        self._then = then

    def __call__(self, seconds: float) -> bool:
        if not seconds:
            return False
        assert len(self.seconds) < 2000, "it comes to no end"
        self.seconds.append(seconds)
        self.clock.move(seconds=seconds)
        return self._then(sum(self.seconds))


def serve(fleet: SyncFleet, passing: Passing, read_seconds: float = 30.0) -> None:
    """Run the service, in this process, until *passing* ends it."""

    def connect(settings: Settings) -> HttpHub:
        return HttpHub(sync.identity_of(settings), token.read(settings.token, utc_now()), settings.ca_file, read_seconds=read_seconds)

    Service(fleet.settings, passing, connect=connect, jitter=lambda: 1.0, now=passing.clock).run()


def all_sent(fleet: SyncFleet) -> bool:
    status = sync.status(fleet.settings)
    return status.unqueued + status.active.event_count + status.active.body_upload_count == 0


def test_hub_that_is_down_for_an_hour(fleet: SyncFleet) -> None:
    """It is tried again after 1 s, doubling to 300 s; what comes meanwhile waits with the rest."""
    append(fleet.store, 3, BODIES)
    fleet.hub.kill()

    def then(passed: float) -> bool:
        if passed < 3600:
            append(fleet.store, 5)
        elif fleet.hub.process is None:
            fleet.hub.start()
        return all_sent(fleet)

    passing = Passing(then)
    try:
        serve(fleet, passing)
    finally:
        if fleet.hub.process is None:
            fleet.hub.start()
    assert passing.seconds[:10] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert sum(passing.seconds) >= 3600
    assert len(fleet.received()) > 60
    fleet.assert_arrived()
    assert sync.compare_with_hub(fleet.settings).equal


@pytest.mark.parametrize("seed", range(40 if FULL else 2))
def test_every_fault_between_them(fleet: SyncFleet, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All faults in an order by chance, one to three sound requests between them, while evidence goes on coming."""
    chance = random.Random(seed)
    monkeypatch.setattr(hub_client, "ANSWER_SECONDS", 2.0)
    to_come = [name for fault in chance.sample(sorted(FAULTS), len(FAULTS)) for name in [fault, *["none"] * chance.randint(1, 3)]]

    def next_fault() -> str:
        return to_come.pop(0) if to_come else "none"

    append(fleet.store, 700, BODIES)
    with FaultyHub(fleet.hub, next_fault, seed, slow_seconds=3.0) as between:
        fleet.configure(hub_url=between.url)

        def then(_passed: float) -> bool:
            fleet.assert_acknowledged_is_kept()
            if to_come:
                append(fleet.store, 3, [b"%d" % len(to_come)])
                return False
            return all_sent(fleet)

        serve(fleet, Passing(then), read_seconds=2.0)
        assert to_come == []
        fleet.assert_arrived()
        assert sync.compare_with_hub(fleet.settings).equal
        assert sync.status(fleet.settings).active.dead == 0


def test_hub_whose_certificate_another_authority_signed_gets_nothing(fleet: SyncFleet, tmp_path: Path) -> None:
    append(fleet.store, 2)
    (tmp_path / "other").mkdir()
    fleet.configure(ca_file=str(certificates(tmp_path / "other")))
    done = sync.sync_now(fleet.settings)
    assert "certificate verify failed" in str(done.delivered.error).lower()
    assert fleet.received() == []
    fleet.configure()
    assert sync.sync_now(fleet.settings).delivered.events == 2


def test_token_that_expires_at_the_hub_stops_sending_until_there_is_another(fleet: SyncFleet, hub: HubProcess) -> None:
    """A token whose expiry the controller cannot see: the hub's word is remembered, and the preflight refuses until it is replaced."""
    append(fleet.store, 2, BODIES)
    fleet.give_token("of-no-form-that-says-when-it-ends")
    done = sync.sync_now(fleet.settings)
    assert "refuses the token" in str(done.delivered.error)
    assert sync.status(fleet.settings).exit_code == 2
    assert fleet.received() == []
    fleet.give_token()
    assert sync.sync_now(fleet.settings).delivered.events == 2
    fleet.assert_arrived()


def test_row_that_the_hub_never_takes_dies_alone_and_can_be_tried_again(fleet: SyncFleet) -> None:
    """A poison row among others: they are delivered, it waits longer each time and becomes a dead letter, which can be revived."""
    append(fleet.store, 3, BODIES)
    bad = event_row(1, text="poison")
    poison = replace(bad, key="no event has this id", size=len(bad.content or b""))
    Outbox(fleet.store).enqueue(Clearance(fleet.settings.scope), [poison])
    status = sync.status(fleet.settings)

    def then(_passed: float) -> bool:
        nonlocal status
        status = sync.status(fleet.settings)
        return status.active.dead == 1

    passing = Passing(then)
    serve(fleet, passing)
    assert len(fleet.received()) == 3
    assert (status.active.event_count, status.active.dead, status.exit_code) == (0, 1, 0)
    assert sum(passing.seconds) >= 1 + 2 + 4 + 8, "five tries, each later than the one before"
    with fleet.store.read() as db:
        assert "another event than the id says" in db.exec_driver_sql("SELECT last_error FROM sync_events").scalar_one()
    assert sync.sync_now(fleet.settings).delivered.rejected == 0, "a dead letter is not sent"
    assert sync.retry_dead_letters(fleet.settings) == 1
    assert sync.sync_now(fleet.settings).delivered.rejected == 1
