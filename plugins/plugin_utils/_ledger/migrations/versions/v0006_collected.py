# SPDX-License-Identifier: GPL-3.0-or-later
"""What nodes did by themselves, by their own ids, so that it becomes evidence once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "collected",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("event_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_collected"),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name="fk_collected_event_id"),
    )
