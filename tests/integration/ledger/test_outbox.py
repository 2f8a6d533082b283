# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests of the outbox, with a ledger in PostgreSQL."""

from __future__ import annotations

from tests.support.adopt import adopt
from tests.unit.sync import test_outbox

adopt(test_outbox, globals())
