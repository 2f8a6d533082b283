# SPDX-License-Identifier: GPL-3.0-or-later
"""Acknowledgements of stacks that are asked for elsewhere than at the controller's own prompt: recorded, so that who asked is proven."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import append_event, text_of, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import chains, events
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from sqlalchemy import select

ASKED = "stack.acknowledgement_requested"
#: how long a request may wait for its playbook
VALID = timedelta(minutes=30)


class Permissions:
    """The repository of these requests. Both methods raise LedgerError."""

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now) -> None:
        self._store, self._now = store, now

    def ask(self, node: str, stack: str, plan_digest: str, requester: str) -> str:
        """Record that *requester*, as their token proved, acknowledges a plan, and return the id of that event."""
        told = {"stack": stack, "plan_digest": plan_digest, "requester": requester}
        with self._store.write() as db:
            return append_event(db, ASKED, told, host=node, now=self._now).event_id

    def requester_of(self, event_id: str, node: str, stack: str, plan_digest: str) -> str:
        """Return who asked for exactly this acknowledgement. Raises PifleetError where nobody did, or too long ago."""
        wanted = select(events.c.content).join(chains).where(chains.c.own, events.c.id == event_id, events.c.kind == ASKED)
        with self._store.read() as db:
            content = db.execute(wanted).scalar()
        found = json.loads(bytes(content)) if content is not None else {}
        told = found.get("data", {})
        if (found.get("host"), told.get("stack"), told.get("plan_digest")) != (node, stack, plan_digest):
            raise PifleetError(f"The ledger has no request {event_id} for this plan of {stack} on {node}.", "Nothing was changed.")
        if found["at"] <= text_of(self._now() - VALID):
            raise PifleetError(f"The request {event_id} for a plan of {stack} is too old.", "Ask again. Nothing was changed.")
        return str(told["requester"])
