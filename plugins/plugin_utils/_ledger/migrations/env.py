# SPDX-License-Identifier: GPL-3.0-or-later
"""Alembic runs this to migrate, on the connection and in the transaction of ``store``: an upgrade is whole or did not happen."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
