# SPDX-License-Identifier: GPL-3.0-or-later
"""Fix runs that wait in the queue: no run is at them yet, and some come first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fix_runs", sa.Column("priority", sa.String))
    op.add_column("fix_runs", sa.Column("task_id", sa.String))
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column("fix_runs", "run_id", existing_type=sa.String, nullable=True)
        return
    # SQLite cannot change a column: the table is made anew, its rows kept aside meanwhile. Rows of other tables that point to them are
    # looked at when the transaction ends. https://sqlite.org/foreignkeys.html#fk_schemacommands
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute("CREATE TABLE fix_runs_before AS SELECT * FROM fix_runs")
    op.drop_table("fix_runs")
    op.create_table(
        "fix_runs",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("service", sa.String, nullable=False),
        sa.Column("stack", sa.String, nullable=False),
        sa.Column("node", sa.String, nullable=False),
        sa.Column("instruction", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("requester", sa.String, nullable=False),
        sa.Column("run_id", sa.String),
        sa.Column("parent_id", sa.String),
        sa.Column("plan", sa.JSON),
        sa.Column("candidate", sa.String),
        sa.Column("reason", sa.String),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String),
        sa.Column("priority", sa.String),
        sa.Column("task_id", sa.String),
        sa.PrimaryKeyConstraint("id", name="pk_fix_runs"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_fix_runs_run_id"),
        sa.UniqueConstraint("seq", name="uq_fix_runs_seq"),
    )
    op.create_index("ix_fix_runs_service_seq", "fix_runs", ["service", "seq"])
    op.create_index("ix_fix_runs_status_seq", "fix_runs", ["status", "seq"])
    op.execute("INSERT INTO fix_runs SELECT * FROM fix_runs_before")
    op.drop_table("fix_runs_before")
