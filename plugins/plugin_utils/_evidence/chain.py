# SPDX-License-Identifier: GPL-3.0-or-later
"""The chain of events: what an event is, its canonical bytes, and how each holds on to the one before it.

Pure: no database, no clock. The hash of an event covers everything that it says and its place in the chain; where and when it is delivered
stands outside of it, so that delivery never changes evidence.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import rfc8785
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

#: of the form of an event, its field "v"
VERSION = 1
#: what the first event of a chain has in place of the hash of the one before it
GENESIS = "0" * 64
#: bytes of an event; what is larger belongs into a body
MAX_EVENT = 1 << 20

_KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class EventError(PifleetError):
    """An event that cannot be recorded as it is."""


@dataclass(frozen=True, slots=True)
class Body:
    """What an event says of a body that belongs to it: *name* for people, *size* in bytes."""

    name: str
    media_type: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class State:
    """The hash of the ledger's rows about one thing (*of*: such as ``run``), as an event left them."""

    of: str
    id: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has a place in a chain. *kind*: such as ``run.closed``; *at*: UTC, ISO 8601; *data*: what JSON can hold.

    *began*: of the first event alone, when the chain was made.
    """

    kind: str
    at: str
    data: Mapping[str, Any]
    run_id: str | None = None
    host: str | None = None
    bodies: Sequence[Body] = ()
    states: Sequence[State] = ()
    began: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a chain. *content*: its canonical bytes (RFC 8785); *sha256*: of these, in hex. *seq* counts from 1."""

    event_id: str
    chain: str
    seq: int
    kind: str
    at: str
    run_id: str | None
    host: str | None
    content: bytes
    sha256: str


def event_id(chain: str, seq: int) -> str:
    """Return the id of an event. A place in a chain is taken once, so that two events of one id prove a rewritten chain."""
    return f"{chain}-{seq:010d}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def canonical(value: Any) -> bytes:
    """Return *value* in the one form that RFC 8785 gives to it. Raises EventError for what JSON cannot hold exactly."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise EventError(
            f"This cannot be recorded as JSON: {error}.", "Only texts, finite numbers (integers up to 2^53), lists and tables can."
        ) from error


def seal(draft: Draft, chain: str, seq: int, previous: str) -> Event:
    """Return *draft* as the event number *seq* of *chain*, after the one of the hash *previous*. Raises EventError."""
    if not _KIND.fullmatch(draft.kind):
        raise EventError(
            f"{draft.kind!r} is no kind of event.", "A kind is two or more lower-case words with a point between, as run.closed."
        )
    if not _SHA256.fullmatch(previous):
        raise EventError(f"{previous!r} is no SHA-256 of an event.", "The first event of a chain follows on 64 zeros.")
    content = canonical(
        {
            "v": VERSION,
            "chain": chain,
            "seq": seq,
            "prev": previous,
            "kind": draft.kind,
            "at": draft.at,
            "run": draft.run_id,
            "host": draft.host,
            "data": dict(draft.data),
            "bodies": [asdict(body) for body in draft.bodies],
            "states": [asdict(state) for state in draft.states],
            **({} if draft.began is None else {"began": draft.began}),
        }
    )
    if len(content) > MAX_EVENT:
        raise EventError(
            f"An event {draft.kind} has {len(content) >> 10} KB; the ledger takes {MAX_EVENT >> 10}.", "Put what is large into a body."
        )
    return Event(event_id(chain, seq), chain, seq, draft.kind, draft.at, draft.run_id, draft.host, content, digest(content))
