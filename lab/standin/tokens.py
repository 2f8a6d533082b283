# SPDX-License-Identifier: GPL-3.0-or-later
"""Join tokens: ``K10<sha256 of the cluster's CA file>::<user>:<secret>``, or the bare secret (k3s's pkg/clientaccess/token.go)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

PREFIX = "K10"
HASH_LENGTH = 64


class TokenError(ValueError):
    """In k3s's words."""


@dataclass(frozen=True, slots=True)
class Token:
    """*ca_hash* and *user* are empty in a bare secret."""

    ca_hash: str
    user: str
    secret: str


def parse(text: str) -> Token:
    if not text:
        raise TokenError("token must not be empty")
    if not text.startswith(PREFIX):
        return Token("", "", text)
    ca_hash, separator, credentials = text[len(PREFIX) :].partition("::")
    if not separator:
        ca_hash, credentials = "", text[len(PREFIX) :]
    if ca_hash and len(ca_hash) != HASH_LENGTH:
        raise TokenError("invalid token CA hash length")
    user, colon, secret = credentials.partition(":")
    if not colon or not secret:
        raise TokenError("invalid token format")
    return Token(ca_hash, user, secret)


def hash_of(ca: str) -> str:
    return hashlib.sha256(ca.encode()).hexdigest()


def compose(ca: str, user: str, secret: str) -> str:
    return f"{PREFIX}{hash_of(ca)}::{user}:{secret}"
