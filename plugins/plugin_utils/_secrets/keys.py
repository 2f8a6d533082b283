# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of recipients' keys: what is wrong with one before anything is encrypted for it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

#: a key that expires within this is told: https://www.gnupg.org/documentation/manuals/gnupg/OpenPGP-Key-Management.html
SOON = timedelta(days=30)


def problems(recipients: Iterable[str], now: datetime) -> tuple[list[str], list[str]]:
    """Return why nothing can be encrypted for some of *recipients*, and what will come to that soon."""
    wrong, soon = [], []
    keyring = _Keyring()
    for recipient in sorted(recipients):
        if recipient.startswith("age1"):
            wrong += _of_age(recipient)
        elif not recipient.startswith("ssh-"):
            bad, coming = keyring.look(recipient, now)
            wrong += bad
            soon += coming
    return wrong, soon


def _of_age(recipient: str) -> list[str]:
    import pyrage

    try:
        pyrage.x25519.Recipient.from_str(recipient)
    except pyrage.RecipientError:
        return [f"{recipient} is no key of age: a letter is wrong (its checksum does not fit)"]
    return []


class _Keyring:
    """The controller's own, of GNUPGHOME; asked only where a recipient is of GnuPG."""

    def __init__(self) -> None:
        self._gpg: Any = None

    def look(self, fingerprint: str, now: datetime) -> tuple[list[str], list[str]]:
        import gnupg

        home = os.environ.get("GNUPGHOME") or None
        if home and not os.path.isdir(home):
            return [f"GnuPG key {fingerprint} is not in the keyring: GNUPGHOME is {home}, which is no folder"], []
        try:
            self._gpg = self._gpg or gnupg.GPG(gnupghome=home)
        except OSError:
            return [f"GnuPG key {fingerprint}: there is no program gpg"], []
        found = [key for key in self._gpg.list_keys(keys=fingerprint) if fingerprint in _fingerprints(key)]
        if not found:
            return [f"GnuPG key {fingerprint} is not in the keyring: `gpg --import` its public key"], []
        key = found[0]
        if key["trust"] in ("r", "e", "d") or "E" not in key["cap"]:
            why = {"r": "is revoked", "e": "has expired", "d": "is disabled"}.get(key["trust"], "is not for encryption")
            return [f"GnuPG key {fingerprint} {why}"], []
        ends = datetime.fromtimestamp(int(key["expires"]), tz=timezone.utc) if key["expires"] else None
        return [], [f"GnuPG key {fingerprint} expires on {ends:%Y-%m-%d}"] if ends and ends - now < SOON else []


def _fingerprints(key: Any) -> set[str]:
    return {key["fingerprint"], *(part[2] for part in key.get("subkeys", ()) if len(part) > 2)}
