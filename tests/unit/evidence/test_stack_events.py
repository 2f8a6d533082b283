# SPDX-License-Identifier: GPL-3.0-or-later
"""Which stacks become events, of which kind, and what these say."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import chain
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.stack_events import NAMED, attempts, told


def stack(**changes: Any) -> dict[str, Any]:
    plain = {
        "name": "web",
        "status": "synced",
        "changed": False,
        "revision": "a" * 40,
        "plan_digest": "",
        "policy": "apply",
        "awaiting_acknowledgement": False,
        "last_error": "",
        "drift": [],
        "actions": [],
    }
    return {**plain, **changes}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"changed": True}, "stack.synced"),
        ({"status": "failed", "last_error": "no such image"}, "stack.failed"),
        ({"status": "failed", "changed": True}, "stack.failed"),
        ({"status": "drifted", "awaiting_acknowledgement": True, "plan_digest": "d" * 64}, "stack.drifted"),
        ({"status": "missing"}, "stack.missing"),
        ({"status": "missing", "changed": True}, "stack.removed"),
        ({"status": "syncing"}, "stack.syncing"),
        ({"status": "deleting"}, "stack.deleting"),
        ({"status": "of a later version"}, "stack.failed"),
    ],
)
def test_kind_says_how_a_stack_ended(changes: dict[str, Any], kind: str) -> None:
    (event,) = told({"pi-1": {"stacks": [stack(**changes)]}})
    assert (event.kind, event.host, event.data["stack"]) == (kind, "pi-1", "web")
    assert event.data.items() >= {key: value for key, value in changes.items() if key not in ("drift", "actions")}.items()
    chain.seal(chain.Draft(event.kind, "2025", event.data), "c", 1, chain.GENESIS)


def test_stack_that_is_as_it_was_is_no_event() -> None:
    assert told({"pi-1": {"stacks": [stack(), stack(name="db")]}, "pi-2": {"stacks": []}}) == ()


def test_events_come_by_host_and_name_whatever_the_order_of_the_results() -> None:
    first = {"stacks": [stack(name=n, changed=True) for n in ("b", "a")]}
    assert [(e.host, e.data["stack"]) for e in told({"pi-2": first, "pi-1": first})] == [
        ("pi-1", "a"), ("pi-1", "b"), ("pi-2", "a"), ("pi-2", "b"),
    ]  # fmt: skip


def test_host_whose_stacks_could_not_even_be_looked_at_has_failed() -> None:
    (event,) = told({"pi-1": {"failed": True, "msg": "Docker does not answer."}})
    assert (event.kind, event.data) == ("stack.failed", {"stack": None, "last_error": "Docker does not answer."})


def test_drift_and_actions_are_named_without_their_details_and_end_somewhere() -> None:
    drift = [{"service": f"s{n}", "reason": "image", "detail": "PASSWORD=hunter2"} for n in range(NAMED + 5)]
    actions = [{"kind": "up", "target": "s1", "reasons": ["image"]}]
    (event,) = told({"pi-1": {"stacks": [stack(changed=True, drift=drift, actions=actions)]}})
    assert event.data["drift"][0] == {"service": "s0", "reason": "image"}
    assert len(event.data["drift"]) == NAMED
    assert event.data["actions"] == [{"kind": "up", "target": "s1"}]


def test_attempt_of_a_node_is_an_event_with_its_own_times() -> None:
    about = {"id": "20260101T000000.000001Z-00ff", "revision": "b" * 40, "began_at": "2026-01-01", "ended_at": "", "lost": 2}
    removed = {**about, "id": "20260102T000000.000001Z-00ff", "stack": stack(status="missing", changed=True)}
    first, second = attempts({"pi-2": [{**about, "project": "web", "stack": stack(status="failed", changed=True)}], "pi-1": [removed]})
    assert (first.id, first.event.kind, first.event.host) == (removed["id"], "stack.removed", "pi-1")
    assert (second.id, second.event.kind, second.event.data["stack"]) == (about["id"], "stack.failed", "web")
    assert second.event.data["unattended"] == about and second.event.data["revision"] == "a" * 40
    chain.seal(chain.Draft(second.event.kind, "2025", second.event.data), "c", 1, chain.GENESIS)


def test_attempt_that_says_little_is_no_error() -> None:
    (one,) = attempts({"pi-1": [{"id": "x", "stack": {"name": None, "status": "failed", "last_error": "damaged"}}]})
    assert (one.event.kind, one.event.data["stack"]) == ("stack.failed", None)
    chain.seal(chain.Draft(one.event.kind, "2025", one.event.data), "c", 1, chain.GENESIS)
