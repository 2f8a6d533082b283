# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/sync.yml against a real hub over TLS, and runs whose evidence it sends."""

from __future__ import annotations

import json

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import sync

from tests.integration.controller.test_run_record import CLOSE, OPEN
from tests.integration.sync.conftest import SyncFleet
from tests.support.sync import append, leave_record, owner_record


def test_evidence_goes_to_the_hub_and_both_sides_compare_equal(fleet: SyncFleet) -> None:
    ids = append(fleet.store, 5, [b"one", b"two"])
    assert fleet.sync().rc == 0
    assert fleet.received() == ids
    assert fleet.sync("-e", "mode=compare").rc == 0
    assert sync.compare_with_hub(fleet.settings).equal


def test_refused_sync_exits_with_2_changes_nothing_and_its_remedy_mends_it(fleet: SyncFleet) -> None:
    append(fleet.store, 2)
    leave_record(fleet.folder / ".pifleet/sync", owner_record(process_started="0", queue_db_path=fleet.store.name))
    played = fleet.sync()
    assert played.rc == 2
    assert "orphan_records: dead_pid" in played.out
    assert fleet.received() == []
    assert fleet.queued() == {}
    shown = fleet.sync("-e", "check=true", "-e", "output=json")
    (line,) = [line for line in shown.out.splitlines() if line.startswith("{")]
    assert (shown.rc, json.loads(line)["exit_code"], json.loads(line)["daemon_owner_record"]["status"]) == (2, 2, "orphan")
    assert fleet.sync("-e", "mode=stop").rc == 0
    assert fleet.sync().rc == 0
    assert len(fleet.received()) == 2


def test_run_at_an_unclean_boundary_goes_on_warns_and_is_queued_later(fleet: SyncFleet) -> None:
    token = (fleet.folder / "token").read_text()
    (fleet.folder / "token").write_text(f"pft_20200101T000000Z_{'a' * 43}")
    played = fleet.controller.play(OPEN + CLOSE, "--limit", "one")
    assert played.rc == 0, played.out
    assert "stays in the ledger" in played.out
    assert fleet.queued() == {}
    (fleet.folder / "token").write_text(token)
    assert fleet.controller.play(OPEN + CLOSE, "--limit", "one").rc == 0
    assert set(fleet.queued()) == {fleet.settings.scope}, "nothing is written to the legacy queue"
    assert fleet.sync().rc == 0
    assert sync.compare_with_hub(fleet.settings).equal


def test_full_outbox_stops_no_run_and_is_said(fleet: SyncFleet) -> None:
    """What does not fit stays in the ledger, and is queued as the outbox empties."""
    fleet.configure(outbox_limit=3)
    append(fleet.store, 7, [b"body"])
    played = fleet.controller.play(OPEN + CLOSE, "--limit", "one")
    assert played.rc == 0, played.out
    assert "The outbox is full" in played.out
    assert sum(fleet.queued().values()) == 2, "with the body it is three rows"
    assert sync.status(fleet.settings).unqueued > 5
    assert fleet.sync().rc == 0
    fleet.assert_arrived()


def test_legacy_rows_refuse_every_look_and_sync_now_takes_them_over(fleet: SyncFleet) -> None:
    """Rows of a fleet that had no identity: queued by its runs, taken over by the first `sync now` that it has one for."""
    fleet.configure(hub_url=None)
    append(fleet.store, 1, [b"body"])
    assert fleet.controller.play(OPEN + CLOSE, "--limit", "one").rc == 0
    assert set(fleet.queued()) == {""}
    fleet.configure()
    refused = fleet.sync("-e", "check=true", "-e", "output=json")
    (line,) = [line for line in refused.out.splitlines() if line.startswith("{")]
    found = json.loads(line)
    assert (refused.rc, found["exit_code"], found["legacy_queue"]["rows_in_scope"]) == (2, 2, found["legacy_rows_for_scope"])
    assert found["legacy_event_rows"] == found["legacy_queue"]["event_count"] == fleet.queued()[""]
    assert fleet.sync("-e", "migrate=false").rc == 2
    assert fleet.received() == []
    played = fleet.sync()
    assert (played.rc, "Legacy rows:" in played.out) == (0, True), played.out
    fleet.assert_arrived()
    assert fleet.sync("-e", "check=true").rc == 0
