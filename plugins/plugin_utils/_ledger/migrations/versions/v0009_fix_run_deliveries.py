# SPDX-License-Identifier: GPL-3.0-or-later
"""Fix runs that end their worker: how often the queue had each done."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fix_runs", sa.Column("deliveries", sa.Integer))
