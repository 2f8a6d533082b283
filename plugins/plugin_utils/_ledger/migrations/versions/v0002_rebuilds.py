# SPDX-License-Identifier: GPL-3.0-or-later
"""Rebuilds of nodes, and the steps of their attempts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rebuilds",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("node", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("hardware", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("budget_minutes", sa.Float),
        sa.Column("started_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String),
        sa.PrimaryKeyConstraint("id", name="pk_rebuilds"),
    )
    op.create_index("ix_rebuilds_host", "rebuilds", ["host"])
    op.create_table(
        "rebuild_steps",
        sa.Column("rebuild_id", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("started_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String),
        sa.Column("outcome", sa.String),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("rebuild_id", "number", name="pk_rebuild_steps"),
        sa.ForeignKeyConstraint(["rebuild_id"], ["rebuilds.id"], name="fk_rebuild_steps_rebuild_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_rebuild_steps_run_id"),
    )
    op.create_index("ix_rebuild_steps_run_id", "rebuild_steps", ["run_id"])
