# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the hub together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from ansible_collections.pifleet.ops.hub import evidence, fleet, orchestrator, page, problems, stacks
from ansible_collections.pifleet.ops.hub.office import Office
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import ApiTokens
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.received import Received
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from fastapi import FastAPI


def create_app(store: Store, office: Office | None = None) -> FastAPI:
    """Return the hub over *store*, its database, which is made or upgraded here. Raises LedgerError.

    *office*: of the fleet that it works for; None: it takes in evidence, and that is all.
    """
    with store.write():
        pass
    version = origin.collection_version() or "0"
    # FastAPI's pages about the interface load their script from elsewhere
    app = FastAPI(title="pifleet hub", version=version, lifespan=_working(office), docs_url=None, redoc_url=None)
    app.state.store = store
    app.state.tokens = ApiTokens(store)
    app.state.received = Received(store)
    problems.install(app)
    app.add_middleware(problems.BodyLimit, most=evidence.MAX_REQUEST)
    app.include_router(evidence.router)
    if office is not None:
        app.state.office = office
        app.include_router(orchestrator.router)
        app.include_router(fleet.router)
        app.include_router(stacks.router)
        app.include_router(page.router)

    @app.get("/healthz", tags=["operation"])
    def healthz() -> dict[str, str]:
        """Say whether the database can be read."""
        with store.read():
            return {"status": "ok"}

    return app


def _working(office: Office | None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return what lets the queue work as long as the hub serves."""

    @asynccontextmanager
    async def working(_app: FastAPI) -> AsyncIterator[None]:
        if office is not None:
            office.queue.start()
        try:
            yield
        finally:
            if office is not None:
                office.queue.stop()
                office.fleet.close()

    return working
