# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters for stacks: tables for people, lists and digests for playbooks."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.pifleet.ops.plugins.filter.compose_images import FilterModule as Images
from ansible_collections.pifleet.ops.plugins.filter.drift_reasons import FilterModule as Reasons
from ansible_collections.pifleet.ops.plugins.filter.drift_table import FilterModule as Table
from ansible_collections.pifleet.ops.plugins.filter.plan_digest import FilterModule as Digest

drift_table, drift_reasons = Table().filters()["drift_table"], Reasons().filters()["drift_reasons"]
plan_digest, compose_images = Digest().filters()["plan_digest"], Images().filters()["compose_images"]


def stack(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "status": "synced",
        "revision": "5f0c2a7d9e1b4c3a8f6e2d1c0b9a8f7e6d5c4b3a",
        "containers_running": 2,
        "containers_total": 2,
        "last_sync_at": "2026-01-02T03:04:05.678901Z",
        "drift": [],
        "in_scope": True,
        **more,
    }


RESULT = {
    "plan": {"digest": "d" * 64, "actions": []},
    "stacks": [
        stack(
            "web",
            status="drifted",
            drift=[{"service": "db", "reason": "stopped"}, {"service": "", "reason": "orphan"}],
            plan_digest="e" * 64,
        ),
        stack("dns"),
    ],
}


def test_a_table_of_nodes() -> None:
    assert drift_table(
        {"pi-2": RESULT, "pi-1": {"stacks": [stack("dns", revision="", last_sync_at="", status="missing")]}}
    ).splitlines() == [
        "NODE  STACK  STATUS   REVISION   RUNNING  LAST SYNC            DRIFT",
        "pi-1  dns    missing  -          2/2      never                -",
        "pi-2  dns    synced   5f0c2a7d9  2/2      2026-01-02 03:04:05  -",
        "pi-2  web    drifted  5f0c2a7d9  2/2      2026-01-02 03:04:05  db: stopped, orphan",
    ]


def test_a_table_of_one_node_has_no_column_for_it() -> None:
    for given in (RESULT, RESULT["stacks"]):
        assert drift_table(given).splitlines()[0] == "STACK  STATUS   REVISION   RUNNING  LAST SYNC            DRIFT"
    assert drift_table([]) == "No stacks."
    assert drift_table({}) == "No stacks."


def test_what_does_not_fit_stands_below() -> None:
    shown = drift_table(
        {
            "pi-1": {
                "stacks": [
                    stack("a", status="failed", last_error="no such image", drift=[{"service": "s", "reason": f"r{n}"} for n in range(5)]),
                    stack("b", status="drifted", awaiting_acknowledgement=True, plan_digest="f" * 64),
                    stack("c", suspended=True, in_scope=False),
                    stack("d", changed=True, drift=[{"service": "", "reason": "stack_missing"}]),
                ],
                "refresh": {"state": "failed", "error": "no network", "revision": "1234567890abc"},
            },
            "pi-2": {"msg": "Docker does not answer."},
        }
    )
    for text in (
        "s: r0, s: r1, s: r2, and 2 more",
        "pi-1: a failed: no such image",
        f"pi-1: b waits for an acknowledgement of its plan {'f' * 64}",
        "synced (suspended, out of scope)",
        "repaired: stack_missing",
        "pi-1: desired state could not be refreshed: no network Revision 123456789 stays in force.",
        "pi-2: Docker does not answer.",
    ):
        assert text in shown


def test_reasons_once_in_order() -> None:
    assert drift_reasons({"n": RESULT, "m": RESULT}) == ["orphan", "stopped"]
    assert drift_reasons(RESULT) == ["orphan", "stopped"]


def test_digests() -> None:
    assert plan_digest(RESULT) == "d" * 64
    assert plan_digest(RESULT, "web") == "e" * 64
    assert plan_digest(RESULT, "dns") == ""
    for given, name, says in ((RESULT, "other", "There are dns, web"), ({}, None, "no plan"), ([], None, "no plan")):
        with pytest.raises(AnsibleFilterError, match=says):
            plan_digest(given, name)


def test_images() -> None:
    assert compose_images(
        {"services": {"b": {"image": "x:1"}, "a": {"image": "x:1"}, "c": {"build": "."}, "d": {"image": "a/b@sha256:0"}}}
    ) == [
        "a/b@sha256:0",
        "x:1",
    ]
    assert compose_images({"services": None}) == []
    for given in ([], "text", None, {"services": []}):
        with pytest.raises(AnsibleFilterError, match="no compose file"):
            compose_images(given)


@pytest.mark.parametrize("given", ["text", 3, [3], {"n": "text"}, {"stacks": [{}]}])
def test_garbage_is_refused(given: Any) -> None:
    for use in (drift_table, drift_reasons):
        with pytest.raises(AnsibleFilterError, match="no result of stack_reconcile"):
            use(given)
