# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification finds what was done to a ledger, whatever it is, and names it."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation, verify
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import LedgerError, Store

from tests.support.tampering import RECORDS, Clock, Intruder, anchor, audit, run, whole

#: seeds of each random test
SEEDS = 400 if os.environ.get("PIFLEET_TEST_FULL") else 12


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ledger")
    whole(Store(folder / "ledger.db"), folder)
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


def intruder(copy: Path, seed: int = 0) -> Intruder:
    return Intruder(copy / "ledger.db", random.Random(seed))


def found(copy: Path, *anchors: verify.Anchor, trusted: tuple[str, ...] = ()) -> dict[str, str]:
    """Return problem by subject."""
    report = audit(Store(copy / "ledger.db"), *anchors, trusted=trusted)
    return {finding.subject: finding.problem for finding in report.findings}


def restored(original: Path, copy: Path) -> None:
    shutil.copyfile(original / "ledger.db", copy / "ledger.db")


# --- what is whole --------------------------------------------------------------------------------------------------------


def test_whole_ledger_is_clean(original: Path) -> None:
    store = Store(original / "ledger.db")
    report = audit(store, anchor(store))
    assert report.findings == ()
    (head,) = report.heads.values()
    assert (head[0], report.events, report.statements) == (anchor(store).seq, anchor(store).seq, 4)
    assert report.bodies == 5
    assert [note for note in report.notes if "statement" in note] != [], "a run without a statement is told"


def test_ledger_older_than_its_chain_is_vouched_for(original: Path, copy: Path) -> None:
    """Everything but the chain is from before: the next event takes it in."""
    intruder(copy).sql("DELETE FROM events", f"UPDATE chains SET seq = 0, sha256 = '{'0' * 64}'")
    run(Store(copy / "ledger.db"), copy, 9, Clock())
    assert found(copy) == {}
    intruder(copy).sql("UPDATE runs SET requester = 'somebody else' WHERE pid = 3")
    assert list(found(copy).values()) == ["changed"]
    intruder(copy).sql("UPDATE bodies SET content = CAST('[]' AS BLOB) WHERE content LIKE '[{\"id\"%'")
    assert "changed" in found(copy).values()


# --- random tampering -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", RECORDS)
def test_any_flipped_bit_of_any_record_is_found_and_named(original: Path, copy: Path, table: str) -> None:
    for seed in range(SEEDS):
        restored(original, copy)
        name = intruder(copy, seed).flip(table)
        assert named(copy, name), f"seed {seed}: {table} {name}: {texts(copy)}"


@pytest.mark.parametrize("table", RECORDS)
def test_any_deleted_record_is_found_and_named(original: Path, copy: Path, table: str) -> None:
    key = {"bodies": "sha256", "run_hosts": "run_id", "artifacts": "run_id", "rebuild_steps": "rebuild_id"}.get(table, "id")
    for rowid, name in intruder(original).rows(f"SELECT rowid, {key} FROM {table}"):
        restored(original, copy)
        intruder(copy).sql(f"DELETE FROM {table} WHERE rowid = {rowid}")
        assert named(copy, str(name)), f"{table} {name}: {texts(copy)}"


def test_events_that_changed_places_are_found_and_named(original: Path, copy: Path) -> None:
    ids = [str(row[0]) for row in intruder(original).rows("SELECT id FROM events ORDER BY seq")]
    for seed in range(SEEDS):
        restored(original, copy)
        one, other = random.Random(seed).sample(ids, 2)
        columns = random.Random(seed).choice(["content, sha256", "content", "content, sha256, kind, at, run_id, host"])
        values = {i: intruder(copy).rows(f"SELECT {columns} FROM events WHERE id = '{i}'")[0] for i in (one, other)}
        with closing(intruder(copy).connect()) as db, db:
            for into, row in ((one, values[other]), (other, values[one])):
                db.execute(f"UPDATE events SET ({columns}) = ({', '.join('?' * len(row))}) WHERE id = ?", (*row, into))
        assert named(copy, one) and named(copy, other), f"{one} {other}: {texts(copy)}"


def test_events_that_changed_numbers_are_found(original: Path, copy: Path) -> None:
    for seed in range(SEEDS):
        restored(original, copy)
        one, other = random.Random(seed).sample(range(1, 35), 2)
        intruder(copy).sql(
            f"UPDATE events SET seq = 1000 WHERE seq = {one}",
            f"UPDATE events SET seq = {one} WHERE seq = {other}",
            f"UPDATE events SET seq = {other} WHERE seq = 1000",
        )
        moved = [f.subject for f in audit(Store(copy / "ledger.db")).findings if f.problem == "moved"]
        assert {int(name.rpartition("-")[2]) for name in moved} == {one, other}


@pytest.mark.parametrize("left", [0, 1, 5, 20, 33])
def test_chain_that_was_cut_off_is_found(original: Path, copy: Path, left: int) -> None:
    intruder(copy).sql(f"DELETE FROM events WHERE seq > {left}")
    missing = [
        f.subject for f in audit(Store(copy / "ledger.db")).findings if f.problem == "missing" and f.subject.rpartition("-")[2].isdigit()
    ]
    assert [int(name.rpartition("-")[2]) for name in missing if len(name) == 27] == list(range(left + 1, 35))


def test_content_that_was_cut_off_is_found(original: Path, copy: Path) -> None:
    intruder(copy).sql(
        "UPDATE events SET content = substr(content, 1, 100) WHERE seq = 7", "UPDATE bodies SET content = substr(content, 1, 3)"
    )
    changed = [subject for subject, problem in found(copy).items() if problem == "changed"]
    assert len(changed) == 6
    assert any(subject.endswith("-0000000007") for subject in changed)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET content = 'text' WHERE seq = 7",
        "UPDATE events SET content = X'00' WHERE seq = 7",
        "UPDATE events SET content = CAST('[]' AS BLOB) WHERE seq = 7",
        "UPDATE events SET content = CAST('{}' AS BLOB) WHERE seq = 7",
        "UPDATE events SET content = CAST('" + "[" * 5000 + "' AS BLOB) WHERE seq = 7",
        "UPDATE events SET seq = 'seven' WHERE seq = 7",
        "UPDATE events SET seq = 7.5 WHERE seq = 7",
        "UPDATE events SET sha256 = X'ff' WHERE seq = 7",
        "UPDATE events SET sha256 = '' WHERE seq = 7",
        "UPDATE events SET at = CAST(X'ff' AS TEXT) WHERE seq = 7",
        "UPDATE events SET chain = 'other' WHERE seq = 7",
        "UPDATE events SET id = 'x' WHERE seq = 7",
        "UPDATE bodies SET content = 'text'",
        "UPDATE bodies SET size = 'x'",
        "UPDATE bodies SET media_type = 'text/html'",
        "UPDATE runs SET tags = '[' WHERE pid = 1",
        "UPDATE runs SET tags = X'ff' WHERE pid = 1",
        "UPDATE runs SET dirty = 7 WHERE pid = 1",
        "UPDATE runs SET requester = CAST(X'ff' AS TEXT) WHERE pid = 1",
        "UPDATE runs SET id = 'x' WHERE pid = 1",
        "UPDATE runs SET revision = NULL WHERE pid = 1",
        "UPDATE chains SET own = 0",
        "UPDATE chains SET seq = 'x'",
        "UPDATE chains SET seq = 3",
        "UPDATE chains SET id = 'x'",
        "INSERT INTO chains SELECT 'x', 1, 0, 'x', 'x'",
        "INSERT INTO events SELECT 'x', chain, 99, kind, at, run_id, host, content, sha256 FROM events WHERE seq = 3",
        "INSERT INTO run_hosts (run_id, host) SELECT id, 'x' FROM runs WHERE pid = 1",
        "INSERT INTO run_hosts (run_id, host) SELECT 'x', 'x'",
        "INSERT INTO runs SELECT 'x', 'succeeded', playbook, revision, dirty, host_limit, tags, skip_tags, inventory, check_mode, "
        "requester, controller, boot_id, pid, process_started, ansible_version, collection_version, started_at, ended_at "
        "FROM runs WHERE pid = 1",
    ],
)
def test_what_fits_no_column_is_found_too(copy: Path, statement: str) -> None:
    intruder(copy).sql(statement)
    assert found(copy) != {}


def test_any_flipped_bit_of_the_file_is_found_where_it_changes_anything(original: Path, copy: Path) -> None:
    """Free space, and what SQLite does not read, may change."""
    whole_dump = dump(original / "ledger.db")
    content = (original / "ledger.db").read_bytes()
    harmless = 0
    for seed in range(SEEDS * 4):
        at = random.Random(seed).randrange(len(content))
        changed = bytearray(content)
        changed[at] ^= 1 << random.Random(seed).randrange(8)
        (copy / "ledger.db").write_bytes(changed)
        try:
            findings = found(copy)
        except LedgerError:
            continue
        if findings == {}:
            assert dump(copy / "ledger.db") == whole_dump, f"seed {seed}: byte {at}"
            harmless += 1
    assert harmless < SEEDS * 4


def dump(path: Path) -> list[list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as db:
        db.text_factory = bytes
        return [db.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in RECORDS]


# --- a rewritten tail, and who signed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [2, 9, 20, 33])
def test_tail_that_was_rewritten_is_found_with_an_anchor(original: Path, copy: Path, seq: int) -> None:
    store = Store(copy / "ledger.db")
    early = anchor(store)
    intruder(copy).rewrite(seq, copy)
    bodies_and_rows = {"changed", "missing"}
    assert not set(found(copy).values()) - bodies_and_rows, "without an anchor the events look whole"
    problems = audit(store, early).findings
    (rewritten,) = [f for f in problems if f.problem == "rewritten"]
    assert rewritten.subject == f"{early.chain}-{early.seq:010d}"
    assert "pi-1 has seen another" in rewritten.text


def test_anchors_say_from_where_it_was_rewritten(tmp_path: Path) -> None:
    store, clock = Store(tmp_path / "ledger.db"), Clock()
    anchors = []
    for number in range(1, 6):
        run(store, tmp_path, number, clock)
        anchors.append(anchor(store, f"place {number}"))
    Intruder(tmp_path / "ledger.db", random.Random(0)).rewrite(anchors[2].seq, tmp_path)
    findings = [f for f in audit(store, *anchors).findings if f.problem == "rewritten"]
    assert [f.subject for f in findings] == [f"{a.chain}-{a.seq:010d}" for a in anchors[2:]]
    assert f"from {anchors[1].chain}-{anchors[1].seq + 1:010d} to it" in findings[0].text


def test_chain_that_was_cut_off_with_its_head_is_found_with_an_anchor(copy: Path) -> None:
    store = Store(copy / "ledger.db")
    seen = anchor(store)
    (last,) = intruder(copy).rows("SELECT sha256 FROM events WHERE seq = 30")
    intruder(copy).sql("DELETE FROM events WHERE seq > 30", f"UPDATE chains SET seq = 30, sha256 = '{last[0]}'")
    missing = [f.subject for f in audit(store, seen).findings if "has seen number 34" in f.text]
    assert [int(name.rpartition("-")[2]) for name in missing] == [31, 32, 33, 34]


def test_anchor_of_another_chain_is_told(original: Path) -> None:
    report = audit(Store(original / "ledger.db"), verify.Anchor("pi-2", "f" * 16, 3, "0" * 64))
    assert report.findings == ()
    assert any("pi-2 knows the chain ffffffffffffffff" in note for note in report.notes)


def test_statement_of_a_key_that_nobody_introduced_is_found(copy: Path) -> None:
    (copy / attestation.KEY_FILE).unlink()
    intruder(copy).rewrite(2, copy)
    assert "unsigned" in found(copy).values()
    assert any("which nobody introduced" in text for text in texts(copy))


def test_statement_of_a_key_that_is_not_trusted_is_found(original: Path) -> None:
    own = attestation.own_signer(original / attestation.KEY_FILE).public_key.keyid
    assert found(original, trusted=(own,)) == {}
    problems = found(original, trusted=("0" * 64,))
    assert set(problems.values()) == {"unsigned"}
    assert len(problems) == 4


def test_empty_ledger_is_clean(tmp_path: Path) -> None:
    with Store(tmp_path / "ledger.db").write():
        pass
    assert audit(Store(tmp_path / "ledger.db")).findings == ()


def named(copy: Path, name: str) -> bool:
    return any(name in text for text in texts(copy))


def texts(copy: Path) -> list[str]:
    return [f"{f.subject} {f.text}" for f in audit(Store(copy / "ledger.db")).findings]
