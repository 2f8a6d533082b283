# SPDX-License-Identifier: GPL-3.0-or-later
"""Delivery: what waits in the outbox goes to the hub, and each row is settled by what the hub said of it.

At least once: a row leaves the outbox only when the hub says, of its key and its hash, that it has it durably. The hub takes the same row
twice and keeps it once. What the hub says of a row counts against the row; that it is down, slow or talks nonsense counts against nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Kind, Outbox, Result, Row


class HubError(PifleetError):
    """The hub cannot be used now: not reached, too slow, out of order, or its answer is none. Nothing counts as delivered."""


class HubRejectError(PifleetError):
    """The hub answered that it does not take a request, without a word on single rows."""


class HubAuthError(PifleetError):
    """The hub does not accept the token, or not for this identity. *fingerprint*: of the token that it refused."""

    def __init__(self, what: str, hint: str, fingerprint: str) -> None:
        super().__init__(what, hint)
        self.fingerprint = fingerprint


class Hub(Protocol):
    """The port to a hub. Every method raises HubError, HubAuthError or HubRejectError; a result names a row that was asked about."""

    def send_events(self, rows: Sequence[Row]) -> list[Result]:
        """Send events, and return a result for each. Without rows: ask whether the hub is in order."""

    def send_body(self, row: Row, content: bytes) -> Result:
        """Send one body."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one pass did: rows that the hub has now, that it refused, that were damaged here, and why the pass ended early."""

    events: int = 0
    bodies: int = 0
    rejected: int = 0
    quarantined: int = 0
    error: PifleetError | None = None

    @property
    def complete(self) -> bool:
        return self.error is None

    def and_then(self, later: Delivered) -> Delivered:
        """Return what this pass and the one after it did together."""
        return Delivered(
            self.events + later.events,
            self.bodies + later.bodies,
            self.rejected + later.rejected,
            self.quarantined + later.quarantined,
            later.error,
        )


class Delivery:
    """Delivers the rows of one scope."""

    def __init__(self, outbox: Outbox, hub: Hub, scope: str, *, stop: Callable[[], bool] = lambda: False) -> None:
        self._outbox = outbox
        self._hub = hub
        self._scope = scope
        self._stop = stop

    def run(self) -> Delivered:
        """Send all that is due, once, bodies before the events that name them. A hub that cannot be used ends the pass.

        Raises LedgerError, and nothing else.
        """
        done = _Tally()
        error: PifleetError | None = None
        try:
            self._pass("body", self._outbox.due_bodies, done)
            self._pass("event", self._outbox.due_events, done)
        except HubAuthError as refused:
            error = refused
            self._outbox.note_failure(self._scope, str(refused), refused.fingerprint)
        except (HubError, HubRejectError) as failed:
            error = failed
            self._outbox.note_failure(self._scope, str(failed))
        else:
            if done.delivered["event"] + done.delivered["body"] + done.rejected or self._outbox.state(self._scope).last_error:
                self._outbox.note_success(self._scope)
        return Delivered(done.delivered["event"], done.delivered["body"], done.rejected, done.quarantined, error)

    def _pass(self, kind: Kind, due: Callable[[str, str], list[Row]], done: _Tally) -> None:
        after = ""
        while not self._stop() and (rows := due(self._scope, after)):
            after = rows[-1].key
            if kind == "event":
                if sound := self._sound(rows, done):
                    self._events(sound, done)
            else:
                for row in rows:
                    if self._stop():
                        return
                    self._settle(kind, [row], [self._body(row)], done)

    def _sound(self, rows: Sequence[Row], done: _Tally) -> list[Row]:
        """Return *rows* with the bytes that they were queued with. Of a damaged one the ledger has another copy; else it is quarantined."""
        sound = []
        for row in rows:
            if _sha256(row.content or b"") == row.sha256:
                sound.append(row)
            elif (original := self._outbox.original_of(row)) is not None:
                sound.append(replace(row, content=original))
            else:
                self._outbox.set_aside(self._scope, row, "its content does not have its hash any more")
                done.quarantined += 1
        return sound

    def _events(self, rows: Sequence[Row], done: _Tally) -> None:
        """Send *rows* together. Where the hub takes them not as they are, find those that it does not take."""
        try:
            results = self._hub.send_events(rows)
        except HubRejectError as error:
            self._hub.send_events([])  # raises where it is not the rows that are wrong
            if len(rows) > 1:
                half = len(rows) // 2
                self._events(rows[:half], done)
                self._events(rows[half:], done)
                return
            results = self._again(rows[0], error)
        self._settle("event", rows, results, done)

    def _again(self, row: Row, error: HubRejectError) -> list[Result]:
        """Send a row once more, alone, to a hub that is in order: what it refuses now, it refuses for what the row is."""
        try:
            return self._hub.send_events([row])
        except HubRejectError:
            return [Result(row.key, "rejected", error.what)]

    def _body(self, row: Row) -> Result:
        content = self._outbox.content_of(row.key)
        if content is None:
            return Result(row.key, "rejected", "the ledger does not have its content")
        if _sha256(content) != row.key:
            return Result(row.key, "rejected", "its content in the ledger does not have its hash any more")
        try:
            return self._hub.send_body(row, content)
        except HubRejectError as error:
            self._hub.send_events([])
            return Result(row.key, "rejected", error.what)

    def _settle(self, kind: Kind, rows: Sequence[Row], results: Sequence[Result], done: _Tally) -> None:
        self._outbox.settle(self._scope, kind, rows, results)
        rejected = sum(result.outcome == "rejected" for result in results)
        done.delivered[kind] += len(results) - rejected
        done.rejected += rejected


@dataclass(slots=True)
class _Tally:
    delivered: dict[Kind, int] = field(default_factory=lambda: {"event": 0, "body": 0})
    rejected: int = 0
    quarantined: int = 0


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
