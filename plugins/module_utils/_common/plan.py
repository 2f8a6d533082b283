# SPDX-License-Identifier: GPL-3.0-or-later
"""What every batch module shares: an ordered plan of changes, made without side effects, that check mode, --diff and apply all use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that a run would change.

    *kind*: what sort of thing (``file``, ``package``, ``unit``, ``sysctl``, ...); *target*: which one; *reason*: machine-readable;
    *before* / *after*: text for --diff, already free of secrets.
    """

    kind: str
    target: str
    reason: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """One thing a node cannot do, and why: said, never silent."""

    item: str
    reason: str


def digest(changes: Iterable[Change]) -> str:
    """Return the SHA-256 (hex) of a plan: equal plans, equal digests, on every machine."""
    return hashlib.sha256(json.dumps([asdict(c) for c in changes], sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def as_diff(changes: Iterable[Change]) -> list[dict[str, str]]:
    """Return the plan in the form that Ansible's --diff prints."""
    return [
        {
            "before_header": f"{c.kind} {c.target} ({c.reason})",
            "after_header": f"{c.kind} {c.target}",
            "before": _ended(c.before),
            "after": _ended(c.after),
        }
        for c in changes
    ]


def as_result(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """Return the plan for a module's return value: kind, target and reason of each change, without contents."""
    return [{"kind": c.kind, "target": c.target, "reason": c.reason} for c in changes]


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
