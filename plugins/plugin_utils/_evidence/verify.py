# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification of a ledger: what was changed, is missing, was added or moved, by name.

Pure: what is read comes through ``Source``. Nothing is trusted but the arithmetic: every row is compared with the event that vouches for
it, every event with the next one, the last one with signed statements and anchors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation, chain

#: columns of an event, each with the field of its content that it repeats
_COLUMNS = {"chain": "chain", "seq": "seq", "kind": "kind", "at": "at", "run_id": "run", "host": "host"}
BEGAN, INTRODUCED, CLOSED, ATTESTED = "ledger.began", "key.introduced", "run.closed", "run.attested"


@dataclass(frozen=True, slots=True)
class Finding:
    """*problem*: changed, missing, added, moved, replaced, rewritten, unsigned, damaged; *subject*: the id of what is concerned."""

    problem: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """A head of a chain that was written down elsewhere. *place*: where, for people."""

    place: str
    chain: str
    seq: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ChainRow:
    """A chain as its row tells it. *own*: it is the one that this ledger appends to."""

    id: Any
    own: Any
    seq: Any
    sha256: Any
    created_at: Any


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event as its row has it, which may be anything."""

    id: Any
    chain: Any
    seq: Any
    kind: Any
    at: Any
    run_id: Any
    host: Any
    content: Any
    sha256: Any


@dataclass(frozen=True, slots=True)
class BodyRow:
    """A body as its row has it, which may be anything."""

    sha256: Any
    size: Any
    media_type: Any
    content: Any


class Source(Protocol):
    """What is read of a ledger, all at one moment. Rows come one by one: memory does not grow with the ledger."""

    def damage(self) -> list[str]:
        """Return what the database itself finds wrong with its file."""

    def chains(self) -> list[ChainRow]:
        """Return every chain."""

    def events(self, chain_id: Any) -> Iterator[EventRow]:
        """Return the events of a chain by their number."""

    def strays(self) -> list[EventRow]:
        """Return the events of no chain."""

    def bodies(self) -> Iterator[BodyRow]:
        """Return every body."""

    def body(self, sha256: str) -> bytes | None:
        """Return the content of one body."""

    def artifacts(self) -> Iterator[tuple[Any, Any]]:
        """Return (run, hash of the body) of everything that runs left."""

    def things(self) -> Iterator[tuple[str, str]]:
        """Return (kind, id) of everything that the ledger has rows about."""

    def state(self, of: str, key: str) -> str:
        """Return the hash of the rows about one thing. Raises PifleetError or ValueError for rows that cannot be read."""


@dataclass(frozen=True, slots=True)
class Report:
    """*findings*: what is wrong; *notes*: what is worth knowing; *heads*: by chain, where it ends."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    heads: Mapping[str, tuple[int, str]]
    events: int
    bodies: int
    statements: int


@dataclass(slots=True)
class _Audit:
    """What was seen so far."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    heads: dict[str, tuple[int, str]] = field(default_factory=dict)
    #: hash of the body: (size, media types, what refers to it)
    bodies: dict[str, tuple[set[int], set[str], str]] = field(default_factory=dict)
    #: (kind, id): (hash of its rows, the event that vouches for it)
    states: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    events: int = 0
    seen_bodies: int = 0
    statements: int = 0

    def find(self, problem: str, subject: str, text: str) -> None:
        self.findings.append(Finding(problem, subject, text))


def verify(source: Source, anchors: Iterable[Anchor] = (), trusted: Iterable[str] = ()) -> Report:
    """Verify all that *source* has. *trusted*: ids of the keys that may sign; none: those that the chain itself introduced."""
    audit, wanted = _Audit(), tuple(anchors)
    for text in source.damage():
        audit.find("damaged", "database", f"The database is damaged: {text}.")
    chains = source.chains()
    own = [row for row in chains if row.own]
    if len(own) != 1:
        names = ", ".join(str(row.id) for row in own or chains) or "none"
        audit.find("changed", names, f"{len(own)} chains are marked as this ledger's own, instead of one of: {names}.")
    for row in chains:
        if row.own not in (0, 1):
            audit.find("changed", str(row.id), f"The chain {row.id} is this ledger's own or not, never {row.own!r}.")
        _Chain(audit, source, row, wanted, frozenset(trusted)).verify()
    for event in source.strays():
        audit.find("added", str(event.id), f"The event {event.id!r} belongs to no chain of this ledger.")
    _bodies(audit, source)
    _things(audit, source)
    _unknown_anchors(audit, wanted)
    found = tuple(dict.fromkeys(audit.findings))
    return Report(found, tuple(audit.notes), audit.heads, audit.events, audit.seen_bodies, audit.statements)


class _Chain:
    """One chain, event by event."""

    def __init__(self, audit: _Audit, source: Source, row: ChainRow, anchors: Iterable[Anchor], trusted: frozenset[str]) -> None:
        self._audit = audit
        self._source = source
        self._row = row
        self._anchors = [a for a in anchors if a.chain == row.id]
        self._anchored = {a.seq for a in self._anchors}
        self._hashes: dict[int, str] = {}
        self._trusted = trusted
        self._keys: dict[str, Mapping[str, Any]] = {}
        self._expiry: dict[str, str | None] = {}
        #: run: (id and hash of its last event), which its statement is about
        self._last: dict[str, tuple[str, str]] = {}
        self._unsigned: dict[str, None] = {}
        self._seq = 0
        self._previous: tuple[str, set[str]] = ("", {chain.GENESIS})
        self._since_statement = 0

    def verify(self) -> None:
        for row in self._source.events(self._row.id):
            self._audit.events += 1
            self._event(row)
        self._end()
        self._check_anchors()

    def _event(self, row: EventRow) -> None:
        content = row.content if isinstance(row.content, bytes) else str(row.content).encode(errors="replace")
        sha256 = chain.digest(content)
        table = _table(content)
        follows = self._place(row)
        whole = sha256 == row.sha256 and isinstance(row.content, bytes)
        if not whole:
            self._find("changed", row, "its content does not have the hash that is stored with it")
        elif table is None:
            self._find("changed", row, "its content is not in the canonical form of an event")
        if table is not None:
            self._columns(row, table)
            if follows and table.get("prev") not in self._previous[1]:
                before = self._previous[0] or "the beginning of the chain"
                self._audit.find(
                    "replaced", before, f"The event {row.id} does not follow on {before} as it is now: one of them was replaced."
                )
            if whole:
                self._told(row, table, sha256)
        self._previous = (str(row.id), {sha256, str(row.sha256)})
        if self._seq in self._anchored:
            self._hashes[self._seq] = sha256

    def _place(self, row: EventRow) -> bool:
        """Note which events are missing before *row*, and return whether it follows directly on the one before."""
        if not isinstance(row.seq, int):
            self._find("changed", row, f"its number is {row.seq!r}")
            self._seq += 1
            return False
        expected, self._seq = self._seq + 1, max(row.seq, self._seq)
        if row.seq < expected:
            self._find("added", row, f"there is another event of the number {row.seq}")
        elif row.seq > expected:
            self._missing(expected, row.seq - 1)
        return row.seq == expected

    def _missing(self, first: int, last: int, why: str = "") -> None:
        names = chain.event_id(str(self._row.id), first)
        if last - first < 50:
            for seq in range(first, last + 1):
                name = chain.event_id(str(self._row.id), seq)
                self._audit.find("missing", name, f"The event {name} is missing{why}.")
            return
        self._audit.find("missing", names, f"The events {names} to {chain.event_id(str(self._row.id), last)} are missing{why}.")

    def _columns(self, row: EventRow, table: Mapping[str, Any]) -> None:
        differ = [name for name, key in _COLUMNS.items() if not _same(getattr(row, name), table.get(key))]
        if "seq" in differ or "chain" in differ:
            said = chain.event_id(str(table.get("chain")), table["seq"]) if isinstance(table.get("seq"), int) else "no event"
            self._find("moved", row, f"its content is that of {said}")
        elif differ:
            self._find("changed", row, f"its {', '.join(differ)} differ from its content")
        if isinstance(row.seq, int) and row.id != chain.event_id(str(row.chain), row.seq):
            name = chain.event_id(str(row.chain), row.seq)
            self._audit.find("changed", name, f"The event {name} has the id {row.id!r}.")

    def _told(self, row: EventRow, table: Mapping[str, Any], sha256: str) -> None:
        """Remember what a whole event vouches for."""
        for body in table.get("bodies") or ():
            sizes, types, _by = self._audit.bodies.setdefault(body["sha256"], (set(), set(), f"the event {row.id}"))
            sizes.add(body["size"])
            types.add(body["media_type"])
        for state in table.get("states") or ():
            self._audit.states[state["of"], state["id"]] = (state["sha256"], str(row.id))
        self._since_statement += 1
        if self._row.own and self._seq == 1 and table.get("began") != self._row.created_at:
            self._audit.find("changed", str(self._row.id), f"The chain {self._row.id} did not begin at {self._row.created_at!r}.")
        kind, data, run = table["kind"], table["data"], table.get("run")
        if kind == BEGAN:
            self._began(table)
        elif kind == INTRODUCED:
            self._keys[data.get("keyid")] = data.get("public")
            self._expiry[data.get("keyid")] = data.get("expires_at")
        elif kind == ATTESTED:
            self._statement(row, data, run)
        elif run:
            self._last[run] = (str(row.id), sha256)
            if kind == CLOSED:
                self._unsigned[run] = None

    def _began(self, table: Mapping[str, Any]) -> None:
        """The first event vouches for rows that are older than the chain."""
        for body in table["bodies"]:
            found = _json(self._source.body(body["sha256"]) or b"")
            for state in found if isinstance(found, list) else ():
                self._audit.states[state["of"], state["id"]] = (state["sha256"], chain.event_id(table["chain"], table["seq"]))

    def _statement(self, row: EventRow, data: Mapping[str, Any], run: str | None) -> None:
        self._audit.statements += 1
        try:
            keyid, statement = attestation.verified(data.get("envelope") or {}, self._keys)
            about = [(s["name"], s["digest"]["sha256"]) for s in statement["subject"]]
            said = statement["predicate"]["run"]
        except attestation.SigningError as error:
            self._find("unsigned", row, f"its statement cannot be trusted: {error}")
            return
        except (KeyError, TypeError, AttributeError):
            self._find("unsigned", row, "its statement is not one about a run")
            return
        if self._trusted and keyid not in self._trusted:
            self._find("unsigned", row, f"its statement is signed with the key {keyid}, which is not trusted")
        expires_at = self._expiry.get(keyid)
        if expires_at and str(row.at) > expires_at:
            self._find("unsigned", row, f"its statement is signed with the key {keyid}, which had expired at {expires_at}")
        if said != run or about != [self._last.get(run or "")]:
            self._find("unsigned", row, f"its statement is about {said} and {about}, which is not how the run {run} ended here")
        self._unsigned.pop(run or "", None)
        self._since_statement = 0

    def _end(self) -> None:
        """Compare the last event with the head that the chain's row tells."""
        row = self._row
        last = self._previous[0]
        if isinstance(row.seq, int) and row.seq > self._seq:
            self._missing(self._seq + 1, row.seq, ": the end of the chain was cut off")
        elif row.seq != self._seq:
            self._audit.find("added", last or str(row.id), f"The chain {row.id} ends with {last}, but its row says number {row.seq!r}.")
        elif row.sha256 not in self._previous[1]:
            self._audit.find("replaced", last or str(row.id), f"The event {last} is not the one that the chain {row.id} ended with.")
        head = next(iter(self._previous[1] & {row.sha256}), "") or str(row.sha256)
        self._audit.heads[str(row.id)] = (self._seq, head)
        if self._unsigned:
            self._audit.notes.append(f"Without a statement of their own: the runs {', '.join(self._unsigned)}.")
        if self._since_statement and self._audit.statements:
            self._audit.notes.append(f"{self._since_statement} events came after the last statement; the next run's statement covers them.")

    def _check_anchors(self) -> None:
        good = max((a.seq for a in self._anchors if self._hashes.get(a.seq) == a.sha256), default=0)
        for anchor in sorted(self._anchors, key=lambda a: (a.seq, a.place)):
            name = chain.event_id(anchor.chain, anchor.seq)
            if anchor.seq > self._seq:
                self._missing(self._seq + 1, anchor.seq, f": {anchor.place} has seen number {anchor.seq}")
            elif self._hashes.get(anchor.seq) != anchor.sha256:
                before = max((a.seq for a in self._anchors if a.seq < anchor.seq and self._hashes.get(a.seq) == a.sha256), default=0)
                first = chain.event_id(anchor.chain, before + 1)
                self._audit.find("rewritten", name, f"{anchor.place} has seen another {name}: what is from {first} to it was rewritten.")
        if self._anchors and good < self._seq:
            self._audit.notes.append(f"Anchors vouch for the chain {self._row.id} up to number {good} of {self._seq}.")

    def _find(self, problem: str, row: EventRow, why: str) -> None:
        name = chain.event_id(str(self._row.id), row.seq) if isinstance(row.seq, int) else str(row.id)
        self._audit.find(problem, name, f"The event {name} is not what was recorded: {why}.")


def _bodies(audit: _Audit, source: Source) -> None:
    for run, sha256 in source.artifacts():
        audit.bodies.setdefault(str(sha256), (set(), set(), f"an artifact of the run {run}"))
    missing = dict(audit.bodies)
    for row in source.bodies():
        audit.seen_bodies += 1
        sizes, types, _by = missing.pop(str(row.sha256), (set(), set(), ""))
        content = row.content if isinstance(row.content, bytes) else str(row.content).encode(errors="replace")
        if chain.digest(content) != row.sha256 or not isinstance(row.content, bytes):
            audit.find("changed", str(row.sha256), f"The body {row.sha256} is not what was recorded: its content has another hash.")
        elif row.size != len(content) or (sizes and row.size not in sizes):
            audit.find("changed", str(row.sha256), f"The body {row.sha256} has {len(content)} bytes; its size says {row.size!r}.")
        elif types and row.media_type not in types:
            audit.find("changed", str(row.sha256), f"The body {row.sha256} is {' or '.join(sorted(types))}, not {row.media_type!r}.")
    for sha256, (_sizes, _types, by) in missing.items():
        audit.find("missing", sha256, f"The body {sha256} of {by} is missing.")


def _things(audit: _Audit, source: Source) -> None:
    """Compare the rows about each thing with the last event that vouches for them."""
    left = dict(audit.states)
    for of, key in source.things():
        expected = left.pop((of, key), None)
        if expected is None:
            audit.find("added", key, f"The {of} {key} is in no event: it was added, or its events are gone.")
            continue
        try:
            found = source.state(of, key)
        except (PifleetError, ValueError, TypeError, LookupError):
            found = ""
        if found != expected[0]:
            audit.find("changed", key, f"The {of} {key} is not what was recorded: its rows differ from what {expected[1]} left.")
    for (of, key), (_sha256, by) in left.items():
        audit.find("missing", key, f"The {of} {key} is missing, of which {by} tells.")


def _unknown_anchors(audit: _Audit, anchors: Iterable[Anchor]) -> None:
    strangers: dict[str, list[str]] = {}
    for anchor in anchors:
        if anchor.chain not in audit.heads:
            strangers.setdefault(anchor.chain, []).append(anchor.place)
    for name, places in sorted(strangers.items()):
        audit.notes.append(
            f"{', '.join(dict.fromkeys(places))} knows the chain {name}, which is not in this ledger: it is another controller's, or this "
            "ledger was replaced."
        )


def _table(content: bytes) -> dict[str, Any] | None:
    """Return the event in *content*, None where it is not in the form that ``chain.seal`` gives to one."""
    table = _json(content)
    try:
        shaped = isinstance(table, dict) and isinstance(table["data"], dict) and isinstance(table["bodies"], list)
        if not shaped or chain.canonical(table) != content or not isinstance(table["kind"], str):
            return None
    except (KeyError, chain.EventError):
        return None
    found: dict[str, Any] = table
    return found


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
