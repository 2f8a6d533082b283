# SPDX-License-Identifier: GPL-3.0-or-later
"""A ledger of each test's own in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite(
    "tests.unit.ledger.test_events", "tests.unit.ledger.test_queries", "tests.unit.ledger.test_rebuilds", "tests.unit.ledger.test_runs"
)
pytest.register_assert_rewrite("tests.unit.sync.test_outbox", "tests.unit.sync.test_migration")

from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process  # noqa: E402
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Header, Runs  # noqa: E402
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store  # noqa: E402

from tests.support.postgres import Server  # noqa: E402
from tests.unit.ledger import conftest as files  # noqa: E402


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def ready(server: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a database that is an empty ledger: to copy it is faster than to migrate."""
    url = server.fresh()
    with Store(url, tmp_path_factory.mktemp("ready")).write():
        pass
    return url.split("?")[0].rpartition("/")[2]


@pytest.fixture
def url(server: Server, ready: str) -> str:
    return server.fresh(like=ready)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".pifleet"


@pytest.fixture
def ledger(url: str, folder: Path) -> Callable[[], Store]:
    return lambda: Store(url, folder)


@pytest.fixture
def runs(ledger: Callable[[], Store]) -> Runs:
    return Runs(ledger(), gone=lambda _process: False)


@pytest.fixture
def header() -> Header:
    return files.HEADER


@pytest.fixture
def someone() -> Callable[[int], Process]:
    return files.process_number
