# SPDX-License-Identifier: GPL-3.0-or-later
"""Fix runs as text for a person, and as tables for a program. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import (
    AWAITING,
    GATES,
    REFS,
    ROLLBACK_FAILED,
    ActionPlan,
    FixRun,
    Step,
)

_MARKS = {"pending": " ", "in_progress": ">", "succeeded": "+", "failed": "!", "skipped": "-"}


def plan(found: ActionPlan, diff: str) -> str:
    """Return what a fix run would do, for a person. *diff*: free of secrets."""
    lines = [
        f"Fix of {found.service} ({found.compose_service} of the stack {found.stack}) on {found.node}: {found.summary}",
        f"  instruction: {found.instruction}",
        f"  base:        {found.base}",
        f"  plan:        {found.digest}",
    ]
    if found.requirement in GATES:
        lines.append(f"  approval:    needed before {GATES[found.requirement]}")
    for name, params in found.steps.items():
        lines.append(f"  {name + ':':<12} {json.dumps(params, sort_keys=True)}")
    return "\n".join([*lines, *diff.splitlines()])


def show(run: FixRun) -> str:
    """Return one fix run, for a person."""
    lines = [
        f"Fix run {run.id} of {run.service} on {run.node}: {run.status}",
        f"  instruction: {run.instruction}",
        f"  requested by {run.requester}",
    ]
    if run.plan:
        lines += [f"  does: {run.plan.summary}", f"  plan: {run.plan.digest}"]
    for step in run.steps:
        seconds = f" {seconds_of(step):.1f} s" if step.ended_at and step.started_at else ""
        lines.append(f"  [{_MARKS[step.state]}] {step.name:<9} {step.state}{seconds}{': ' + step.message if step.message else ''}")
    for approval in run.approvals:
        used = f", used at {approval.used_at}" if approval.used_at else ""
        lines.append(f"  {approval.decision} by {approval.approver} at {approval.given_at}, until {approval.expires_at}{used}")
    lines += [f"  {artifact.type}: {artifact.path} ({artifact.size_bytes} bytes)" for artifact in run.artifacts]
    if run.reason:
        lines.append(f"  reason: {run.reason}")
    lines += [f"  {line}" for line in way_on(run)]
    return "\n".join(lines)


def way_on(run: FixRun) -> list[str]:
    """Return what a person can do now."""
    if run.status == AWAITING:
        digest = run.plan_digest
        return [f"waits for approval: playbooks/approve.yml -e run_id={run.id} -e plan_digest={digest} (or -e reject=true)"]
    if run.status == ROLLBACK_FAILED:
        return [
            "THE ROLLBACK FAILED: the service may be neither as it was nor as it should be. By hand:",
            f"1. Where rollback.log says that the patch stays committed: `git revert {run.candidate[:12]}`.",
            f"2. playbooks/stacks.yml --limit {run.node} brings the files of the checkout to the node.",
            "3. `docker images pifleet-fix/*` on the node lists the image that ran before; `docker tag` gives it its name back.",
            f"4. playbooks/fix.yml -e retry={run.id} tries the rollback again.",
        ]
    if run.holds:
        return [
            f"its stack is pinned on {run.node}: `git merge {REFS}{run.id}` commits the patch to the desired state, and",
            f"playbooks/fix.yml -e unpin={run.id} lets go of it",
        ]
    if run.interrupted:
        return [f"was interrupted: playbooks/fix.yml -e retry={run.id} goes on with it"]
    return []


def listing(runs: Iterable[FixRun]) -> str:
    """Return fix runs as a table for a person."""
    rows = [("FIX RUN", "SERVICE", "NODE", "STATUS", "CREATED", "INSTRUCTION")]
    rows += [(r.id, r.service, r.node, r.status, r.created_at[:19], r.instruction[:60]) for r in runs]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def as_table(run: FixRun, now: str) -> dict[str, Any]:
    """Return a fix run as JSON can hold it."""
    return {
        "id": run.id,
        "service": run.service,
        "stack": run.stack,
        "node": run.node,
        "instruction": run.instruction,
        "status": run.status,
        "requester": run.requester,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "parent_id": run.parent_id,
        "reason": run.reason,
        "interrupted": run.interrupted,
        "plan_digest": run.plan_digest,
        "summary": run.plan.summary if run.plan else "",
        "candidate": run.candidate,
        "approval_required": bool(run.plan and run.plan.requirement in GATES),
        "approval_status": runner.approval_status(run, now),
        "steps": [_step(step) for step in run.steps],
        "approvals": [{k: v for k, v in asdict(a).items() if k != "envelope"} for a in run.approvals],
        "artifacts": [asdict(artifact) for artifact in run.artifacts],
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "state": step.state,
        "message": step.message,
        "started_at": step.started_at,
        "ended_at": step.ended_at,
        "seconds": seconds_of(step),
        "task_id": step.detail.get("task_id", ""),
    }


def seconds_of(step: Step) -> float | None:
    """Return how long a step took, None where it has not ended."""
    return _between(step.started_at, step.ended_at)


def run_seconds(run: FixRun) -> float | None:
    """Return how long a fix run took from its creation to its end, with all that it waited for; None where it has not ended."""
    return _between(run.created_at, run.ended_at)


def _between(*moments: str) -> float | None:
    if not all(moments):
        return None
    began, ended = (datetime.fromisoformat(moment) for moment in moments)
    return (ended - began).total_seconds()


def outcome(run: FixRun) -> str:
    """Return how a fix run that did not succeed ended, in one line."""
    return f"The fix run {run.id} of {run.service} is {run.status}: {(run.reason or 'see its steps').rstrip('.')}."
