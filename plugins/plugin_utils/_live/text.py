# SPDX-License-Identifier: GPL-3.0-or-later
"""The summary of a run as plain lines. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ansible_collections.pifleet.ops.plugins.plugin_utils._live.outcome import Changed, Failed
from ansible_collections.pifleet.ops.plugins.plugin_utils._live.progress import Step, compared

#: tasks that are named among the longest, and from how many seconds on
LONGEST, LONG = 5, 1.0


def changes(rows: Iterable[Changed]) -> list[str]:
    """Return a line for each change: who, what, why."""
    return [" | ".join(filter(None, (", ".join(row.hosts), row.task, row.why))) for row in rows]


def failures(failed: Iterable[Failed]) -> list[str]:
    """Return what failed, each whole, with its hint below it."""
    lines = []
    for one in failed:
        first, *more = one.cause.splitlines() or [""]
        lines += [f"{one.host} | {one.task} | {one.kind}", f"  cause: {first}", *(f"         {line}" for line in more)]
        if one.hint:
            lines.append(f"  hint:  {one.hint}")
    return lines


def survived(failed: Iterable[Failed]) -> list[str]:
    """Return a line for each failure that was ignored or rescued."""
    return [f"{one.kind}: {one.host} | {one.task} | {one.cause.splitlines()[0] if one.cause else ''}" for one in failed]


def times(seconds: float, last: float | None, took: Mapping[Step, float], before: Mapping[Step, float]) -> list[str]:
    """Return how long the run took, and its longest tasks, each beside the last run's."""
    longest = sorted((one for one in took.items() if one[1] >= LONG), key=lambda one: -one[1])[:LONGEST]
    return [f"took {compared(seconds, last)}", *(f"  {compared(spent, before.get(step))}  {step[1]}" for step, spent in longest)]
