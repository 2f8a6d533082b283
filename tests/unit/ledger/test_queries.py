# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to the ledger: filters, pages, one run whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.stack_events import Told
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import append_event
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import Queries, Wanted, as_table
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.support.tampering import Clock

Someone = Callable[[int], Process]
Ledger = Callable[[], Store]


@pytest.fixture
def ids(ledger: Ledger, header: Header, someone: Someone) -> list[str]:
    """Four runs of hosts a and b: succeeded with an artifact and a stack, failed, of another fleet, still running."""
    clock = Clock()
    runs = Runs(ledger(), now=clock, gone=lambda _process: False)
    made = [runs.open(header, someone(1), ["a", "b"]).run_id]
    runs.attach(someone(1), "stacks.json", "application/json", b'{"x": 1}', [Told("stack.synced", "a", {"stack": "web"})])
    runs.close(someone(1), {"a": "ok", "b": "ok"})
    made.append(runs.open(header, someone(2), ["b"]).run_id)
    runs.close(someone(2), {"b": "failed"})
    made.append(runs.open(replace(header, inventory=("inventory/pi-cluster",)), someone(3), ["a"]).run_id)
    runs.close(someone(3), {"a": "ok"})
    made.append(runs.open(header, someone(4), ["a"]).run_id)
    with ledger().write() as db:
        append_event(db, "note.made", {"n": 1}, host="c", now=clock)
    return made


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [3, 2, 1, 0]),
        ({"host": "b"}, [1, 0]),
        ({"host": "b", "status": "failed"}, [1]),
        ({"status": "running"}, [3]),
        ({"kind": "stack"}, [0]),
        ({"kind": "stack.synced"}, [0]),
        ({"kind": "run.closed"}, [2, 1, 0]),
        ({"kind": "run_"}, []),
        ({"kind": "%"}, []),
        ({"inventory": ("inventory/lab",)}, [3, 1, 0]),
        ({"inventory": ("inventory/pi-cluster",)}, [2]),
        ({"inventory": ()}, []),
        ({"since": "2025-01-02T03"}, [3, 2, 1, 0]),
        ({"since": "2025-01-03"}, []),
        ({"until": "2025-01-02"}, [3, 2, 1, 0]),
        ({"until": "2025-01-01"}, []),
        ({"limit": 2}, [3, 2]),
        ({"limit": 2, "offset": 3}, [0]),
        ({"offset": 4}, []),
    ],
)
def test_runs_are_filtered_newest_first(ledger: Ledger, ids: list[str], wanted: dict[str, object], found: list[int]) -> None:
    page = Queries(ledger()).runs(Wanted(**wanted))  # type: ignore[arg-type]
    assert [run["run_id"] for run in page.items] == [ids[number] for number in found]


def test_pages_lead_from_one_to_the_next_and_lose_none(ledger: Ledger, ids: list[str]) -> None:
    seen, offset = list[str](), 0
    while True:
        page = as_table(Queries(ledger()).runs(Wanted(limit=1, offset=offset)))
        seen += [run["run_id"] for run in page["items"]]
        assert page["total"] == 4
        if page["next_offset"] is None:
            break
        offset = page["next_offset"]
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("wanted", "kinds"),
    [
        ({"kind": "run.opened"}, ["run.opened"] * 4),
        ({"kind": "stack"}, ["stack.synced"]),
        ({"host": "c"}, ["note.made"]),
        ({"host": "b", "kind": "stack"}, []),
        ({"host": "b"}, ["run.closed", "run.opened", "run.closed", "artifact.kept", "run.opened"]),
        ({"status": "failed"}, ["run.closed", "run.opened"]),
        ({"since": "2025-01-03"}, []),
        ({"limit": 1}, ["note.made"]),
    ],
)
def test_events_are_filtered_newest_first(ledger: Ledger, ids: list[str], wanted: dict[str, object], kinds: list[str]) -> None:
    assert [event["kind"] for event in Queries(ledger()).events(Wanted(**wanted)).items] == kinds  # type: ignore[arg-type]


def test_names_are_plain_text(ledger: Ledger, ids: list[str]) -> None:
    """Ansible warns of any other kind of text in a result."""
    whole = Queries(ledger()).show(ids[0])
    assert {type(name) for table in (whole, *whole["artifacts"], *whole["hosts"].values()) for name in table} == {str}


def test_run_is_shown_whole(ledger: Ledger, ids: list[str]) -> None:
    run = Queries(ledger()).show(ids[0])
    assert [event["kind"] for event in run["events"]] == ["run.opened", "artifact.kept", "stack.synced", "run.closed"]
    assert [(a["name"], a["content"], a["size"]) for a in run["artifacts"]] == [("stacks.json", '{"x": 1}', 8)]
    assert {host: told["outcome"] for host, told in run["hosts"].items()} == {"a": "ok", "b": "ok"}
    assert "pid" not in run and "content" not in Queries(ledger()).show(ids[0], contents=False)["artifacts"][0]
    with pytest.raises(PifleetError, match="There is no run x in the ledger"):
        Queries(ledger()).show("x")
