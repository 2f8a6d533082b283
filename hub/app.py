# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the hub together."""

from __future__ import annotations

from ansible_collections.pifleet.ops.hub import evidence, problems
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import ApiTokens
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.received import Received
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from fastapi import FastAPI


def create_app(store: Store) -> FastAPI:
    """Return the hub over *store*, its database, which is made or upgraded here. Raises LedgerError."""
    with store.write():
        pass
    app = FastAPI(title="pifleet hub", version=origin.collection_version() or "0")
    app.state.store = store
    app.state.tokens = ApiTokens(store)
    app.state.received = Received(store)
    problems.install(app)
    app.add_middleware(problems.BodyLimit, most=evidence.MAX_REQUEST)
    app.include_router(evidence.router)

    @app.get("/healthz", tags=["operation"])
    def healthz() -> dict[str, str]:
        """Say whether the database can be read."""
        with store.read():
            return {"status": "ok"}

    return app
