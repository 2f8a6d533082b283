# SPDX-License-Identifier: GPL-3.0-or-later
"""Every producer, with an identity and a token: what it queues is in the identity's scope, and nothing comes into the legacy queue."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.hub.execution import execute
from ansible_collections.pifleet.ops.hub.plays import Played
from ansible_collections.pifleet.ops.hub.queue import Embedded
from ansible_collections.pifleet.ops.plugins.plugin_utils import preflight
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import gate, sync
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.service import Service
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FORWARD
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import Queries, Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.statements import Statements
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import config, planner

from tests.integration.controller.test_rebuild_record import play, whole
from tests.integration.sync.conftest import SyncFleet, hub, new_fleet  # noqa: F401
from tests.support.controller import ROOT
from tests.support.fix_runs import World as FixRunWorld
from tests.support.hub import HubProcess
from tests.support.hub_office import HubFleet
from tests.support.sync import append
from tests.support.tampering import audit
from tests.unit.evidence.test_producers import producers as writing
from tests.unit.hub.test_stacks import acknowledge, stack, told
from tests.unit.releases.conftest import GROUPS, YAML
from tests.unit.releases.conftest import World as ReleaseWorld
from tests.unit.sync.test_producers import producers as queueing

STACK = {"name": "web", "status": "synced", "changed": True, "revision": "a" * 40, "drift": [], "actions": []}
BAD = {"name": "db", "status": "failed", "changed": True, "last_error": "postgres://app:hunter2@db said no: token=abcdefghijklmnop"}
TREES = {"apps/web": "1" * 40, "apps/job": "2" * 40}
FAIL = {"ansible.builtin.fail": {"msg": "on purpose"}}


def rebuilds(fleet: SyncFleet) -> None:
    assert fleet.controller.play(play(*whole(budget_minutes=60)), "--limit", "one").rc == 0


def releases(fleet: SyncFleet) -> None:
    """A release goes through all its phases in a run that is closed and queued as every other."""
    world = ReleaseWorld(Path(fleet.store.name))
    plan = planner.deploy("prod", config.parse(YAML).environment("prod"), "1.0.0", "c" * 40, TREES, GROUPS, {"web": {}, "job": {}}, {})
    assert world.completed(plan).status == "completed"
    close(fleet, world)


def fix_runs(fleet: SyncFleet) -> None:
    """A fix run goes through all its steps, in such a run too."""
    world = FixRunWorld(Path(fleet.store.name))
    run = world.analysed()
    for name in FORWARD[1:]:
        world.step(run, name)
    assert world.fix_runs.get(run.id).status == "succeeded"
    close(fleet, world)


def close(fleet: SyncFleet, world: ReleaseWorld | FixRunWorld) -> None:
    run_id, status = world.runs.close(world.mine, {"pi-1": "ok"})
    assert status == "succeeded"
    Statements(fleet.store, fleet.folder / ".pifleet").sign(run_id)
    gate.queue_evidence(fleet.folder)


def rotations(fleet: SyncFleet) -> None:
    """A rotation that was made elsewhere is recorded: of files it is tests/integration/secrets that shows it, with sops."""
    task = {"pifleet.ops.secrets_rotate": {"what": "k3s_token", "state": "recorded", "details": {"server": "one"}}}
    assert fleet.controller.play(play(task), "--limit", "one").rc == 0
    (event,) = Queries(fleet.store).events(Wanted(kind="secrets")).items
    assert (event["kind"], event["data"]["what"]) == ("secrets.rotated", "k3s_token")


def alert_tests(fleet: SyncFleet) -> None:
    """A test that fails is evidence too: nobody listens there. tests/integration/observability has those that pass."""
    task = {"pifleet.ops.alert_test": {"address": "http://127.0.0.1:9"}}
    assert fleet.controller.play(play(task), "--limit", "one").rc != 0
    (event,) = Queries(fleet.store).events(Wanted(kind="alert")).items
    assert (event["kind"], event["data"]["severity"], event["data"]["fired_at"]) == ("alert.tested", "critical", "")


def over_http(fleet: SyncFleet) -> None:
    """What the hub writes is of no run; the next one queues it. A fix run that cannot be begun, and an acknowledgement."""
    world = HubFleet(fleet.folder)
    world.player.answer = Played(ok=True, results=[told("pi-1", stack("shop"))])
    asker = world.client("operator")
    asked = asker.post("/orchestrator/runs", json={"target_service": "web", "instruction": "bump requests to 2.32.4"})
    assert asked.status_code == HTTPStatus.ACCEPTED, asked.text
    assert execute(fleet.store, lambda _run, _task: "no such inventory: token=abcdefghijklmnop", asked.json()["id"])
    assert asker.post("/api/refresh").status_code == HTTPStatus.ACCEPTED
    world.refreshed()
    assert acknowledge(world).status_code == HTTPStatus.ACCEPTED
    kinds = {event["kind"] for event in Queries(fleet.store).events(Wanted()).items}
    assert kinds >= {"fix_run.created", "fix_run.interrupted", "stack.acknowledgement_requested"}, kinds
    close(fleet, world.world)


def queue(fleet: SyncFleet) -> None:
    """The queue of the hub finds a fix run whose runner is gone."""
    world = FixRunWorld(Path(fleet.store.name))
    run = world.analysed()
    world.runs.close(world.mine, {"pi-1": "ok"})
    embedded = Embedded(fleet.store, lambda _run, _task: "")
    embedded.start()
    embedded.stop()
    assert world.fix_runs.get(run.id).interrupted
    gate.queue_evidence(fleet.folder)


def callback(fleet: SyncFleet) -> None:
    """All hosts fail, so that the closing action is not played."""
    assert fleet.controller.play(play(FAIL), "--limit", "one").rc != 0


def stacks(fleet: SyncFleet) -> None:
    """The role's own tasks, on what a node answered."""
    tell: list[dict[str, Any]] = [
        {"ansible.builtin.set_fact": {"__stacks_result": {"changed": True, "msg": "", "stacks": [STACK, BAD]}}},
        {"ansible.builtin.include_vars": str(ROOT / "roles/stacks/vars/main.yml")},
        {"ansible.builtin.include_tasks": str(ROOT / "roles/stacks/tasks/tell.yml")},
    ]
    played = fleet.controller.play(play(*tell), "--limit", "one")
    assert (played.rc, "FAILED" in played.out) == (2, True), "the node with the failed stack fails"
    events = Queries(fleet.store).events(Wanted(kind="stack", host="one")).items
    assert {(e["kind"], e["data"]["stack"]) for e in events} == {("stack.synced", "web"), ("stack.failed", "db")}
    assert all([b["name"] for b in e["bodies"]] == ["stacks.json"] for e in events)
    assert "said no" in str(events) and "hunter2" not in str(events)


def sync_now(fleet: SyncFleet) -> None:
    append(fleet.store, 3, [b"a body"])
    sync.sync_now(fleet.settings)


def service(fleet: SyncFleet) -> None:
    append(fleet.store, 3, [b"a body"])
    Service(fleet.settings, wait=lambda _seconds: False).cycle()


#: by the file that produces
PRODUCERS: dict[str, tuple[Callable[[SyncFleet], None], ...]] = {
    "plugins/action/run_record.py": (stacks,),
    "plugins/action/rebuild_record.py": (rebuilds,),
    "plugins/action/release.py": (releases,),
    "plugins/action/fix_run.py": (fix_runs,),
    "plugins/action/secrets_rotate.py": (rotations,),
    "plugins/action/alert_test.py": (alert_tests,),
    "hub/office.py": (over_http,),
    "hub/queue.py": (queue,),
    # within the first
    "hub/execution.py": (),
    "hub/stacks.py": (),
    # reads what that wrote
    "plugins/action/stack_acknowledge.py": (),
    "plugins/callback/evidence.py": (callback,),
    "plugins/action/evidence_sync.py": (sync_now,),
    "plugins/plugin_utils/_evidence/service.py": (service,),
}


def test_all_producers_are_tested_here() -> None:
    assert set(PRODUCERS) == writing() | queueing()


@pytest.fixture
def fleet(tmp_path: Path, hub: HubProcess) -> SyncFleet:  # noqa: F811
    return new_fleet(tmp_path / "fleet", hub)


@pytest.mark.parametrize("produce", [p for every in PRODUCERS.values() for p in every], ids=lambda p: p.__name__)
def test_nothing_comes_into_the_legacy_queue_while_authenticated(fleet: SyncFleet, produce: Callable[[SyncFleet], None]) -> None:
    # what a row's scope was is known for those that were delivered already, too
    with fleet.store.write() as db:
        for table in ("sync_events", "body_upload_queue"):
            db.exec_driver_sql(f"CREATE TABLE seen_{table} AS SELECT scope FROM {table}")
            db.exec_driver_sql(f"CREATE TRIGGER see_{table} AFTER INSERT ON {table} BEGIN INSERT INTO seen_{table} VALUES (new.scope); END")
    produce(fleet)
    with fleet.store.read() as db:
        events = set(db.exec_driver_sql("SELECT scope FROM seen_sync_events").scalars())
        bodies = set(db.exec_driver_sql("SELECT scope FROM seen_body_upload_queue").scalars())
        known = set(db.exec_driver_sql("SELECT id FROM events").scalars())
        waiting = set(db.exec_driver_sql("SELECT event_id FROM sync_events").scalars())
    assert events == {fleet.settings.scope}
    assert bodies <= {fleet.settings.scope}
    assert waiting | set(fleet.received()) == known, "all that was written is queued, or was sent"
    assert audit(fleet.store).findings == ()
    assert preflight.run_preflight(fleet.folder).ok


def test_without_an_identity_rows_are_legacy(fleet: SyncFleet) -> None:
    """What the tests above rule out is what happens without one, and sync now takes it over once there is one."""
    (fleet.folder / "evidence.yml").unlink()
    append(fleet.store, 2)
    gate.queue_evidence(fleet.folder)
    assert fleet.queued() == {"": 2}
    fleet.configure()
    sync.sync_now(fleet.settings)
    assert fleet.queued() == {}
    assert len(fleet.received()) == 2
    assert json.loads(json.dumps(preflight.run_preflight(fleet.folder).to_dict()))["legacy_rows_for_scope"] == 0
