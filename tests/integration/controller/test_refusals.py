# SPDX-License-Identifier: GPL-3.0-or-later
"""What stops evidence at the sync boundary: refused by the real playbook, seen the same by status, check and gate, never in the way of a
run, and mended by what the refusal itself says.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils import preflight
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import gate, sync
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Clearance, Outbox
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.owner import OwnerRecord
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Runs

from tests.integration.controller.test_rebuild_record import play, whole
from tests.integration.sync.conftest import FULL, SyncFleet, hub, new_fleet  # noqa: F401
from tests.support.controller import Played
from tests.support.hub import HubProcess
from tests.support.sync import append, leave_record, owner_record

MANY = preflight.MAX_LINES
BEGINS, MENDS = "Evidence is neither queued nor sent", "What mends it:"
#: what status says to a program, in the run that leaves the evidence
ASK = {"pifleet.ops.evidence_sync": {"mode": "status", "check": True, "output": "json"}, "ignore_errors": True, "run_once": True}
HOSTS = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}


class Boundary:
    """A fleet whose commands can be given as they are printed: everything else they need is in its inventory."""

    def __init__(self, fleet: SyncFleet) -> None:
        self.fleet = fleet
        self._living: list[subprocess.Popen[bytes]] = []
        (fleet.folder / "hosts.yml").write_text(
            json.dumps({"all": {"hosts": {"one": {}}, "vars": {**HOSTS, "fleet_root": str(fleet.folder)}}})
        )
        with fleet.store.write():
            pass

    def command(self, line: str) -> Played:
        """Run a printed command line."""
        env = {"ANSIBLE_INVENTORY": str(self.fleet.folder / "hosts.yml"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return self.fleet.controller.run(shlex.split(line, comments=True), env=env)

    def record(self, **changes: Any) -> OwnerRecord:
        """The record of a service as it should be, but for *changes*; its process lives, and is of the test."""
        child = subprocess.Popen(["sleep", "600"])
        self._living.append(child)
        mine, settings = process.identify(child.pid), self.fleet.settings
        assert settings.identity
        right = owner_record(
            pid=mine.pid,
            process_started=mine.started,
            server_url=settings.identity.hub_url,
            team_or_user=settings.identity.team_or_user,
            queue_db_path=self.fleet.store.name,
        )
        return replace(right, **changes)

    def leave(self, record: OwnerRecord, name: str = "owner.json") -> None:
        leave_record(self.fleet.settings.sync_dir, record, name)

    def reap(self) -> None:
        for child in self._living:
            with suppress(ProcessLookupError):
                child.kill()
            child.wait()

    def ended(self) -> bool:
        """Whether every service that was started has been ended, by somebody else."""
        return all(child.wait(60) for child in self._living)


def other_owner(at: Boundary) -> None:
    at.leave(at.record(team_or_user="team-b/fleet"))


def other_fleet(at: Boundary) -> None:
    at.leave(at.record(team_or_user="team-a/another"))


def other_ledger(at: Boundary) -> None:
    at.leave(at.record(queue_db_path="/elsewhere/ledger.db"))


def other_version(at: Boundary) -> None:
    at.leave(at.record(package_version="0.0.1"))


def other_in_all(at: Boundary) -> None:
    other = at.record(team_or_user="team-b/another", queue_db_path="/elsewhere/ledger.db", package_version="0.0.1")
    at.leave(other)


def dead_orphan(at: Boundary) -> None:
    dead = at.record()
    at.reap()
    at.leave(dead)


def live_orphan(at: Boundary) -> None:
    """It works on beside the owner, for an identity that the fleet had before."""
    at.leave(at.record())
    lost = at.record(team_or_user="team-z/fleet")
    at.leave(lost, f"services/{lost.pid}-{lost.process_started}.json")


def legacy_rows(at: Boundary) -> None:
    append(at.fleet.store, 3, [b"a body"])
    Outbox(at.fleet.store).enqueue_from_ledger(Clearance(""))


def expired_token(at: Boundary) -> None:
    at.fleet.give_token(f"pft_20200101T000000Z_{'a' * 43}")


#: what is wrong: how it comes about, and what the refusal says of it
CASES: dict[str, tuple[Callable[[Boundary], None], str]] = {
    "another in all": (
        other_in_all,
        r"daemon_package_version: 0.0.1; this run has \d.*\n.*daemon_team_or_user: team-b/another; this run has team-a/fleet-\d+\n"
        r".*daemon_queue_db_path: /elsewhere/ledger.db; this run has /",
    ),
    "dead orphan": (dead_orphan, r"orphan_records: dead_pid, pid \d+"),
    "live orphan": (live_orphan, r"orphan_records: other_identity, pid \d+ since \S+ of team-z/fleet"),
    "legacy rows": (legacy_rows, r"legacy_rows_for_scope: 4 \(legacy_event_rows: 3, legacy_body_upload_rows: 1\)"),
    "expired token": (expired_token, r"auth_present: false, auth_required: true"),
}
#: each mismatch alone; one record has all of them above
if FULL:
    CASES |= {
        "other owner": (other_owner, r"daemon_team_or_user: team-b/fleet; this run has team-a/fleet-\d+"),
        "other fleet": (other_fleet, r"daemon_team_or_user: team-a/another; this run has team-a/fleet-\d+"),
        "other ledger": (other_ledger, r"daemon_queue_db_path: /elsewhere/ledger.db; this run has /"),
        "other version": (other_version, r"daemon_package_version: 0.0.1; this run has \d"),
    }


@pytest.fixture
def boundary(tmp_path: Path, hub: HubProcess) -> Iterator[Boundary]:  # noqa: F811
    made = Boundary(new_fleet(tmp_path / "fleet", hub))
    yield made
    made.reap()


@pytest.mark.parametrize("case", CASES)
def test_refusal_is_the_same_for_all_who_ask_and_its_remedy_mends_it(boundary: Boundary, case: str) -> None:
    disturb, says = CASES[case]
    disturb(boundary)
    fleet, before = boundary.fleet, boundary.fleet.queued()
    # a rebuild, and sync now after it, as one command
    (fleet.folder / "rebuild.yml").write_text(json.dumps([*json.loads(play(*whole(budget_minutes=60))), asking()]))
    now = "playbooks/sync.yml -e migrate=false" if case == "legacy rows" else "playbooks/sync.yml"
    played = boundary.command(f"ansible-playbook {fleet.folder}/rebuild.yml {now}")

    assert played.rc == 2, played.out
    played.assert_clear()
    shown = refusal(played.out)
    assert len(shown) <= MANY
    assert re.search(says, "\n".join(shown)), shown
    assert "The evidence of this run stays in the ledger" in played.out
    (run,) = Runs(fleet.store).all()
    (rebuilt,) = Rebuilds(fleet.store).of_host("one")
    assert (run.status, rebuilt.status) == ("succeeded", "succeeded"), "a run goes on"
    assert fleet.queued() == before
    assert fleet.received() == []
    agree(fleet, told(played.out), shown)

    for line in remedies(shown):
        mended = boundary.command(line.replace("FILE", str(fleet.give_token(name="new-token"))))
        assert mended.rc == 0, mended.out
    assert preflight.run_preflight(fleet.folder).ok
    assert case in ("legacy rows", "expired token") or boundary.ended()
    gate.queue_evidence(fleet.folder)  # as the next run does at its end
    assert set(fleet.queued()) <= {fleet.settings.scope}, "nothing is left in the legacy queue"
    sync.sync_now(fleet.settings)
    assert sync.compare_with_hub(fleet.settings).equal
    with fleet.store.read() as db:
        assert set(fleet.received()) == set(db.exec_driver_sql("SELECT id FROM events").scalars())


def asking() -> dict[str, Any]:
    return {"hosts": "all", "gather_facts": False, "tasks": [ASK]}


def refusal(out: str) -> list[str]:
    """The lines that ``sync now`` printed last."""
    lines = out[out.rindex(BEGINS) :].splitlines()
    end = next(n for n, line in enumerate(lines) if n > lines.index(MENDS) and not line.startswith("  "))
    return lines[:end]


def remedies(shown: list[str]) -> list[str]:
    return [line.strip() for line in shown[shown.index(MENDS) + 1 :]]


def told(out: str) -> dict[str, Any]:
    (line,) = [line for line in out.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(line)
    return found


def agree(fleet: SyncFleet, from_playbook: dict[str, Any], shown: list[str]) -> None:
    """One source of truth: the playbook's check, status, the gate of producers, sync now and the preflight say the same."""
    truth = preflight.run_preflight(fleet.folder)
    assert not truth.ok
    expected = json.loads(json.dumps(truth.to_dict()))
    assert {name: from_playbook[name] for name in expected} == expected
    assert from_playbook["exit_code"] == sync.status(fleet.settings).exit_code == 2
    assert json.loads(json.dumps(sync.status(fleet.settings).result.to_dict())) == expected
    with pytest.raises(gate.RefusedError) as at_gate:
        gate.queue_evidence(fleet.folder)
    with pytest.raises(gate.RefusedError) as at_sync:
        sync.sync_now(fleet.settings, migrate=False)
    assert at_gate.value.result == at_sync.value.result == truth
    assert gate.text_of(truth).splitlines() == shown
