# SPDX-License-Identifier: GPL-3.0-or-later
"""The repository of signed statements, which are events themselves: deleting one breaks the chain as deleting any event does."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import append_sealed, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import chains, events, runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from securesystemslib.signer import Signer
from sqlalchemy import Connection, select

INTRODUCED = "key.introduced"
ATTESTED = "run.attested"


class Statements:
    """Signs for runs. *state*: the fleet's ``.pifleet``, where the controller's own key is; *gnupg_key*: a fingerprint, used instead."""

    def __init__(self, store: Store, state: Path, gnupg_key: str | None = None, now: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._state = state
        self._gnupg_key = gnupg_key
        self._now = now

    def sign(self, run_id: str) -> dict[str, Any] | None:
        """Add a signed statement about the last event of a run, and return its envelope; None where it has one already.

        The signature is made between two transactions: an agent may ask the operator for a passphrase. Raises SigningError, LedgerError.
        """
        with self._store.read() as db:
            content = _unsigned(db, run_id)
        if content is None:
            return None
        signer, expires_at = self._signer()
        envelope = attestation.sign(content, signer)
        with self._store.write() as db:
            introduce(db, signer, expires_at, run_id, self._now)
            append_sealed(db, ATTESTED, {"envelope": envelope}, run_id=run_id, now=self._now)
        return envelope

    def _signer(self) -> tuple[Signer, str | None]:
        """Return who signs, and until when."""
        if self._gnupg_key:
            key = attestation.gnupg_key(self._gnupg_key)
            return key.signer, key.expires_at
        return attestation.own_signer(self._state / attestation.KEY_FILE), None


def introduced(db: Connection) -> list[dict[str, Any]]:
    """Return what was told of keys that sign here (``keyid``, ``public``, ``expires_at``), in the order in which it was told."""
    told = select(events.c.content).join(chains).where(chains.c.own, events.c.kind == INTRODUCED)
    return [json.loads(content)["data"] for content in db.execute(told.order_by(events.c.seq)).scalars()]


def introduce(db: Connection, signer: Signer, expires_at: str | None, run_id: str | None, now: Callable[[], datetime] = utc_now) -> None:
    """The first statement of a key, and of one that was extended, comes after the event that tells its public half and its expiry."""
    told = {
        "keyid": signer.public_key.keyid,
        "public": attestation.public(signer.public_key),
        **({"expires_at": expires_at} if expires_at else {}),
    }
    if [data for data in introduced(db) if data["keyid"] == told["keyid"]][-1:] != [told]:
        append_sealed(db, INTRODUCED, told, run_id=run_id, now=now)


def _unsigned(db: Connection, run_id: str) -> bytes | None:
    """Return what is to be signed for a run, None where its last event is a statement already."""
    of_run = select(events.c.id, events.c.sha256, events.c.kind).join(chains).where(chains.c.own, events.c.run_id == run_id)
    last = db.execute(of_run.order_by(events.c.seq.desc())).first()
    if last is None or last.kind == ATTESTED:
        return None
    run = db.execute(select(runs).where(runs.c.id == run_id)).one()
    told = {"run": run_id, "status": run.status, "requester": run.requester, "revision": run.revision, "ended_at": run.ended_at}
    return attestation.payload(last.id, last.sha256, told)
