# SPDX-License-Identifier: GPL-3.0-or-later
"""Chains of events; bodies know what they are."""

from __future__ import annotations

import secrets
from datetime import datetime, timezone

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    chains = op.create_table(
        "chains",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("own", sa.Boolean, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_chains"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("chain", sa.String, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("run_id", sa.String),
        sa.Column("host", sa.String),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.ForeignKeyConstraint(["chain"], ["chains.id"], name="fk_events_chain"),
        sa.UniqueConstraint("chain", "seq", name="uq_events_chain"),
    )
    for column in ("kind", "at", "run_id", "host"):
        op.create_index(f"ix_events_{column}", "events", [column])
    moment = datetime.now(tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    op.bulk_insert(chains, [{"id": secrets.token_hex(8), "own": True, "seq": 0, "sha256": "0" * 64, "created_at": moment}])

    op.add_column("bodies", sa.Column("media_type", sa.String, nullable=False, server_default="application/octet-stream"))
    op.execute(
        "UPDATE bodies SET media_type = coalesce("
        "(SELECT min(media_type) FROM artifacts WHERE artifacts.sha256 = bodies.sha256), 'application/octet-stream')"
    )
