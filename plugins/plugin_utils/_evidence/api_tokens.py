# SPDX-License-Identifier: GPL-3.0-or-later
"""The tokens that a hub accepts. Only their hashes are kept; a token's text is shown once, when it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import token
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import text_of, utc_now
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import api_tokens
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import NoLedgerError, Store
from sqlalchemy import insert, select, update

#: *sync* sends evidence, and nothing else; the others are of people and their programs: a *viewer* looks, an *operator* asks for what
#: changes something, an *approver* permits it. Who may do both has two tokens.
Role = Literal["sync", "viewer", "operator", "approver"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a token proves. *source*: the identity (``owner/fleet``) whose evidence it may send; else the login of who holds it."""

    name: str
    role: str
    source: str | None

    @property
    def login(self) -> str:
        """Who asks, or permits, as the ledger has it: the holder's login, never what a request says."""
        return self.source or self.name


@dataclass(frozen=True, slots=True)
class Listed:
    """A token as it may be shown. *state*: valid, expired, revoked."""

    name: str
    role: str
    source: str | None
    expires_at: str
    state: str


class ApiTokens:
    """The repository of tokens. All methods raise LedgerError."""

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._now = now

    def add(self, name: str, role: Role, source: str | None, valid: timedelta) -> str:
        """Make a token and return its text. Raises PifleetError where the name is taken."""
        expires_at = self._now() + valid
        text = token.new(expires_at)
        with self._store.write() as db:
            if db.execute(select(api_tokens.c.name).where(api_tokens.c.name == name)).first():
                raise PifleetError(f"There is a token {name} already.", "Choose another name; a revoked token keeps its own.")
            row = {"sha256": token.digest_of(text), "name": name, "role": role, "source": source}
            db.execute(insert(api_tokens), {**row, "created_at": text_of(self._now()), "expires_at": text_of(expires_at)})
        return text

    def revoke(self, name: str) -> None:
        """Make a token invalid. Raises PifleetError where there is none of this name."""
        known = api_tokens.c.name == name
        with self._store.write() as db:
            gone = update(api_tokens).where(known, api_tokens.c.revoked_at.is_(None)).values(revoked_at=text_of(self._now()))
            if not db.execute(gone).rowcount and not db.execute(select(api_tokens.c.name).where(known)).first():
                raise PifleetError(f"There is no token {name}.", "`token list` shows those there are.")

    def all(self) -> tuple[Listed, ...]:
        """Return every token, by name."""
        now = text_of(self._now())
        with self._store.read() as db:
            rows = db.execute(select(api_tokens).order_by(api_tokens.c.name)).all()
        return tuple(
            Listed(r.name, r.role, r.source, r.expires_at, "revoked" if r.revoked_at else "expired" if r.expires_at <= now else "valid")
            for r in rows
        )

    def caller_of(self, text: str) -> Caller | None:
        """Return whom a token proves, None for one that is unknown, expired or revoked."""
        wanted = select(api_tokens).where(
            api_tokens.c.sha256 == token.digest_of(text),
            api_tokens.c.revoked_at.is_(None),
            api_tokens.c.expires_at > text_of(self._now()),
        )
        try:
            with self._store.read() as db:
                row = db.execute(wanted).first()
        except NoLedgerError:
            return None
        return Caller(row.name, row.role, row.source) if row else None
