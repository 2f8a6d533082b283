# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger's tables, as SQLAlchemy Core: the ORM would double the time to import, and rows leave the repositories as dataclasses.

The migrations make them; a test holds that both agree. Times are UTC in ISO 8601 with microseconds, as text, so that they sort and read the
same in SQLite and PostgreSQL.
"""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table

#: the schema this code works with: the newest of the migrations
HEAD = "0002"
#: every schema this code can read or upgrade, oldest first
KNOWN = ("0001", "0002")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
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
