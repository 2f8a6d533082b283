# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs, their hosts, and what they left."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("playbook", sa.String, nullable=False),
        sa.Column("revision", sa.String),
        sa.Column("dirty", sa.Boolean),
        sa.Column("host_limit", sa.String),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("skip_tags", sa.JSON, nullable=False),
        sa.Column("inventory", sa.JSON, nullable=False),
        sa.Column("check_mode", sa.Boolean, nullable=False),
        sa.Column("requester", sa.String, nullable=False),
        sa.Column("controller", sa.String, nullable=False),
        sa.Column("boot_id", sa.String, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("process_started", sa.String, nullable=False),
        sa.Column("ansible_version", sa.String, nullable=False),
        sa.Column("collection_version", sa.String, nullable=False),
        sa.Column("started_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_status", "runs", ["status"])
    op.create_table(
        "run_hosts",
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("outcome", sa.String),
        sa.Column("ok", sa.Integer),
        sa.Column("changed", sa.Integer),
        sa.Column("failed", sa.Integer),
        sa.Column("unreachable", sa.Integer),
        sa.Column("skipped", sa.Integer),
        sa.Column("rescued", sa.Integer),
        sa.Column("ignored", sa.Integer),
        sa.PrimaryKeyConstraint("run_id", "host", name="pk_run_hosts"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_hosts_run_id"),
    )
    op.create_table(
        "bodies",
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_bodies"),
    )
    op.create_table(
        "artifacts",
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("media_type", sa.String, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_artifacts"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_artifacts_run_id"),
        sa.ForeignKeyConstraint(["sha256"], ["bodies.sha256"], name="fk_artifacts_sha256"),
    )
