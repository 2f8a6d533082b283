# SPDX-License-Identifier: GPL-3.0-or-later
"""The outbox; what a hub has received, and its tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def _delivery() -> list[sa.Column[object]]:
    return [
        sa.Column("queued_at", sa.String),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_attempt_at", sa.String),
        sa.Column("dead", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("last_error", sa.String),
    ]


def upgrade() -> None:
    _outbox()
    _delivered()
    _hub()


def _outbox() -> None:
    op.create_table(
        "sync_events",
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("event_id", KEY, nullable=False),
        sa.Column("sha256", sa.String),
        sa.Column("content", sa.LargeBinary),
        *_delivery(),
        sa.PrimaryKeyConstraint("scope", "event_id", name="pk_sync_events"),
        sa.CheckConstraint(
            "scope = '' OR (sha256 IS NOT NULL AND length(sha256) = 64 AND content IS NOT NULL AND queued_at IS NOT NULL)",
            name="ck_sync_events_complete",
        ),
    )
    op.create_table(
        "body_upload_queue",
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("sha256", KEY, nullable=False),
        sa.Column("media_type", sa.String),
        sa.Column("size", sa.Integer),
        *_delivery(),
        sa.PrimaryKeyConstraint("scope", "sha256", name="pk_body_upload_queue"),
        sa.ForeignKeyConstraint(["sha256"], ["bodies.sha256"], name="fk_body_upload_queue_sha256"),
        sa.CheckConstraint(
            "scope = '' OR (media_type IS NOT NULL AND size IS NOT NULL AND size >= 0 AND queued_at IS NOT NULL)",
            name="ck_body_upload_queue_complete",
        ),
    )
    op.create_table(
        "sync_state",
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("depth", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_attempt_at", sa.String),
        sa.Column("last_success_at", sa.String),
        sa.Column("last_error", sa.String),
        sa.Column("refused_token", sa.String),
        sa.PrimaryKeyConstraint("scope", name="pk_sync_state"),
    )
    op.create_table(
        "sync_cursors",
        sa.Column("chain", sa.String, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("chain", name="pk_sync_cursors"),
        sa.ForeignKeyConstraint(["chain"], ["chains.id"], name="fk_sync_cursors_chain"),
    )


def _delivered() -> None:
    op.create_table(
        "sync_receipts",
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("acknowledged_at", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("scope", "kind", "key", name="pk_sync_receipts"),
    )
    op.create_table(
        "sync_quarantine",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("quarantined_at", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sync_quarantine"),
    )
    op.create_index("ix_sync_quarantine_scope", "sync_quarantine", ["scope"])


def _hub() -> None:
    op.create_table(
        "received_events",
        sa.Column("source", sa.String, nullable=False),
        sa.Column("event_id", KEY, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("received_at", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("source", "event_id", name="pk_received_events"),
    )
    op.create_table(
        "received_bodies",
        sa.Column("source", sa.String, nullable=False),
        sa.Column("sha256", KEY, nullable=False),
        sa.Column("media_type", sa.String, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("received_at", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("source", "sha256", name="pk_received_bodies"),
    )
    op.create_table(
        "api_tokens",
        sa.Column("sha256", KEY, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("source", sa.String),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("expires_at", sa.String, nullable=False),
        sa.Column("revoked_at", sa.String),
        sa.PrimaryKeyConstraint("sha256", name="pk_api_tokens"),
        sa.UniqueConstraint("name", name="uq_api_tokens_name"),
    )
