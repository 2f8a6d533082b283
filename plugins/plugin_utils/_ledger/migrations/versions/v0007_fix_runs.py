# SPDX-License-Identifier: GPL-3.0-or-later
"""Fix runs, their steps, approvals and artifacts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
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
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("parent_id", sa.String),
        sa.Column("plan", sa.JSON),
        sa.Column("candidate", sa.String),
        sa.Column("reason", sa.String),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String),
        sa.PrimaryKeyConstraint("id", name="pk_fix_runs"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_fix_runs_run_id"),
        sa.UniqueConstraint("seq", name="uq_fix_runs_seq"),
    )
    op.create_index("ix_fix_runs_service_seq", "fix_runs", ["service", "seq"])
    op.create_index("ix_fix_runs_status_seq", "fix_runs", ["status", "seq"])
    op.create_table(
        "fix_run_steps",
        sa.Column("fix_run_id", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("message", sa.String),
        sa.Column("started_at", sa.String),
        sa.Column("ended_at", sa.String),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("fix_run_id", "number", name="pk_fix_run_steps"),
        sa.ForeignKeyConstraint(["fix_run_id"], ["fix_runs.id"], name="fk_fix_run_steps_fix_run_id"),
    )
    op.create_table(
        "fix_run_approvals",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("fix_run_id", sa.String, nullable=False),
        sa.Column("decision", sa.String, nullable=False),
        sa.Column("approver", sa.String, nullable=False),
        sa.Column("plan_digest", sa.String, nullable=False),
        sa.Column("diff_sha256", sa.String, nullable=False),
        sa.Column("given_at", sa.String, nullable=False),
        sa.Column("expires_at", sa.String, nullable=False),
        sa.Column("used_at", sa.String),
        sa.Column("envelope", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_fix_run_approvals"),
        sa.ForeignKeyConstraint(["fix_run_id"], ["fix_runs.id"], name="fk_fix_run_approvals_fix_run_id"),
    )
    op.create_index("ix_fix_run_approvals_fix_run_id", "fix_run_approvals", ["fix_run_id"])
    op.create_table(
        "fix_run_artifacts",
        sa.Column("fix_run_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("checksum", sa.String, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("fix_run_id", "name", name="pk_fix_run_artifacts"),
        sa.ForeignKeyConstraint(["fix_run_id"], ["fix_runs.id"], name="fk_fix_run_artifacts_fix_run_id"),
    )
