# SPDX-License-Identifier: GPL-3.0-or-later
"""What is evidence of stacks: an event for each that a run changed, or found other than desired. The rest is in the run's ``stacks.json``.
And an event for each attempt that a node made by itself.

Pure: from the results of ``stack_reconcile`` and ``stack_acknowledge``, and from the attempts that ``stack_host`` returned, by host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STATUSES = ("synced", "syncing", "drifted", "failed", "missing", "deleting")
#: a stack that this run took away, which its status calls missing
REMOVED = "removed"
#: differences and actions that an event names; the artifact has all
NAMED = 50
_TOLD = ("status", "revision", "plan_digest", "policy", "awaiting_acknowledgement", "last_error")


@dataclass(frozen=True, slots=True)
class Told:
    """An event to be: *kind* as ``stack.synced``."""

    kind: str
    host: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a node did by itself: *id*, by which it is told apart for ever, and the event that it becomes."""

    id: str
    event: Told


def told(results: Mapping[str, Mapping[str, Any]]) -> tuple[Told, ...]:
    """Return the events of *results*, by host and stack. Results that hold no stacks at all are failures of their host."""
    return tuple(event for host in sorted(results) for event in _of_host(host, results[host]))


def attempts(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Attempt, ...]:
    """Return what nodes did by themselves, by host and in the order in which each tells it."""
    return tuple(_attempt(host, one) for host in sorted(found) for one in found[host])


def _attempt(host: str, one: Mapping[str, Any]) -> Attempt:
    stack = one.get("stack") or {}
    about = {name: one.get(name) for name in ("id", "revision", "began_at", "ended_at", "lost")}
    return Attempt(str(one.get("id")), Told(f"stack.{_word(stack)}", host, {**_data(stack), "unattended": about}))


def _of_host(host: str, result: Mapping[str, Any]) -> list[Told]:
    if not isinstance(result.get("stacks"), list):
        return [Told("stack.failed", host, {"stack": None, "last_error": str(result.get("msg", ""))})]
    worth_it = (s for s in result["stacks"] if s.get("changed") or s.get("status") != "synced")
    return [Told(f"stack.{_word(s)}", host, _data(s)) for s in sorted(worth_it, key=lambda s: str(s.get("name")))]


def _word(stack: Mapping[str, Any]) -> str:
    status = str(stack.get("status"))
    if status == "missing" and stack.get("changed"):
        return REMOVED
    return status if status in STATUSES else "failed"


def _data(stack: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stack": stack.get("name"),
        "changed": bool(stack.get("changed")),
        **{name: stack[name] for name in _TOLD if name in stack},
        "drift": [{k: d.get(k) for k in ("service", "reason")} for d in stack.get("drift", ())[:NAMED]],
        "actions": [{k: a.get(k) for k in ("kind", "target")} for a in stack.get("actions", ())[:NAMED]],
    }
