# SPDX-License-Identifier: GPL-3.0-or-later
"""Links that hold for some minutes and prove themselves, so that a browser or a person can follow them without a token."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlencode

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import utc_now

KEY_FILE = Path("keys") / "links.key"
VALID = timedelta(minutes=10)


class Links:
    """*key*: what links are signed with; whoever has it can make them."""

    def __init__(self, key: bytes, now: Callable[[], datetime] = utc_now) -> None:
        self._key, self._now = key, now

    def to(self, path: str) -> tuple[str, datetime]:
        """Return *path* as a link, and until when it holds."""
        until = (self._now() + VALID).replace(microsecond=0)
        stamp = int(until.timestamp())
        return f"{quote(path)}?{urlencode({'expires': stamp, 'signature': self._sign(path, stamp)})}", until

    def holds(self, path: str, expires: int, signature: str) -> bool:
        """Whether a link to *path* was made here and has not expired."""
        same = hmac.compare_digest(self._sign(path, expires).encode(), signature.encode())
        return same and expires > self._now().timestamp()

    def _sign(self, path: str, expires: int) -> str:
        return hmac.new(self._key, f"{expires}\n{path}".encode(), hashlib.sha256).hexdigest()


def key_of(state: Path) -> bytes:
    """Return the fleet's key for links, made where there is none. *state*: its ``.pifleet``."""
    path = state / KEY_FILE
    if (found := atomic_file.read_bytes(path)) is None:
        atomic_file.write_atomic(path, secrets.token_bytes(32), 0o600, folder_mode=0o700)
        found = atomic_file.read_bytes(path)
    return found or b""
