# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests of the migration, with a ledger in PostgreSQL; and killed there, within one database, between two, and from a file into one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.support.adopt import adopt
from tests.support.postgres import Server
from tests.unit.sync import test_migration
from tests.unit.sync.test_migration import Open, killed_everywhere, prepare

adopt(test_migration, globals())

FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))


@pytest.mark.parametrize(
    "empty", [False, True] if FULL else [False], ids=lambda empty: f"into {'an empty scope' if empty else 'a scope with rows'}"
)
@pytest.mark.parametrize("between", ["one database", "two databases", "a file and a database"])
def test_killed_at_every_row_and_repeated_in_postgresql(
    server: Server, ready: str, tmp_path: Path, folder: Path, between: str, empty: bool
) -> None:
    def at(url: str) -> Open:
        return lambda: Store(url, folder)

    target, file = server.fresh(like=ready), tmp_path / "before.db"
    sources: dict[str, Callable[[], Open]] = {
        "one database": lambda: at(target),
        "two databases": lambda: at(server.fresh(like=ready)),
        "a file and a database": lambda: lambda: Store(file),
    }
    source = sources[between]()
    was = prepare(at(target)(), source(), empty=empty)
    kept = file.read_bytes() if file.exists() else b""

    def fresh() -> tuple[Open, Open]:
        made = at(server.fresh(like=name_of(target)))
        if between == "one database":
            return made, made
        if between == "two databases":
            return made, at(server.fresh(like=name_of(source().name)))
        file.write_bytes(kept)
        return made, source

    assert killed_everywhere(fresh, was, 1 if FULL else 35) > 30, "it was killed in earnest"


def name_of(url: str) -> str:
    return url.split("?")[0].rpartition("/")[2]
