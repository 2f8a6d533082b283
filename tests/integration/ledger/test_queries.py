# SPDX-License-Identifier: GPL-3.0-or-later
"""The same questions to a ledger in PostgreSQL."""

from __future__ import annotations

from tests.support.adopt import adopt
from tests.unit.ledger import test_queries as files

adopt(files, globals())
