# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a rebuild, whether it adds up, and how a person and a program read it.

Pure: a record in, findings, JSON and Markdown out. ``_ledger.rebuilds`` keeps the records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

#: in this order; an attempt may end after any of them
STEPS = ("detect", "retire", "prepare", "install", "join", "ready", "workloads")
ROLES = ("server", "agent")
TEMPLATE = Path(__file__).resolve().parents[2] / "docs" / "governance" / "rebuild-drill-template.md"

_MICROSECOND = timedelta(microseconds=1)
_TEXT, _FLAG, _LIST, _TABLE = (str,), (bool,), (list,), (dict,)
_OR_NOTHING = (type(None),)
#: what the report needs of each step, and of which kind it is
NEEDED: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "detect": {
        "node_before": _TABLE + _OR_NOTHING,
        "pods_before": _LIST,
        "volumes": _LIST,
        "host_key": _TABLE + _OR_NOTHING,
    },
    "retire": {"removed": _LIST, "snapshot": _TEXT + _OR_NOTHING},
    "prepare": {"host_key_replaced": _FLAG, "restarted": _FLAG},
    "install": {"version": _TEXT},
    "join": {"state": _TEXT},
    "ready": {"node_after": _TABLE, "diff": _TEXT},
    "workloads": {"pods_after": _LIST, "waiting": _LIST, "lost": _LIST},
}
#: what an attempt after the first cannot see any more, because an earlier one has begun to change it
_FIRST_SEEN = ("detect",)
#: what each attempt adds to
_ADDED_UP = ("retire", "prepare")


#: fields of a record that everything else relies on
_KINDS: Mapping[str, type] = {"number": int, "step": str, "detail": dict, "run_id": str, "rebuild_id": str, "node": str, "started_at": str}


@dataclass(frozen=True, slots=True)
class Step:
    """*ended_at* is None while it goes on, and where the run was killed; *outcome* while it goes on."""

    number: int
    step: str
    started_at: str
    ended_at: str | None
    outcome: str | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """The steps of one run. *started_at* is the run's own beginning."""

    run_id: str
    requester: str
    playbook: str
    revision: str | None
    dirty: bool | None
    collection_version: str
    started_at: str
    steps: tuple[Step, ...]

    @property
    def ended_at(self) -> str | None:
        return self.steps[-1].ended_at if self.steps else None


@dataclass(frozen=True, slots=True)
class Rebuild:
    """One rebuild of a node: its attempts until it succeeded or was given up."""

    rebuild_id: str
    host: str
    node: str
    role: str
    hardware: str
    status: str
    reasons: tuple[str, ...]
    budget_minutes: float | None
    started_at: str
    ended_at: str | None
    attempts: tuple[Attempt, ...]

    @property
    def seconds(self) -> float | None:
        """How long the last attempt took, from the beginning of its run."""
        return seconds_between(self.attempts[-1].started_at, self.attempts[-1].ended_at) if self.attempts else None

    @property
    def total_seconds(self) -> float | None:
        """How long it took from the first attempt's beginning."""
        return seconds_between(self.started_at, self.ended_at)

    @property
    def within_budget(self) -> bool | None:
        """Whether the node was back in time, from the first attempt's beginning; None where there is no budget, or no end."""
        if self.budget_minutes is None or self.total_seconds is None:
            return None
        return self.total_seconds <= self.budget_minutes * 60


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Return the seconds from *start* to *end*, None where one of them is none."""
    span = _span(start, end)
    return None if span is None else span / 1_000_000


def merged(attempts: Iterable[Attempt]) -> dict[str, dict[str, Any]]:
    """Return what all *attempts* together know of each step.

    Of `detect` what was seen first counts, because a later attempt finds a node that is half removed. What was removed and replaced adds
    up. Of the other steps the last word counts.
    """
    known: dict[str, dict[str, Any]] = {}
    for step in (step for attempt in attempts for step in attempt.steps):
        before = known.setdefault(step.step, {})
        for key, value in step.detail.items():
            before[key] = _chosen(step.step, before[key], value) if key in before else value
    return known


def _chosen(step: str, before: Any, value: Any) -> Any:
    if step in _FIRST_SEEN:
        return before or value
    if step in _ADDED_UP:
        if isinstance(before, list) and isinstance(value, list):
            return [*before, *(item for item in value if item not in before)]
        return value or before
    return value


# --- does it add up? -----------------------------------------------------------------------------------------------------


def verify(record: Rebuild) -> list[str]:
    """Return what is missing in the record of a finished rebuild, or does not add up. Empty: it is whole."""
    if not record.attempts:
        return [*_header_findings(record), "no attempt is recorded"]
    return [
        *_header_findings(record),
        *_number_findings(record),
        *(finding for attempt in record.attempts for finding in _attempt_findings(attempt, last=attempt is record.attempts[-1])),
        *_sum_findings(record),
        *_detail_findings(merged(record.attempts)),
    ]


def _header_findings(record: Rebuild) -> Iterator[str]:
    for name in ("rebuild_id", "host", "node"):
        if not getattr(record, name):
            yield f"{name} is missing"
    if record.role not in ROLES:
        yield f"role is {record.role or 'missing'}, not one of {', '.join(ROLES)}"
    if not record.reasons:
        yield "reasons are missing"
    if record.status != "succeeded":
        yield f"the rebuild has not succeeded: its status is {record.status}"


def _number_findings(record: Rebuild) -> Iterator[str]:
    numbers = [step.number for attempt in record.attempts for step in attempt.steps]
    missing = sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers))
    if missing:
        yield f"the record of step number {', '.join(map(str, missing))} is missing"
    elif numbers != sorted(set(numbers)):
        yield "the steps are not in the order of their numbers"


def _attempt_findings(attempt: Attempt, *, last: bool) -> Iterator[str]:
    where = f"run {attempt.run_id}: "
    names = [step.step for step in attempt.steps]
    for name in STEPS if last else STEPS[: _reached(names)]:
        if name not in names:
            yield f"{where}step {name} is missing"
    known = [name for name in names if name in STEPS]
    if known != names or known != sorted(set(known), key=STEPS.index):
        yield f"{where}the steps are {', '.join(names)}, which is not their order"
    for step in attempt.steps if last else attempt.steps[:-1]:
        if step.outcome != "ok":
            yield f"{where}step {step.step} has the outcome {step.outcome or 'none'}"
    yield from (f"{where}{finding}" for finding in _time_findings(attempt, last=last))


def _reached(names: list[str]) -> int:
    """How many of the steps an attempt that got to the last of *names* has begun."""
    return max((STEPS.index(name) + 1 for name in names if name in STEPS), default=1)


def _time_findings(attempt: Attempt, *, last: bool) -> Iterator[str]:
    for step in attempt.steps:
        span = _span(step.started_at, step.ended_at)
        if span is None and (last or step is not attempt.steps[-1] or step.outcome == "ok"):
            yield f"step {step.step} has no whole time: {step.started_at} to {step.ended_at}"
        elif span is not None and span < 0:
            yield f"step {step.step} ends before it begins"
    for start, step in zip([attempt.started_at, *(s.ended_at for s in attempt.steps)], attempt.steps, strict=False):
        if start != step.started_at:
            yield f"step {step.step} begins at {step.started_at}, and what was before it ended at {start}"


def _sum_findings(record: Rebuild) -> Iterator[str]:
    first, last = record.attempts[0], record.attempts[-1]
    if record.started_at != first.started_at:
        yield f"the rebuild begins at {record.started_at}, its first run at {first.started_at}"
    whole = _span(last.started_at, record.ended_at)
    parts = [_span(step.started_at, step.ended_at) for step in last.steps]
    total = sum(part for part in parts if part is not None)
    if whole is None:
        yield f"the rebuild has no whole time: {last.started_at} to {record.ended_at}"
    elif total != whole:
        yield f"the steps of run {last.run_id} take {total / 1e6:.6f} s together, the whole {whole / 1e6:.6f} s"
    for before, after in pairwise(record.attempts):
        if before.started_at > after.started_at:
            yield f"run {after.run_id} comes after run {before.run_id}, but began before it"


def _detail_findings(known: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for step, needed in NEEDED.items():
        for key, kinds in needed.items():
            if key not in known.get(step, {}):
                yield f"step {step} lacks the detail {key}"
            elif not isinstance(known[step][key], kinds):
                yield f"the detail {key} of step {step} is of the kind {type(known[step][key]).__name__}"


def _span(start: str | None, end: str | None) -> int | None:
    """Return whole microseconds, so that sums are exact."""
    if not start or not end:
        return None
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)) // _MICROSECOND
    except (ValueError, TypeError):
        return None


# --- JSON ----------------------------------------------------------------------------------------------------------------


def to_json(record: Rebuild) -> str:
    """Return the whole record as JSON, the same text for the same record."""
    whole = {
        **asdict(record),
        "seconds": record.seconds,
        "total_seconds": record.total_seconds,
        "within_budget": record.within_budget,
        "attempts": [_attempt_table(attempt) for attempt in record.attempts],
    }
    return json.dumps(whole, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def _attempt_table(attempt: Attempt) -> dict[str, Any]:
    steps = [{**asdict(step), "seconds": seconds_between(step.started_at, step.ended_at)} for step in attempt.steps]
    seconds = seconds_between(attempt.started_at, attempt.ended_at)
    return {**asdict(attempt), "ended_at": attempt.ended_at, "seconds": seconds, "steps": steps}


def from_json(text: str | bytes) -> Rebuild:
    """Return the record that ``to_json`` wrote. Raises PifleetError for anything else."""
    try:
        found = json.loads(text)
        attempts = tuple(
            _made(Attempt, {**attempt, "steps": tuple(_made(Step, step) for step in attempt["steps"])}) for attempt in found["attempts"]
        )
        record: Rebuild = _made(Rebuild, {**found, "reasons": tuple(found["reasons"]), "attempts": attempts})
    except (ValueError, KeyError, TypeError) as error:
        raise PifleetError("This is no record of a rebuild.", "It is the artifact rebuild-NODE.json of a run.") from error
    return record


def _made(kind: Any, table: Mapping[str, Any]) -> Any:
    made = kind(**{name: table[name] for name in kind.__dataclass_fields__})
    for name, wanted in _KINDS.items():
        if not isinstance(getattr(made, name, wanted()), wanted):
            raise TypeError(name)
    return made


# --- Markdown ------------------------------------------------------------------------------------------------------------


class _Verbatim(str):
    """Markdown already: not escaped."""

    __slots__ = ()


def to_markdown(record: Rebuild, template: str) -> str:
    """Return the report for people. *template*: the text of ``TEMPLATE``."""
    return rendered(template, _context(record), TEMPLATE.name)


def rendered(template: str, context: Mapping[str, Any], name: str) -> str:
    """Return Markdown from the text of a template of ``docs/governance``. *name*: its file, for the one who has to mend it."""
    environment = jinja2.Environment(  # noqa: S701 - it writes Markdown; `finalize` escapes every value
        undefined=jinja2.StrictUndefined, finalize=_escaped, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(seconds=_seconds, fenced=_fenced, pairs=_pairs)
    try:
        return environment.from_string(template).render(context)
    except jinja2.TemplateError as error:
        raise PifleetError(f"The template of the report cannot be used: {error}.", f"Restore {name} of the collection.") from error


def _context(record: Rebuild) -> dict[str, Any]:
    known = merged(record.attempts)
    detail = {step: {key: _usable(known.get(step, {}).get(key), kinds) for key, kinds in needed.items()} for step, needed in NEEDED.items()}
    before, after = detail["detect"]["node_before"] or {}, detail["ready"]["node_after"] or {}
    keys = detail["detect"]["host_key"] or {}
    attempts = [
        {"table": attempt, "steps": attempt.steps, "seconds": seconds_between(attempt.started_at, attempt.ended_at)}
        for attempt in record.attempts
    ]
    return {
        "rebuild": record,
        "attempts": attempts,
        "last": record.attempts[-1],
        "took": seconds_between,
        **detail,
        "volumes": _rows(detail["detect"]["volumes"], "name", "claim", "capacity", "storage_class", "path"),
        "pods_before": _rows(detail["detect"]["pods_before"], "name", "controller", "phase", "ready"),
        "pods_after": _rows(detail["workloads"]["pods_after"], "name", "controller", "phase", "ready"),
        # a report is read elsewhere: where the file lies on this controller says nothing there
        "known_keys": [
            {**row, "file": PurePosixPath(str(row["file"] or "")).name}
            for row in _rows(keys.get("known"), "type", "fingerprint", "file", "line")
        ],
        "offered_keys": _rows(keys.get("offered"), "type", "fingerprint"),
        "node": _differences(before, after),
        "findings": verify(record),
    }


def _usable(value: Any, kinds: tuple[type, ...]) -> Any:
    """Return *value*, None where it is of another kind: a report that says what is wrong needs no more of it."""
    return value if isinstance(value, kinds) else None


def _rows(items: Any, *columns: str) -> list[dict[str, Any]]:
    """Return *items* with exactly *columns*; one that is no table stands in the first."""
    tables = [item if isinstance(item, Mapping) else {columns[0]: item} for item in (items if isinstance(items, list) else [])]
    return [{column: table.get(column) for column in columns} for table in tables]


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = sorted({*before, *after})
    return [{"what": key, "before": before.get(key), "after": after.get(key), "same": before.get(key) == after.get(key)} for key in keys]


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f} s"


def _fenced(text: str | None) -> _Verbatim:
    """Return *text* as a block of code that nothing in it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text or "")), default=0)
    fence = "`" * max(3, longest + 1)
    return _Verbatim(f"{fence}diff\n{(text or '').rstrip()}\n{fence}")


def _pairs(value: Any) -> str:
    """Return what is in a table or a list on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_pairs(part)}" for key, part in sorted(value.items())) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_pairs(part) for part in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)


def _escaped(value: Any) -> Any:
    """Return *value* as text that cannot become a cell, a tag or a line of its own."""
    if isinstance(value, _Verbatim):
        return value
    text = "none" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)
    text = " ".join(text.split())
    return re.sub(r"[\\`|*\[\]]", lambda found: f"\\{found[0]}", text.replace("&", "&amp;").replace("<", "&lt;"))
