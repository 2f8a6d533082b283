# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a node's password is the one that its cluster expects."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

_BYTES = 64
_MAX_MEMORY = 1 << 27


def hash_of(secret: Mapping[str, Any] | None) -> str:
    """Return the hash in a Secret ``<node>.node-password.k3s``; empty where there is none.

    Raises PifleetError when the Secret has no hash.
    """
    if secret is None:
        return ""
    try:
        return base64.b64decode(secret["data"]["hash"], validate=True).decode()
    except (ValueError, KeyError, TypeError) as error:
        raise PifleetError(
            "the cluster's Secret of a node password has no hash.", "Delete it, and the node joins with a new password."
        ) from error


def fits(password: str, stored: str) -> bool:
    """Return whether *password* has the hash *stored*: ``$1:<salt>:<log2 n>:<r>:<p>:<hash>`` (k3s pkg/authenticator/hash/scrypt.go).

    Raises PifleetError for a hash of another form.
    """
    try:
        version, salt, n, r, p, wanted = stored.split(":")
        if version != "$1":
            raise ValueError(version)
        made = hashlib.scrypt(
            password.strip().encode(), salt=bytes.fromhex(salt), n=1 << int(n), r=int(r), p=int(p), dklen=_BYTES, maxmem=_MAX_MEMORY
        )
        return hmac.compare_digest(made, base64.b64decode(wanted + "=" * (-len(wanted) % 4), validate=True))
    except (ValueError, binascii.Error) as error:
        raise PifleetError(
            "the cluster's hash of a node password has a form that is not known.", "Is this a k3s from before 1.20?"
        ) from error
