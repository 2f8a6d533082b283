# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person is told about secrets. No secret is in it."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rotations import PERIOD, Due
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.check import Report


def checked(report: Report) -> str:
    """Return the findings as a table, each with its way out below it, and what was looked at."""
    rows = [(f"{f.path}:{f.line}" if f.line else f.path, f.rule, f.text, f.hint) for f in report.findings]
    wide = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    lines = []
    for place, rule, what, hint in rows:
        lines += [f"{place:<{wide[0]}}  {rule:<{wide[1]}}  {what}", f"{'':<{wide[0]}}  {'':<{wide[1]}}  -> {hint}"]
    looked = f"{len(report.encrypted)} encrypted and {report.scanned} plain files looked at: "
    end = "all is as the policy says." if report.ok else f"{len(report.findings)} findings."
    return "\n".join([*lines, *report.notes, looked + end])


def overdue(due: Iterable[Due]) -> tuple[str, ...]:
    """Return what is said of secrets that the ledger does not show to have been rotated within the period."""
    late = [f"{one.what} ({f'last on {one.last[:10]}' if one.last else 'never'})" for one in due if one.overdue]
    return (f"Not rotated within {PERIOD.days} days, says the ledger: {', '.join(late)}.",) if late else ()
