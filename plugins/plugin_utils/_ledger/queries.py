# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about what the ledger has: runs and events by page, one run whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.recording import KINDS
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import artifacts, bodies, chains, events, run_hosts, runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from sqlalchemy import ColumnElement, Connection, String, cast, func, or_, select

MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for; None and "" mean any. *since* and *until*: UTC, ISO 8601, or the beginning of it; *offset* counts from 0.

    *inventory*: the sources of a run's inventory, which tell the fleets of one ledger apart.
    """

    run_id: str = ""
    host: str = ""
    kind: str = ""
    status: str = ""
    since: str = ""
    until: str = ""
    inventory: tuple[str, ...] | None = None
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """*items*, newest first, of *total*; *next_offset* None where these are the last."""

    items: tuple[dict[str, Any], ...]
    total: int
    next_offset: int | None


class Queries:
    """All raise LedgerError where the ledger cannot be read."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def runs(self, wanted: Wanted) -> Page:
        """Return runs with outcome and counts of each host, and what they left. *kind*: of an event that the run has."""
        tests: list[ColumnElement[bool]] = [*_between(runs.c.started_at, wanted)]
        if wanted.run_id:
            tests.append(runs.c.id == wanted.run_id)
        if wanted.status:
            tests.append(runs.c.status == wanted.status)
        if wanted.host:
            tests.append(runs.c.id.in_(select(run_hosts.c.run_id).where(run_hosts.c.host == wanted.host)))
        if wanted.kind:
            tests.append(runs.c.id.in_(select(events.c.run_id).where(_is_kind(wanted.kind))))
        if wanted.inventory is not None:
            tests.append(cast(runs.c.inventory, String) == json.dumps(list(wanted.inventory)))
        with self._store.read() as db:
            total = db.execute(select(func.count()).select_from(runs).where(*tests)).scalar_one()
            page = select(runs).where(*tests).order_by(runs.c.started_at.desc(), runs.c.id.desc())
            found = db.execute(page.limit(wanted.limit).offset(wanted.offset)).mappings().all()
            return _page(tuple(_run(db, dict(row)) for row in found), total, wanted)

    def events(self, wanted: Wanted) -> Page:
        """Return events of this ledger's own chain. *host*: of events about it, and of those of runs that it took part in."""
        tests: list[ColumnElement[bool]] = [chains.c.own, *_between(events.c.at, wanted)]
        if wanted.run_id:
            tests.append(events.c.run_id == wanted.run_id)
        if wanted.kind:
            tests.append(_is_kind(wanted.kind))
        if wanted.host:
            of_host = select(run_hosts.c.run_id).where(run_hosts.c.host == wanted.host)
            tests.append(or_(events.c.host == wanted.host, (events.c.host.is_(None)) & events.c.run_id.in_(of_host)))
        if wanted.status:
            tests.append(events.c.run_id.in_(select(runs.c.id).where(runs.c.status == wanted.status)))
        joined = events.join(chains)
        with self._store.read() as db:
            total = db.execute(select(func.count()).select_from(joined).where(*tests)).scalar_one()
            page = select(events.c.id, events.c.sha256, events.c.content).select_from(joined).where(*tests).order_by(events.c.seq.desc())
            found = db.execute(page.limit(wanted.limit).offset(wanted.offset)).all()
            return _page(tuple(_event(row) for row in found), total, wanted)

    def show(self, run_id: str, *, contents: bool = True) -> dict[str, Any]:
        """Return one run whole: with its events, and the texts that it left. Raises PifleetError where there is none."""
        found = self.runs(Wanted(run_id=run_id, limit=1)).items
        if not found:
            raise PifleetError(f"There is no run {run_id} in the ledger {self._store.name}.", "`playbooks/evidence.yml` lists them.")
        told = self.events(Wanted(run_id=run_id, limit=MAX_PAGE)).items
        shown = {**found[0], "events": list(reversed(told))}
        if contents:
            with self._store.read() as db:
                for artifact in shown["artifacts"]:
                    content = db.execute(select(bodies.c.content).where(bodies.c.sha256 == artifact["sha256"])).scalar()
                    artifact["content"] = bytes(content or b"").decode(errors="replace")
        return shown


def _between(column: Any, wanted: Wanted) -> list[ColumnElement[bool]]:
    """Texts of one form and length sort by time, whatever the collation; "2025-01-02" as an end means all of that day."""
    begins, ends = func.substr(column, 1, len(wanted.since)), func.substr(column, 1, len(wanted.until))
    return [*([begins >= wanted.since] if wanted.since else []), *([ends <= wanted.until] if wanted.until else [])]


def _is_kind(kind: str) -> ColumnElement[bool]:
    """A kind, or all that begin with its first word."""
    return or_(events.c.kind == kind, events.c.kind.startswith(f"{kind}.", autoescape=True))


def _page(items: tuple[dict[str, Any], ...], total: int, wanted: Wanted) -> Page:
    end = wanted.offset + len(items)
    return Page(items, total, end if items and end < total else None)


def _run(db: Connection, row: dict[str, Any]) -> dict[str, Any]:
    hosts = db.execute(select(run_hosts).where(run_hosts.c.run_id == row["id"]).order_by(run_hosts.c.host)).mappings()
    left = select(artifacts.c.name, artifacts.c.media_type, artifacts.c.sha256, bodies.c.size, artifacts.c.created_at).join(bodies)
    kept = db.execute(left.where(artifacts.c.run_id == row["id"]).order_by(artifacts.c.number)).mappings()
    closed = select(events.c.content).where(events.c.run_id == row["id"], events.c.kind == "run.closed")
    told = db.execute(closed.order_by(events.c.seq.desc())).scalar()
    data = json.loads(bytes(told))["data"] if told is not None else {}
    shown = {str(name): row[name] for name in row if name not in ("id", "boot_id", "pid", "process_started")}
    return {
        "run_id": row["id"],
        **shown,
        "seconds": data.get("seconds"),
        "plays": data.get("plays", []),
        "failures": data.get("failures", []),
        "problem": data.get("problem"),
        "hosts": {h["host"]: {"outcome": h["outcome"], **{kind: h[kind] for kind in KINDS}} for h in hosts},
        "artifacts": [{str(name): value for name, value in item.items()} for item in kept],
    }


def _event(row: Any) -> dict[str, Any]:
    table = json.loads(bytes(row.content))
    return {
        "event_id": row.id,
        "sha256": row.sha256,
        **{name: table[name] for name in ("seq", "kind", "at", "host", "data", "bodies")},
        "run_id": table["run"],
    }


def as_table(page: Page) -> dict[str, Any]:
    """Return a page as a result has it."""
    return {**asdict(page), "items": list(page.items)}
