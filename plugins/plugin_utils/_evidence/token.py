# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens for the hub. A token says itself until when it holds, so that an expired one is noticed without asking the hub."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import TokenSource

_FORM = re.compile(r"pft_(\d{8}T\d{6}Z)_[A-Za-z0-9_-]{43}")
_TIME = "%Y%m%dT%H%M%SZ"

State = Literal["usable", "missing", "exposed", "unreadable", "expired", "refused"]


class TokenError(PifleetError):
    """There is no token that could be shown to the hub."""


@dataclass(frozen=True, slots=True)
class TokenState:
    """What can be known of a token without the network. *fingerprint* tells one from another and gives nothing away."""

    state: State
    detail: str
    fingerprint: str | None = None
    expires_at: datetime | None = None

    @property
    def usable(self) -> bool:
        return self.state == "usable"


@dataclass(frozen=True, slots=True)
class Token:
    """*value* is not shown by repr."""

    value: str = field(repr=False)
    fingerprint: str


def new(expires_at: datetime) -> str:
    """Return a token of 256 random bits that holds until *expires_at*."""
    return f"pft_{expires_at.astimezone(timezone.utc).strftime(_TIME)}_{secrets.token_urlsafe(32)}"


def expiry_of(value: str) -> datetime | None:
    """Return until when a token holds, None for one of another form, of which only the hub knows."""
    match = _FORM.fullmatch(value)
    try:
        return datetime.strptime(match[1], _TIME).replace(tzinfo=timezone.utc) if match else None
    except ValueError:
        return None


def digest_of(value: str) -> str:
    """Return what a hub keeps of a token."""
    return hashlib.sha256(value.encode()).hexdigest()


def inspect(source: TokenSource | None, now: datetime, refused: str | None = None) -> TokenState:
    """Return the state of the token, by looking at files only: no network, no program.

    *refused*: fingerprint of the token that the hub has refused last. Of a token in SOPS neither expiry nor text are known here.
    """
    if source is None:
        return TokenState("missing", "evidence.yml names neither token_file nor token_sops")
    try:
        content = atomic_file.read_bytes(source.path)
        mode = source.path.stat() if content is not None else None
    except OSError as error:
        return TokenState("unreadable", f"{source.path}: {error.strerror}")
    if content is None or mode is None:
        return TokenState("missing", f"there is no file {source.path}")
    if source.key is None and (stat.S_IMODE(mode.st_mode) & 0o077 or mode.st_uid not in (0, os.geteuid())):
        return TokenState("exposed", f"{source.path} can be read by others (it takes mode 0600 and your own user)")
    value = content.decode(errors="replace").strip()
    if not value:
        return TokenState("missing", f"{source.path} is empty")
    fingerprint = _fingerprint(content if source.key else value.encode())
    expires_at = None if source.key else expiry_of(value)
    if expires_at is not None and expires_at <= now:
        return TokenState("expired", f"the token expired at {expires_at:%Y-%m-%d %H:%M} UTC", fingerprint, expires_at)
    if fingerprint == refused:
        return TokenState("refused", "the hub has refused this token", fingerprint, expires_at)
    return TokenState("usable", f"until {expires_at:%Y-%m-%d %H:%M} UTC" if expires_at else "", fingerprint, expires_at)


def read(source: TokenSource | None, now: datetime, run: argv.Runner = argv.run) -> Token:
    """Return the token to show to the hub. Raises TokenError where there is none."""
    found = inspect(source, now)
    if source is None or not found.usable or found.fingerprint is None:
        raise TokenError(f"No token for the hub: {found.detail}.", "Put a valid one there, with mode 0600.")
    if source.key is None:
        return Token((atomic_file.read_text(source.path) or "").strip(), found.fingerprint)
    # the text comes over a pipe and stands on no command line; a fixed form of the path: sops takes JSON texts in brackets
    done = run(["sops", "--decrypt", "--extract", f'["{source.key}"]', str(source.path)], timeout=30)
    if not done.ok or not done.stdout.strip():
        said = (done.stderr.strip().splitlines() or ["it is empty"])[-1]
        raise TokenError(f"The token {source.key} of {source.path} cannot be decrypted: {said}", "Look at your keys for SOPS.")
    return Token(done.stdout.strip(), found.fingerprint)


def _fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
