# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ledger has rows about, beside events, and the hash of these rows.

Each event names what it is about and the hash of its rows as they are then, so that rows which are changed later without an event are
found. Columns without a value do not count: a later schema may add columns that may be empty, and the hashes hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import chain
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import (
    artifacts,
    fix_run_approvals,
    fix_run_artifacts,
    fix_run_steps,
    fix_runs,
    rebuild_steps,
    rebuilds,
    release_phases,
    releases,
    run_hosts,
    runs,
)
from sqlalchemy import JSON, Boolean, Column, Connection, Integer, String, Table, cast, select, type_coerce

#: by kind: its tables, each with the column that names what a row is about; the first has one row for each
AGGREGATES: Mapping[str, tuple[tuple[Table, str], ...]] = {
    "run": ((runs, "id"), (run_hosts, "run_id"), (artifacts, "run_id")),
    "rebuild": ((rebuilds, "id"), (rebuild_steps, "rebuild_id")),
    "fix_run": (
        (fix_runs, "id"),
        (fix_run_steps, "fix_run_id"),
        (fix_run_approvals, "fix_run_id"),
        (fix_run_artifacts, "fix_run_id"),
    ),
    "release": ((releases, "id"), (release_phases, "release_id")),
}


def ids(db: Connection, of: str) -> list[str]:
    """Return the ids of all things of a kind, in order. One that is no text was put there by somebody else."""
    keys = set[str]()
    for table, key in AGGREGATES[of]:
        keys.update(str(found) for found in db.execute(select(table.c[key]).distinct()).scalars())
    return sorted(keys)


def state(db: Connection, of: str, key: str) -> chain.State:
    """Return the hash of the rows about one thing. Raises EventError for rows that hold what JSON cannot."""
    rows = {table.name: list(_rows(db, table, column, key)) for table, column in AGGREGATES[of]}
    return chain.State(of, key, chain.digest(chain.canonical(rows)))


def _rows(db: Connection, table: Table, column: str, key: str) -> Iterator[dict[str, Any]]:
    wanted = select(*(_raw(c) for c in table.columns)).where(table.c[column] == key)
    for row in db.execute(wanted.order_by(*table.primary_key)).mappings():
        yield {name: _exact(table.c[name], value) for name, value in row.items() if value is not None}


def _raw(column: Column[Any]) -> Any:
    """The stored value, not what SQLAlchemy makes of it: two that differ must not look alike."""
    if isinstance(column.type, JSON):
        return cast(column, String).label(column.name)
    if isinstance(column.type, Boolean):
        return type_coerce(column, Integer).label(column.name)
    return column


def _exact(column: Column[Any], value: Any) -> Any:
    """Booleans are numbers in SQLite, and their own kind in PostgreSQL."""
    if isinstance(column.type, Boolean) and value in (0, 1):
        return bool(value)
    return value.hex() if isinstance(value, bytes) else value
