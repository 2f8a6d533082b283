# SPDX-License-Identifier: GPL-3.0-or-later
"""Migration and drain of many rows: time grows as the rows do, and memory does not. What a process computes is counted, not how long it
waits for a disk or a processor that has other work."""

from __future__ import annotations

import pytest

from tests.benchmarks.outbox import alone
from tests.integration.sync.conftest import FULL

ROWS = 1_000_000 if FULL else 20_000


@pytest.mark.parametrize(
    ("what", "megabytes"), [("migrate", 6.0), ("between", 6.0), ("postgres", 6.0), ("into_postgres", 6.0), ("drain", 16.0)]
)
def test_linear_time_and_constant_memory(what: str, megabytes: float) -> None:
    """*megabytes*: by which all rows may take more than a tenth of them, here and at the hub. The texts of 20,000 rows are 10 MB, and 25 MB
    as objects; HTTP requests wait for Python's collector of cycles, which comes every hundred or so."""
    small, large = alone(what, ROWS // 10), alone(what, ROWS)
    assert large["computed"] / small["computed"] < 10 * 1.8, (small, large)
    for grown in ("grown", "grown_beside"):
        assert large[grown] - small[grown] < megabytes, (small, large)
        assert large[grown] < 40, large
