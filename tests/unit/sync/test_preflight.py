# SPDX-License-Identifier: GPL-3.0-or-later
"""The sync boundary: what it reads, what it says, and that it only looks."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils import preflight
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import gate, identity
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Clearance, Outbox
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.owner import OwnerRecord
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store
from ansible_collections.pifleet.ops.plugins.plugin_utils.preflight import (
    ForegroundIdentity,
    MismatchField,
    OrphanRecord,
    OwnerMismatch,
    PreflightResult,
    collect_foreground_identity,
    run_preflight,
)
from rich.console import Console

from tests.support.sync import IDENTITY, OTHER, START, append, leave_record, owner_record, settings_file

CLEAN = PreflightResult(True, (), (), 0, 0, 0, True, True)
Leave = Callable[..., OwnerRecord]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    settings_file(tmp_path)
    return tmp_path


@pytest.fixture
def leave(root: Path) -> Leave:
    """Leaves the record of a service that is this test, which lives, and of the fleet in *root* but for what is given."""

    def leave_it(name: str = "owner.json", **changes: Any) -> OwnerRecord:
        record = owner_record(**{"queue_db_path": str(root / ".pifleet/ledger.db"), **changes})
        leave_record(root / ".pifleet/sync", record, name)
        return record

    return leave_it


def asked(root: Path) -> PreflightResult:
    """Ask with the token's expiry in mind: the tests' clock stands."""
    return run_preflight(root, now=lambda: START)


def lines(result: PreflightResult, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    result.render(console)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_names_and_order_are_those_of_the_contract() -> None:
    assert [f.name for f in fields(ForegroundIdentity)] == [
        "package_version", "executable_path", "source_path", "server_url", "team_or_user", "queue_db_path", "pid",
    ]  # fmt: skip
    assert [f.name for f in fields(OwnerMismatch)] == ["field", "foreground_value", "daemon_value", "remediation_hint"]
    assert [f.name for f in fields(PreflightResult)] == [
        "ok", "mismatches", "orphan_records", "legacy_event_rows", "legacy_body_upload_rows", "legacy_rows_for_scope", "auth_present",
        "auth_required",
    ]  # fmt: skip
    assert get_args(MismatchField) == (
        "daemon_package_version", "daemon_executable_path", "daemon_source_path", "daemon_server_url", "daemon_team_or_user",
        "daemon_queue_db_path",
    )  # fmt: skip


def test_foreground_is_who_asks(root: Path) -> None:
    found = collect_foreground_identity(root)
    assert (found.server_url, found.team_or_user, found.pid) == (IDENTITY.hub_url, "team-a/pi-cluster", os.getpid())
    assert found.queue_db_path == str(root / ".pifleet/ledger.db")
    assert found.package_version == "0.1.0"
    (root / "evidence.yml").unlink()
    assert replace(found, server_url=None, team_or_user=None) == collect_foreground_identity(root)


def test_no_record_at_all_is_no_failure(root: Path) -> None:
    assert asked(root) == CLEAN
    assert lines(CLEAN) == []


def test_service_of_the_same_identity_is_none_either(root: Path, leave: Leave) -> None:
    leave()
    assert asked(root) == CLEAN


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("package_version", "0.0.9"),
        ("executable_path", "/bin/sh"),
        ("source_path", "/srv/other"),
        ("server_url", "https://other.example.org"),
        ("server_url", None),
        ("team_or_user", "team-b/pi-cluster"),
        ("team_or_user", "team-a/other"),
        ("queue_db_path", "/other/ledger.db"),
    ],
)
def test_each_difference_of_the_running_service_is_told(root: Path, leave: Leave, field: str, value: str | None) -> None:
    leave(**{field: value})
    result = asked(root)
    assert not result.ok
    (mismatch,) = result.mismatches
    mine = getattr(collect_foreground_identity(root), field)
    assert (mismatch.field, mismatch.daemon_value, mismatch.foreground_value) == (f"daemon_{field}", value or "<unset>", mine)
    assert "playbooks/sync.yml -e mode=stop" in mismatch.remediation_hint
    assert f"  daemon_{field}: {value or '<unset>'}; this run has {mine}" in lines(result, 400)


def test_all_differences_come_in_their_order(root: Path, leave: Leave) -> None:
    leave(package_version="0", executable_path="/bin/sh", source_path="/x", server_url=None, team_or_user=None, queue_db_path="/y")
    result = asked(root)
    assert tuple(m.field for m in result.mismatches) == get_args(MismatchField)
    assert len({m.remediation_hint for m in result.mismatches}) == 1
    assert sum("mode=stop" in line for line in lines(result)) == 1, "one remedy is said once"


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("owner.json", {"process_started": "0"}, "dead_pid"),
        ("owner.json", {"boot_id": "another boot"}, "dead_pid"),
        ("owner.json", {"executable_path": "/gone/python3"}, "executable_gone"),
        ("services/1.json", {"process_started": "0"}, "dead_pid"),
        ("services/1.json", {"team_or_user": "team-b/pi-cluster"}, "other_identity"),
        ("services/1.json", {"server_url": "https://other"}, "other_identity"),
        ("services/1.json", {"queue_db_path": "/other"}, "other_ledger"),
        ("services/1.json", {"package_version": "0"}, "other_version"),
        ("services/1.json", {}, "not_the_owner"),
    ],
)
def test_orphans(root: Path, leave: Leave, name: str, changes: dict[str, str], reason: str) -> None:
    record = leave(name, **changes)
    result = asked(root)
    assert result.orphan_records == (OrphanRecord(str(root / ".pifleet/sync" / name), reason, record),)  # type: ignore[arg-type]
    assert (result.ok, result.mismatches) == (False, ())
    assert any(line.startswith(f"  orphan_records: {reason}, pid {record.pid}") for line in lines(result))
    assert "mode=stop" in lines(result)[-1]


def test_record_that_cannot_be_read_is_an_orphan(root: Path, leave: Leave) -> None:
    leave()
    (root / ".pifleet/sync/owner.json").write_text("{")
    result = asked(root)
    assert [(o.reason, o.record) for o in result.orphan_records] == [("unreadable", None)]
    assert result.to_dict()["orphan_records"][0]["record"] is None


def test_process_of_another_controller_is_never_taken_for_dead(root: Path, leave: Leave) -> None:
    leave(controller="another", pid=1, process_started="0")
    assert asked(root).ok


def test_legacy_rows_are_counted_by_table(root: Path) -> None:
    store = Store(root / ".pifleet/ledger.db")
    append(store, 3, [b"a", b"b"])
    Outbox(store).enqueue_from_ledger(Clearance(""))
    result = asked(root)
    assert (result.ok, result.legacy_event_rows, result.legacy_body_upload_rows, result.legacy_rows_for_scope) == (False, 3, 2, 5)
    assert any("legacy_rows_for_scope: 5 (legacy_event_rows: 3, legacy_body_upload_rows: 2)" in line for line in lines(result))
    assert lines(result)[-1].startswith("  ansible-playbook playbooks/sync.yml ")
    (root / "evidence.yml").unlink()
    assert asked(root) == PreflightResult(True, (), (), 3, 2, 0, False, False), "without identity it is the queue in use"


def test_rows_of_other_identities_are_none_of_ours(root: Path) -> None:
    before = Store(root / "before.db")
    append(before, 2)
    Outbox(before).enqueue_from_ledger(Clearance(OTHER.scope))
    settings_file(root, hub_url=IDENTITY.hub_url, owner="team-a", fleet="pi-cluster", token_file="token", legacy_ledger="before.db")
    result = asked(root)
    assert (result.ok, result.legacy_event_rows, result.legacy_rows_for_scope) == (True, 2, 0)


def test_fleet_that_moved_to_another_ledger_finds_the_rows_of_its_file(root: Path) -> None:
    store = Store(root / ".pifleet/ledger.db")
    append(store, 2)
    Outbox(store).enqueue_from_ledger(Clearance(""))
    base = {"hub_url": IDENTITY.hub_url, "owner": "team-a", "fleet": "pi-cluster", "token_file": "token"}
    settings_file(root, **base, ledger_url=f"sqlite:///{root}/moved.db")
    assert asked(root).legacy_rows_for_scope == 2


@pytest.mark.parametrize("what", ["none", "missing", "exposed", "expired", "refused"])
def test_token_that_is_not_usable(root: Path, what: str) -> None:
    token = root / "token"
    if what == "none":
        settings_file(root, hub_url=IDENTITY.hub_url, owner="team-a", fleet="pi-cluster")
    elif what == "missing":
        token.unlink()
    elif what == "exposed":
        token.chmod(0o644)
    elif what == "expired":
        token.write_text(f"pft_20250102T030405Z_{'a' * 43}")
    else:
        from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import token as tokens

        seen = tokens.inspect(identity.load(root).token, START)
        Outbox(Store(root / ".pifleet/ledger.db")).note_failure(IDENTITY.scope, "401", seen.fingerprint)
    result = asked(root)
    assert (result.ok, result.auth_present, result.auth_required) == (False, False, True)
    assert any("auth_present: false, auth_required: true" in line for line in lines(result))
    assert "mode=token" in lines(result)[-1]


def test_new_token_is_believed_again(root: Path) -> None:
    test_token_that_is_not_usable(root, "refused")
    (root / "token").write_text(f"pft_20990101T000000Z_{'b' * 43}")
    assert asked(root) == CLEAN


def test_without_hub_no_token_is_required(tmp_path: Path) -> None:
    assert run_preflight(tmp_path) == replace(CLEAN, auth_present=False, auth_required=False)


def worst() -> PreflightResult:
    hints = [f"hint {n}" for n in range(6)]
    names: tuple[MismatchField, ...] = get_args(MismatchField)
    mismatches = tuple(OwnerMismatch(name, "x" * 500, "y" * 500, hint) for name, hint in zip(names, hints, strict=True))
    orphans = tuple(OrphanRecord(f"/{'z' * 500}", "unreadable", None) for _ in range(50))
    return PreflightResult(False, mismatches, orphans, 9, 9, 18, False, True)


@pytest.mark.parametrize("width", [20, 80, 200])
def test_never_more_than_25_lines(width: int) -> None:
    assert len(lines(worst(), width)) <= preflight.MAX_LINES == 25


def test_dict_is_json_and_has_no_secret(root: Path, leave: Leave) -> None:
    leave(server_url="https://user:hunter22@hub")
    leave("services/1.json", queue_db_path="postgresql://u:hunter22@db/x")
    result = asked(root)
    shown = json.dumps(result.to_dict())
    assert "hunter22" not in shown + "\n".join(lines(result, 400))
    assert list(result.to_dict()) == [f.name for f in fields(PreflightResult)]
    assert json.loads(shown)["mismatches"][0]["field"] == "daemon_server_url"


def test_it_only_looks_and_is_quick(root: Path, leave: Leave, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(root / ".pifleet/ledger.db")
    append(store, 2000)
    Outbox(store).enqueue_from_ledger(Clearance(""))
    leave(package_version="0")
    leave("services/1.json", process_started="0")

    def seen() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in root.rglob("*")}

    before = seen()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a preflight uses no network and signals nobody")

    for where, name in ((socket.socket, "connect"), (os, "kill"), (os, "killpg")):
        monkeypatch.setattr(where, name, never)
    asked(root)
    took = []
    for _ in range(5):
        begun = time.process_time()
        asked(root)
        took.append(time.process_time() - begun)
    assert min(took) < 0.1
    assert seen() == before


def test_ledger_that_cannot_be_read_is_told(root: Path) -> None:
    (root / ".pifleet").mkdir()
    (root / ".pifleet/ledger.db").write_bytes(b"no database, but long enough to be taken for one" * 100)
    with pytest.raises(LedgerError, match=r"ledger\.db"):
        asked(root)


def test_gate_gives_consent_or_says_why(root: Path, leave: Leave) -> None:
    settings = identity.load(root)
    assert gate.clear(root, settings) == Clearance(IDENTITY.scope)
    leave(team_or_user="team-b/x")
    with pytest.raises(gate.RefusedError, match="daemon_team_or_user: team-b/x") as raised:
        gate.clear(root, settings)
    assert raised.value.result == run_preflight(root)
    assert len(str(raised.value).splitlines()) <= 25


def test_evidence_waits_in_the_ledger_until_the_boundary_is_clean(root: Path, leave: Leave) -> None:
    store = Store(root / ".pifleet/ledger.db")
    ids = append(store, 2, [b"body"])
    leave(team_or_user="team-b/x")
    with pytest.raises(gate.RefusedError):
        gate.queue_evidence(root)
    outbox = Outbox(store)
    assert outbox.due_events(IDENTITY.scope) == outbox.due_events("") == []
    (root / ".pifleet/sync/owner.json").unlink()
    assert gate.queue_evidence(root).events == 2
    assert [row.key for row in outbox.due_events(IDENTITY.scope)] == ids
    assert outbox.due_events("") == []
