# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person does at the boundary, and the service's loop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import gate, identity, owner, service, sync, sync_report
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.delivery import HubError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Settings, SettingsError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.migration import LegacyRows
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Clearance, Outbox
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.owner import OwnerError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.service import Service
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.token import TokenError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.support.controller import ROOT, Controller, Played
from tests.support.sync import IDENTITY, START, MemoryHub, append, event_row, leave_record, owner_record, settings_file, sha256

SCOPE = IDENTITY.scope


class ListingHub(MemoryHub):
    """A hub in memory that can also be compared with."""

    def list_events(self) -> Iterator[tuple[str, str]]:
        return iter(sorted((key, sha256(content)) for key, content in self.events.items()))

    def list_bodies(self) -> Iterator[tuple[str, str]]:
        return iter(sorted((key, key) for key in self.bodies))


def to(hub: ListingHub) -> Callable[[Settings], AbstractContextManager[ListingHub]]:
    return lambda _settings: nullcontext(hub)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    settings_file(tmp_path)
    return tmp_path


@pytest.fixture
def store(root: Path) -> Store:
    return Store(root / ".pifleet/ledger.db")


def queues(store: Store) -> dict[str, int]:
    with store.read() as db:
        return {row[0]: row[1] for row in db.exec_driver_sql("SELECT scope, count(*) FROM sync_events GROUP BY scope")}


def test_sync_now_queues_and_sends_all(root: Path, store: Store) -> None:
    ids = append(store, 3, [b"body"])
    hub = ListingHub()
    done = sync.sync_now(identity.load(root), connect=to(hub))
    assert (done.migrated, done.queued.events, done.delivered.events, done.delivered.bodies, done.full) == (None, 3, 3, 1, None)
    assert list(hub.events) == ids
    assert sync.compare_with_hub(identity.load(root), connect=to(hub)).equal
    assert "Queued 3 events and 1 bodies; sent 3 events and 1 bodies." in sync_report.synced_text(done)


def test_sync_now_takes_legacy_rows_over_first(root: Path, store: Store) -> None:
    append(store, 2)
    Outbox(store).enqueue_from_ledger(Clearance(""))
    append(store, 1)
    hub = ListingHub()
    settings = identity.load(root)
    with pytest.raises(gate.RefusedError, match="legacy_rows_for_scope: 2"):
        sync.sync_now(settings, migrate=False, connect=to(hub))
    assert (queues(store), hub.events) == ({"": 2}, {})
    done = sync.sync_now(settings, connect=to(hub))
    assert done.migrated is not None
    assert (done.migrated.taken.event_rows, done.delivered.events) == (2, 3)
    assert "2 events and 0 bodies taken over, 0 events and 0 bodies quarantined" in sync_report.synced_text(done)
    assert queues(store) == {}


def test_refused_sync_changes_nothing_not_even_legacy_rows(root: Path, store: Store) -> None:
    append(store, 2)
    Outbox(store).enqueue_from_ledger(Clearance(""))
    leave_record(root / ".pifleet/sync", owner_record(package_version="0"))
    before = Path(store.name).read_bytes()
    with pytest.raises(gate.RefusedError):
        sync.sync_now(identity.load(root), connect=to(ListingHub()))
    assert Path(store.name).read_bytes() == before


def test_fleet_without_identity_is_told_what_it_takes(tmp_path: Path) -> None:
    for ask in (sync.sync_now, sync.compare_with_hub):
        with pytest.raises(SettingsError, match=r"has no hub_url.*docs/runbooks/sync\.md"):
            ask(identity.load(tmp_path), connect=to(ListingHub()))


def test_outbox_that_was_full_is_filled_again_as_it_empties(root: Path, store: Store) -> None:
    append(store, 7)
    hub = ListingHub()
    done = sync.sync_now(replace(identity.load(root), limit=3), connect=to(hub))
    assert (done.delivered.events, len(hub.events), done.full) == (7, 7, None)


def test_outbox_that_stays_full_is_said(root: Path, store: Store) -> None:
    ids = append(store, 3)
    hub = ListingHub(rejects=set(ids))
    done = sync.sync_now(replace(identity.load(root), limit=2), connect=to(hub))
    assert done.full is not None
    text = sync_report.synced_text(done)
    assert "The outbox is full: it holds 2 of 2 rows." in text
    assert "The hub refused 2 rows" in text


def test_hub_that_is_down_leaves_rows_queued(root: Path, store: Store) -> None:
    append(store, 3)

    def down(_rows: object) -> None:
        raise HubError("down")

    done = sync.sync_now(identity.load(root), connect=to(ListingHub(fails=down)))
    assert (str(done.delivered.error), queues(store)) == ("down", {SCOPE: 3})
    shown = sync.status(identity.load(root))
    assert shown.delivery.last_error == "down"
    assert (shown.active.event_count, shown.unqueued) == (3, 0)


def test_status_of_a_fleet_that_never_ran(tmp_path: Path) -> None:
    shown = sync.status(identity.load(tmp_path))
    assert shown.exit_code == 0
    assert not (tmp_path / ".pifleet").exists()
    as_text = sync_report.text(lambda console: sync_report.render_status(shown, console))
    assert "identity      <unset> at <unset>" in as_text
    assert "boundary      clean" in as_text


def test_status_says_all(root: Path, store: Store) -> None:
    append(store, 3)
    outbox = Outbox(store)
    outbox.enqueue(Clearance(""), [event_row(8)])
    outbox.enqueue(Clearance(SCOPE), [event_row(9)])
    record = owner_record(queue_db_path=store.name, package_version="0")
    leave_record(root / ".pifleet/sync", record)
    shown = sync.status(identity.load(root))
    whole = shown.to_dict()
    json.dumps(whole)
    assert whole["exit_code"] == 2
    assert whole["foreground"]["team_or_user"] == IDENTITY.team_or_user
    assert whole["daemon_owner_record"] == {"status": "present", "record": record.to_dict()}
    assert (whole["active_queue"]["path"], whole["active_queue"]["event_count"], whole["active_queue"]["body_upload_count"]) == (
        store.name,
        1,
        0,
    )
    assert whole["active_queue"]["unqueued_event_count"] == 3
    assert whole["legacy_queue"] == {"path": store.name, "event_count": 1, "body_upload_count": 0, "rows_in_scope": 1}
    as_text = sync_report.text(lambda console: sync_report.render_status(shown, console))
    for part in (
        "present: pid",
        "1 events and 0 bodies wait",
        "1 events and 0 bodies, 1 of them for this identity",
        "NOT clean",
        "daemon_package_version",
    ):
        assert part in as_text, as_text


def test_owner_that_died_is_an_orphan_in_the_status(root: Path) -> None:
    leave_record(root / ".pifleet/sync", owner_record(process_started="0"))
    assert sync.status(identity.load(root)).to_dict()["daemon_owner_record"]["status"] == "orphan"


def test_dead_letters_are_sent_again(root: Path, store: Store) -> None:
    (bad,) = append(store, 1)
    hub = ListingHub(rejects={bad})
    settings = replace(identity.load(root), attempts=1)
    sync.sync_now(settings, connect=to(hub))
    assert sync.status(settings).active.dead == 1
    hub.rejects.clear()
    assert sync.sync_now(settings, connect=to(hub)).delivered.events == 0
    assert sync.retry_dead_letters(settings) == 1
    assert sync.sync_now(settings, connect=to(hub)).delivered.events == 1


def test_rows_for_the_hub_before_are_said_and_taken_over(root: Path, store: Store) -> None:
    before, other = replace(IDENTITY, hub_url="https://before.example.org"), replace(IDENTITY, owner="Team-A")
    ids = append(store, 2, [b"body"])
    outbox, settings, hub = Outbox(store), identity.load(root), ListingHub()
    outbox.enqueue_from_ledger(Clearance(before.scope))
    outbox.enqueue(Clearance(other.scope), [event_row(9)])
    done = sync.sync_now(settings, connect=to(hub))
    assert (done.delivered.events, "4 rows are queued for another hub, owner or fleet" in sync_report.synced_text(done)) == (0, True)
    assert not sync.compare_with_hub(settings, connect=to(hub)).ok
    shown = sync.status(settings)
    assert shown.to_dict()["stranded_queues"] == [
        {"scope": other.scope, "event_count": 1, "body_upload_count": 0},
        {"scope": before.scope, "event_count": 2, "body_upload_count": 1},
    ]
    as_text = sync_report.text(lambda console: sync_report.render_status(shown, console), width=200)
    assert f"{before.scope}: 2 events and 1 bodies, which are not sent: -e mode=adopt takes them over" in as_text
    assert f"{other.scope}: 1 events and 0 bodies, which are not sent: its owner and fleet are not these" in as_text

    assert sync.adopt(settings).taken == LegacyRows(2, 1)
    assert sync.adopt(settings).taken == LegacyRows(0, 0)
    assert queues(store) == {SCOPE: 2, other.scope: 1}, "another owner's row stays"
    assert sync.sync_now(settings, connect=to(hub)).delivered.events == 2
    assert (list(hub.events), list(hub.bodies)) == (ids, [sha256(b"body")])
    assert sync.compare_with_hub(settings, connect=to(hub)).equal


def test_rows_are_not_taken_over_where_the_boundary_is_not_clean(root: Path, store: Store) -> None:
    append(store)
    Outbox(store).enqueue_from_ledger(Clearance(replace(IDENTITY, hub_url="https://before.example.org").scope))
    leave_record(root / ".pifleet/sync", owner_record(package_version="0"))
    before = Path(store.name).read_bytes()
    with pytest.raises(gate.RefusedError):
        sync.adopt(identity.load(root))
    assert Path(store.name).read_bytes() == before


def test_playbook_takes_rows_for_the_hub_before_over(root: Path, store: Store) -> None:
    append(store, 2)
    Outbox(store).enqueue_from_ledger(Clearance(replace(IDENTITY, hub_url="https://before.example.org").scope))
    controller = Controller(root)

    def adopt(*args: str) -> Played:
        return controller.play((ROOT / "playbooks/sync.yml").read_text(), "--limit", "one", "-e", "mode=adopt", *args)

    predicted = adopt("--check")
    assert (predicted.rc, predicted.changed, SCOPE in queues(store)) == (0, 0, False), predicted.out
    played = adopt()
    assert (played.rc, played.changed, queues(store)) == (0, 1, {SCOPE: 2}), played.out
    assert "2 events and 0 bodies taken over" in played.out
    (root / "token").chmod(0o644)
    refused = adopt()
    assert (refused.rc, "auth_present: false" in refused.out) == (2, True), refused.out


def test_token_is_put_in_its_place(root: Path) -> None:
    source = root / "new"
    source.write_text(f"pft_20260101T000000Z_{'b' * 43}\n")
    settings = identity.load(root)
    assert sync.keep_token(settings, source, lambda: START) == root / "token"
    assert ((root / "token").read_text(), (root / "token").stat().st_mode & 0o777) == (source.read_text(), 0o600)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no token"),
        ("", "holds no token"),
        ("two words", "holds no token"),
        (f"pft_20240101T000000Z_{'b' * 43}", "expired at 2024-01-01"),
    ],
)
def test_token_that_is_none_is_not_kept(root: Path, text: str | None, said: str) -> None:
    source = root / "new"
    if text is not None:
        source.write_text(text)
    before = (root / "token").read_text()
    with pytest.raises(TokenError, match=said):
        sync.keep_token(identity.load(root), source, lambda: START)
    assert (root / "token").read_text() == before


def test_token_that_cannot_be_kept(root: Path) -> None:
    source = root / "new"
    source.write_text("token")
    with pytest.raises(TokenError, match="cannot be read"):
        sync.keep_token(identity.load(root), root)
    base = {"hub_url": IDENTITY.hub_url, "owner": "a", "fleet": "b"}
    settings_file(root, **base)
    with pytest.raises(SettingsError, match="names no token_file"):
        sync.keep_token(identity.load(root), source)
    settings_file(root, **base, token_sops={"file": "x.yml", "key": "hub_token"})
    with pytest.raises(SettingsError, match=r"encrypted.*sops"):
        sync.keep_token(identity.load(root), source)
    settings_file(root, **base, token_file="new/below/a/file")
    with pytest.raises(TokenError, match="cannot be written"):
        sync.keep_token(identity.load(root), source)


def running(root: Path, name: str, ignore: bool = False) -> subprocess.Popen[bytes]:
    """A process that has a record as a service."""
    code = f"import signal, time; {'signal.signal(15, signal.SIG_IGN); ' if ignore else ''}print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    leave_record(root / ".pifleet/sync", owner_record(pid=child.pid, process_started=process.identify(child.pid).started), name)
    return child


def test_services_are_ended_and_forgotten(root: Path) -> None:
    kind, stubborn = running(root, "owner.json"), running(root, "services/1.json", ignore=True)
    leave_record(root / ".pifleet/sync", owner_record(process_started="0"), "services/2.json")
    (root / ".pifleet/sync/services/3.json").write_text("{")
    done = sync.stop_services(identity.load(root), seconds=2.0)
    assert [line.split()[0] for line in done] == ["ended", "ended", "removed", "removed"]
    assert (kind.wait(30), stubborn.wait(30)) == (-signal.SIGTERM, -signal.SIGKILL)
    assert owner.read_all(root / ".pifleet/sync") == ()
    assert sync.stop_services(identity.load(root)) == []


def test_dead_owner_is_forgotten_whole(root: Path) -> None:
    """The service wrote two records; the remedy that is printed for its death removes both, so that it mends at once."""
    child = os.fork()
    if child == 0:
        owner.Ownership(root / ".pifleet/sync").claim(sync_service_record(root))
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list((root / ".pifleet/sync").rglob("*.json"))) == 2
    assert sync.status(identity.load(root)).exit_code == 2
    assert len(sync.stop_services(identity.load(root))) == 1
    assert sync.status(identity.load(root)).exit_code == 0


def sync_service_record(root: Path) -> owner.OwnerRecord:
    return Service(identity.load(root), lambda _seconds: True).record(4711)


def test_service_that_is_not_ours_to_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_record(root / ".pifleet/sync", owner_record(controller="another"))
    with pytest.raises(OwnerError, match="runs on another"):
        sync.stop_services(identity.load(root))
    leave_record(root / ".pifleet/sync", owner_record())

    def denied(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", denied)
    with pytest.raises(OwnerError, match="another user's"):
        sync.stop_services(identity.load(root))
    monkeypatch.setattr(os, "kill", lambda *_: None)
    monkeypatch.setattr(sync.time, "sleep", lambda _seconds: None)
    with pytest.raises(OwnerError, match="does not end"):
        sync.stop_services(identity.load(root))
    assert len(owner.read_all(root / ".pifleet/sync")) == 1


class Waits:
    """Time that passes when it is waited for. *ends*: after how many waits the service is told to end."""

    def __init__(self, ends: int) -> None:
        self.seconds: list[float] = []
        self.ends = ends

    def __call__(self, seconds: float) -> bool:
        if seconds:
            self.seconds.append(seconds)
        return len(self.seconds) >= self.ends


def test_service_sends_what_comes_and_owns_the_outbox_meanwhile(root: Path, store: Store) -> None:
    hub, folder = ListingHub(), root / ".pifleet/sync"
    append(store, 2)

    def wait(seconds: float) -> bool:
        if seconds:
            (found,) = owner.read_all(folder)
            assert found.record is not None
            assert (found.record.pid, found.record.port) == (os.getpid(), 4711)
            assert sync.status(identity.load(root)).exit_code == 0
            if len(hub.events) == 5:
                return True
            append(store, 3)
        return False

    Service(identity.load(root), wait, connect=to(hub)).run(4711)
    assert len(hub.events) == 5
    assert owner.read_all(folder) == ()


def test_hub_that_is_down_for_an_hour(root: Path, store: Store) -> None:
    """An hour of waits: 1 s doubling to 300 s, half of it by chance; then all is sent, once."""
    append(store, 3, [b"body"])
    hub, asked, waits = ListingHub(), 0, Waits(1000)

    def down(_rows: object) -> None:
        nonlocal asked
        asked += 1
        if sum(waits.seconds) < 3600:
            raise HubError("down")
        waits.ends = len(waits.seconds) + 2

    hub.fails = down
    Service(identity.load(root), waits, connect=to(hub), jitter=lambda: 1.0).run()
    assert waits.seconds[:10] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert set(waits.seconds[10:-2]) == {300}
    assert waits.seconds[-2:] == [10, 10]
    assert (len(hub.events), hub.stored) == (3, 4)


def test_service_goes_on_whatever_it_meets(root: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    append(store, 1)
    waits, hub = Waits(6), ListingHub()
    token = (root / "token").read_text()

    def wait(seconds: float) -> bool:
        ended = waits(seconds)
        if seconds and len(waits.seconds) == 1:
            (root / "token").write_text(token)
            Path(store.name).chmod(0o600)
            Path(store.name).rename(root / "away")
            Path(store.name).write_bytes(b"no database" * 1000)
        elif seconds and len(waits.seconds) == 2:
            (root / "away").rename(store.name)
        return ended

    (root / "token").write_text("pft_20200101T000000Z_" + "a" * 43)
    Service(identity.load(root), wait, connect=to(hub)).run()
    assert len(hub.events) == 1
    said = [record.getMessage() for record in caplog.records]
    assert any("auth_present: false" in line for line in said)
    assert any("damaged" in line for line in said)
    assert said.count("all is sent") == 1, "what does not change is said once"


def test_service_whose_record_is_taken_away_ends(root: Path, store: Store) -> None:
    def wait(seconds: float) -> bool:
        if seconds:
            (root / ".pifleet/sync/owner.json").unlink()
        return False

    Service(identity.load(root), wait, connect=to(ListingHub())).run()


def test_service_keeps_the_identity_that_it_began_with(root: Path, store: Store) -> None:
    hub = ListingHub()
    waits = Waits(3)

    def wait(seconds: float) -> bool:
        if seconds and len(waits.seconds) == 0:
            settings_file(root, hub_url="https://other.example.org", owner="team-a", fleet="pi-cluster", token_file="token")
            append(store, 1)
            result = sync.status(identity.load(root)).result
            assert [m.field for m in result.mismatches] == ["daemon_server_url"]
        return waits(seconds)

    Service(identity.load(root), wait, connect=to(hub)).run()
    assert len(hub.events) == 1, "what the ledger had is sent to the hub that it knows"


def test_second_service_is_refused(root: Path, store: Store) -> None:
    def wait(seconds: float) -> bool:
        if seconds:
            with pytest.raises(OwnerError, match="Another pifleet-sync owns this outbox"):
                Service(identity.load(root), Waits(1), connect=to(ListingHub())).run()
            return True
        return False

    Service(identity.load(root), wait, connect=to(ListingHub())).run()


def test_service_needs_an_identity(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert service.main(["--root", str(tmp_path)]) == 2
    assert "has no hub_url" in caplog.text


def test_status_is_served_on_loopback(root: Path, store: Store) -> None:
    append(store, 1)
    with service.serve_status(identity.load(root)) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        with urllib.request.urlopen(url) as answer:
            assert json.load(answer) == sync.status(identity.load(root)).to_dict()
        Path(store.name).write_bytes(b"no database" * 1000)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(url)
        server.shutdown()
