# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases of environments, and their phases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "releases",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("commit_sha", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("previous_id", sa.String),
        sa.Column("target_id", sa.String),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("images", sa.JSON, nullable=False),
        sa.Column("rendered", sa.JSON, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String),
        sa.PrimaryKeyConstraint("id", name="pk_releases"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_releases_run_id"),
        sa.UniqueConstraint("environment", "seq", name="uq_releases_environment"),
    )
    op.create_table(
        "release_phases",
        sa.Column("release_id", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("phase", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("started_at", sa.String),
        sa.Column("ended_at", sa.String),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("release_id", "number", name="pk_release_phases"),
        sa.ForeignKeyConstraint(["release_id"], ["releases.id"], name="fk_release_phases_release_id"),
    )
