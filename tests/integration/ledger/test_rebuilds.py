# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds in a ledger file holds in PostgreSQL."""

from __future__ import annotations

from tests.support.adopt import adopt
from tests.unit.ledger import test_rebuilds as files

adopt(files, globals())
