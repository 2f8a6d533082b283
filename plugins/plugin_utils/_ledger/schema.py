# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger's tables, as SQLAlchemy Core: the ORM would double the time to import, and rows leave the repositories as dataclasses.

The migrations make them; a test holds that both agree. Times are UTC in ISO 8601 with microseconds, as text, so that they sort and read the
same in SQLite and PostgreSQL.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    false,
)

#: the schema this code works with: the newest of the migrations
HEAD = "0009"
#: every schema this code can read or upgrade, oldest first
KNOWN = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    # running, succeeded, failed, interrupted; checked: a check ran, and that is all that is recorded of it
    Column("status", String, nullable=False),
    Column("playbook", String, nullable=False),
    Column("revision", String),
    Column("dirty", Boolean),
    Column("host_limit", String),
    Column("tags", JSON, nullable=False),
    Column("skip_tags", JSON, nullable=False),
    Column("inventory", JSON, nullable=False),
    Column("check_mode", Boolean, nullable=False),
    Column("requester", String, nullable=False),
    Column("controller", String, nullable=False),
    Column("boot_id", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", String, nullable=False),
    Column("ansible_version", String, nullable=False),
    Column("collection_version", String, nullable=False),
    Column("started_at", String, nullable=False),
    Column("ended_at", String),
    Index(None, "status"),
)

run_hosts = Table(
    "run_hosts",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("host", String, primary_key=True),
    # ok, failed, unreachable, not_run; empty while the run is open
    Column("outcome", String),
    # how many task results of each kind
    Column("ok", Integer),
    Column("changed", Integer),
    Column("failed", Integer),
    Column("unreachable", Integer),
    Column("skipped", Integer),
    Column("rescued", Integer),
    Column("ignored", Integer),
)

bodies = Table(
    "bodies",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("media_type", String, nullable=False, server_default="application/octet-stream"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("media_type", String, nullable=False),
    Column("sha256", ForeignKey("bodies.sha256"), nullable=False),
    Column("created_at", String, nullable=False),
)

rebuilds = Table(
    "rebuilds",
    metadata,
    Column("id", String, primary_key=True),
    Column("host", String, nullable=False),
    # its name in the cluster's API
    Column("node", String, nullable=False),
    Column("role", String, nullable=False),
    Column("hardware", String, nullable=False),
    # running, succeeded, failed, interrupted, abandoned; the next run resumes one that failed or was interrupted
    Column("status", String, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("budget_minutes", Float),
    Column("started_at", String, nullable=False),
    Column("ended_at", String),
    Index(None, "host"),
)

rebuild_steps = Table(
    "rebuild_steps",
    metadata,
    Column("rebuild_id", ForeignKey("rebuilds.id"), primary_key=True),
    # counts through all attempts of a rebuild; an attempt is the steps of one run
    Column("number", Integer, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("step", String, nullable=False),
    Column("started_at", String, nullable=False),
    Column("ended_at", String),
    # ok, failed, interrupted; empty while the step goes on
    Column("outcome", String),
    Column("detail", JSON, nullable=False),
    Index(None, "run_id"),
)

chains = Table(
    "chains",
    metadata,
    Column("id", String, primary_key=True),
    # true for the one chain that this database appends to; a hub has those of others beside it
    Column("own", Boolean, nullable=False),
    # its head: number (0 where it has no event yet) and hash of the last event
    Column("seq", Integer, nullable=False),
    Column("sha256", String, nullable=False),
    Column("created_at", String, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", String, primary_key=True),
    Column("chain", ForeignKey("chains.id"), nullable=False),
    Column("seq", Integer, nullable=False),
    # these four repeat what the content says, to be searched by
    Column("kind", String, nullable=False, index=True),
    Column("at", String, nullable=False, index=True),
    # no foreign key: a hub has events of runs that it has no rows of
    Column("run_id", String, index=True),
    Column("host", String, index=True),
    # canonical bytes (RFC 8785), and their hash
    Column("content", LargeBinary, nullable=False),
    Column("sha256", String, nullable=False),
    UniqueConstraint("chain", "seq"),
)

#: a text that sorts by its characters' codes everywhere, as Python does: both sides walk their records in this order
KEY = String().with_variant(String(collation="C"), "postgresql")

# The outbox. *scope*: whose row it is (Identity.scope); empty: legacy, queued before the fleet had an identity. Only a scoped row has to be
# complete: a legacy one may come from an older or a broken writer, and is judged when it is taken over.
sync_events = Table(
    "sync_events",
    metadata,
    Column("scope", String, primary_key=True),
    Column("event_id", KEY, primary_key=True),
    Column("sha256", String),
    Column("content", LargeBinary),
    Column("queued_at", String),
    # how often the hub has refused this row, and when it is tried again; dead: not any more
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", String),
    Column("dead", Boolean, nullable=False, server_default=false()),
    Column("last_error", String),
    CheckConstraint(
        "scope = '' OR (sha256 IS NOT NULL AND length(sha256) = 64 AND content IS NOT NULL AND queued_at IS NOT NULL)", name="complete"
    ),
)

body_upload_queue = Table(
    "body_upload_queue",
    metadata,
    Column("scope", String, primary_key=True),
    # the content stands in bodies
    Column("sha256", KEY, ForeignKey("bodies.sha256"), primary_key=True),
    Column("media_type", String),
    Column("size", Integer),
    Column("queued_at", String),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", String),
    Column("dead", Boolean, nullable=False, server_default=false()),
    Column("last_error", String),
    CheckConstraint("scope = '' OR (media_type IS NOT NULL AND size IS NOT NULL AND size >= 0 AND queued_at IS NOT NULL)", name="complete"),
)

# one row a scope: how many rows it has in the two tables above, and how its delivery goes
sync_state = Table(
    "sync_state",
    metadata,
    Column("scope", String, primary_key=True),
    Column("depth", Integer, nullable=False, server_default="0"),
    Column("last_attempt_at", String),
    Column("last_success_at", String),
    Column("last_error", String),
    # fingerprint of the token that the hub has refused
    Column("refused_token", String),
)

# through which event of a chain all has been queued, in whatever scope
sync_cursors = Table(
    "sync_cursors",
    metadata,
    Column("chain", ForeignKey("chains.id"), primary_key=True),
    Column("seq", Integer, nullable=False),
)

# what a hub has acknowledged
sync_receipts = Table(
    "sync_receipts",
    metadata,
    Column("scope", String, primary_key=True),
    # event, body
    Column("kind", String, primary_key=True),
    # id of the event, hash of the body
    Column("key", KEY, primary_key=True),
    Column("sha256", String, nullable=False),
    Column("acknowledged_at", String, nullable=False),
)

# rows that could not be taken over into a scope, whole
sync_quarantine = Table(
    "sync_quarantine",
    metadata,
    # hash of what follows, so that the same row is kept once
    Column("id", String, primary_key=True),
    Column("scope", String, nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("key", String, nullable=False),
    Column("reason", String, nullable=False),
    # the row as JSON; bytes in base64
    Column("content", LargeBinary, nullable=False),
    Column("quarantined_at", String, nullable=False),
)

# What a hub has received, by the identity (owner/fleet) that the token proved.
received_events = Table(
    "received_events",
    metadata,
    Column("source", String, primary_key=True),
    Column("event_id", KEY, primary_key=True),
    Column("sha256", String, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("received_at", String, nullable=False),
)

received_bodies = Table(
    "received_bodies",
    metadata,
    Column("source", String, primary_key=True),
    Column("sha256", KEY, primary_key=True),
    Column("media_type", String, nullable=False),
    Column("size", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("received_at", String, nullable=False),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    # of the token's text, which is kept nowhere
    Column("sha256", KEY, primary_key=True),
    Column("name", String, nullable=False),
    # sync, viewer, operator, approver
    Column("role", String, nullable=False),
    # of sync: whose evidence (owner/fleet); else the login of who holds it
    Column("source", String),
    Column("created_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("revoked_at", String),
    UniqueConstraint("name"),
)

releases = Table(
    "releases",
    metadata,
    # environment, number in it, version
    Column("id", String, primary_key=True),
    Column("environment", String, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("version", String, nullable=False),
    Column("commit_sha", String, nullable=False),
    # deploy, rollback
    Column("kind", String, nullable=False),
    # pending, running, completed, failed
    Column("status", String, nullable=False),
    # the live one when it was created
    Column("previous_id", String),
    # of a rollback: what it goes back to
    Column("target_id", String),
    # the run that is, or was last, at it
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("plan", JSON, nullable=False),
    Column("images", JSON, nullable=False),
    # SHA-256 by project
    Column("rendered", JSON, nullable=False),
    Column("created_at", String, nullable=False),
    Column("ended_at", String),
    UniqueConstraint("environment", "seq"),
)

release_phases = Table(
    "release_phases",
    metadata,
    Column("release_id", ForeignKey("releases.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("phase", String, nullable=False),
    # pending, running, completed, failed, skipped
    Column("status", String, nullable=False),
    Column("reason", String),
    Column("started_at", String),
    Column("ended_at", String),
    Column("detail", JSON, nullable=False),
)

# what nodes did by themselves and offered as evidence: a node whose word was not taken back offers it again
collected = Table(
    "collected",
    metadata,
    # the node's own id of it
    Column("id", String, primary_key=True),
    Column("event_id", ForeignKey("events.id"), nullable=False),
)

fix_runs = Table(
    "fix_runs",
    metadata,
    # number, service
    Column("id", String, primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("service", String, nullable=False),
    Column("stack", String, nullable=False),
    Column("node", String, nullable=False),
    Column("instruction", String, nullable=False),
    # pending, awaiting_approval, running, succeeded, failed, rolled_back, rollback_failed, rejected, expired, cancelled
    Column("status", String, nullable=False),
    Column("requester", String, nullable=False),
    # the run that is, or was last, at it; null while it waits in the queue
    Column("run_id", ForeignKey("runs.id")),
    # that it was started anew from
    Column("parent_id", String),
    # null before it was analysed
    Column("plan", JSON(none_as_null=True)),
    # the commit with the patch
    Column("candidate", String),
    Column("reason", String),
    Column("created_at", String, nullable=False),
    Column("ended_at", String),
    # high; null: normal
    Column("priority", String),
    # of the queue's message that it was last taken for
    Column("task_id", String),
    # times that the queue began to do it since it was asked for; null: none
    Column("deliveries", Integer),
    UniqueConstraint("seq"),
    Index("ix_fix_runs_service_seq", "service", "seq"),
    Index("ix_fix_runs_status_seq", "status", "seq"),
)

fix_run_steps = Table(
    "fix_run_steps",
    metadata,
    Column("fix_run_id", ForeignKey("fix_runs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    # analyze, patch, build, restart, verify, rollback
    Column("step", String, nullable=False),
    # pending, in_progress, succeeded, failed, skipped
    Column("state", String, nullable=False),
    Column("message", String),
    Column("started_at", String),
    Column("ended_at", String),
    Column("detail", JSON, nullable=False),
)

fix_run_approvals = Table(
    "fix_run_approvals",
    metadata,
    Column("id", String, primary_key=True),
    Column("fix_run_id", ForeignKey("fix_runs.id"), nullable=False, index=True),
    # approved, rejected
    Column("decision", String, nullable=False),
    Column("approver", String, nullable=False),
    Column("plan_digest", String, nullable=False),
    Column("diff_sha256", String, nullable=False),
    Column("given_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("used_at", String),
    # DSSE
    Column("envelope", JSON, nullable=False),
)

fix_run_artifacts = Table(
    "fix_run_artifacts",
    metadata,
    Column("fix_run_id", ForeignKey("fix_runs.id"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("type", String, nullable=False),
    Column("step", String, nullable=False),
    Column("path", String, nullable=False),
    # SHA-256
    Column("checksum", String, nullable=False),
    Column("size_bytes", Integer, nullable=False),
)
