# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules for stacks returned, as text for people and as lists for playbooks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

_HEADINGS = ("NODE", "STACK", "STATUS", "REVISION", "RUNNING", "LAST SYNC", "DRIFT")
_SHORT = 9  # digits of a revision that are shown
_SHOWN_DRIFT = 3  # differences of a stack that are named


def table(results: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Return the stacks of *results* as a table, one line each, nodes and stacks in the order of names.

    *results*: what stack_reconcile, stack_info or stack_acknowledge returned, by node; or the one result of a node; or its list of stacks.
    Below the table stands what does not fit into it: errors, plans that wait, refreshes that failed. Raises PifleetError for anything else.
    """
    by_node = _by_node(results)
    rows = [_row(node, stack) for node, result in by_node.items() for stack in stacks_of(result)]
    named = [heading for at, heading in enumerate(_HEADINGS) if heading != "NODE" or any(row[at] for row in rows)]
    first = len(_HEADINGS) - len(named)
    lines = _aligned([tuple(named), *(row[first:] for row in rows)]) if rows else ["No stacks."]
    return "\n".join([*lines, *(note for node, result in by_node.items() for note in _notes(node, result))])


def stacks_of(result: Any) -> list[Mapping[str, Any]]:
    """Return the stacks of one node's result in the order of names, none where it has none."""
    found = result.get("stacks", []) if isinstance(result, Mapping) else result
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(s, Mapping) and "name" in s for s in found):
        raise PifleetError(
            "This is no result of stack_reconcile, stack_info or stack_acknowledge.", "Give what the task registered, or its stacks."
        )
    return sorted(found, key=lambda stack: str(stack["name"]))


def reasons(results: Any) -> list[str]:
    """Return each reason of drift in *results*, once, in alphabetical order."""
    found = {
        str(drift["reason"]) for result in _by_node(results).values() for stack in stacks_of(result) for drift in stack.get("drift") or []
    }
    return sorted(found)


def digest(result: Any, stack: str | None) -> str:
    """Return the digest of the plan of *stack*, empty where it has none; without a stack, that of the whole result.

    Raises PifleetError where there is no such stack, or no plan.
    """
    if stack is None:
        plan = result.get("plan") if isinstance(result, Mapping) else None
        if not isinstance(plan, Mapping) or "digest" not in plan:
            raise PifleetError("There is no plan in this result.", "Give what a task of stack_reconcile registered, or name a stack.")
        return str(plan["digest"])
    named = {str(found["name"]): found for found in stacks_of(result)}
    if stack not in named:
        raise PifleetError(f"There is no stack {stack}.", f"There are {', '.join(named) or 'none'}.")
    return str(named[stack].get("plan_digest") or "")


def images(document: Any) -> list[str]:
    """Return the references of images that the services of a compose file name, each once, in alphabetical order.

    *document*: the file as loaded from YAML. Raises PifleetError for something else.
    """
    services = document.get("services") if isinstance(document, Mapping) else None
    if services is None:
        services = {}
    if not isinstance(document, Mapping) or not isinstance(services, Mapping):
        raise PifleetError("This is no compose file.", "Give its content as loaded from YAML (from_yaml).")
    return sorted({str(service["image"]) for service in services.values() if isinstance(service, Mapping) and service.get("image")})


# ---------------------------------------------------------------------------------------------------------------- helpers
def _by_node(results: Any) -> dict[str, Any]:
    if isinstance(results, Mapping) and "stacks" not in results and "name" not in results:
        return {str(node): results[node] for node in sorted(results)}
    return {"": results}


def _row(node: str, stack: Mapping[str, Any]) -> tuple[str, ...]:
    containers = f"{stack.get('containers_running', 0)}/{stack.get('containers_total', 0)}"
    last = str(stack.get("last_sync_at") or "never")[:19].replace("T", " ")
    status = str(stack.get("status", ""))
    marks = [mark for mark in ("suspended", "pinned", "recovered") if stack.get(mark)] + (
        [] if stack.get("in_scope", True) else ["out of scope"]
    )
    drift = _drift(stack.get("drift") or [])
    if stack.get("changed") and status == "synced":
        drift = f"repaired: {drift}"
    shown = f"{status} ({', '.join(marks)})" if marks else status
    return node, str(stack["name"]), shown, str(stack.get("revision") or "-")[:_SHORT], containers, last, drift


def _drift(found: Sequence[Mapping[str, Any]]) -> str:
    named = [f"{d['service']}: {d['reason']}" if d.get("service") else str(d["reason"]) for d in found]
    more = [f"and {len(named) - _SHOWN_DRIFT} more"] if len(named) > _SHOWN_DRIFT else []
    return ", ".join([*named[:_SHOWN_DRIFT], *more]) or "-"


def _notes(node: str, result: Any) -> Iterable[str]:
    where = f"{node}: " if node else ""
    if not isinstance(result, Mapping):
        return
    refresh = result.get("refresh") or {}
    if refresh.get("state") == "failed":
        stays = f" Revision {str(refresh['revision'])[:_SHORT]} stays in force." if refresh.get("revision") else ""
        yield f"{where}desired state could not be refreshed: {refresh.get('error')}{stays}"
    if "stacks" not in result and result.get("msg"):
        yield f"{where}{result['msg']}"
    for stack in stacks_of(result):
        if stack.get("awaiting_acknowledgement"):
            yield f"{where}{stack['name']} waits for an acknowledgement of its plan {stack.get('plan_digest')}"
        if stack.get("status") == "failed" and stack.get("last_error"):
            yield f"{where}{stack['name']} failed: {stack['last_error']}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
