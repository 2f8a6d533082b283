# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotation of the token for the hub: the new one is shown to the hub before it takes the old one's place, and once more from there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import sync, token
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.delivery import HubAuthError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.hub_client import HttpHub
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import FILE, Settings, SettingsError, TokenSource
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.sops import Sops

#: opens a hub with a token
Connect = Callable[[token.Token], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Rotated:
    """*path*: the file that has the token; *old*, *new* tell the tokens apart; *changed*: whether it was another one."""

    path: Path
    old: str | None
    new: str
    changed: bool


def rotate(settings: Settings, source: Path, policy: str, now: datetime, check: bool, connect: Connect | None = None) -> Rotated:
    """Put the token in the file *source* in the place of the fleet's.

    Raises SettingsError where ``evidence.yml`` names no place, TokenError for what is no token, HubError and HubAuthError where the hub
    cannot be asked or refuses it: the old one is in its place then.
    """
    place = settings.token
    if place is None:
        raise SettingsError(f"{settings.root / FILE} names no token_file and no token_sops.", "Add it: where the token shall stand.")
    opened = connect or (lambda shown: HttpHub(sync.identity_of(settings), shown, settings.ca_file))
    fresh = token.read(TokenSource(source), now)
    _show(opened, fresh)
    before = _current(place, now)
    if check or before == fresh.value:
        return Rotated(place.path, _name(before), _name(fresh.value) or "", before != fresh.value)
    kept = atomic_file.read_text(place.path)
    _put(place, fresh.value, kept, policy)
    try:
        _show(opened, token.read(place, now))
    except PifleetError:
        if kept is not None:
            atomic_file.write_atomic(place.path, kept, place.path.stat().st_mode & 0o777)
        raise
    return Rotated(place.path, _name(before), _name(fresh.value) or "", True)


def _show(connect: Connect, shown: token.Token) -> None:
    with connect(shown) as hub:
        try:
            next(iter(hub.list_events()), None)
        except HubAuthError as error:
            raise token.TokenError(f"The hub refuses the new token: {error.what}", "The old one is still in its place.") from None


def _current(place: TokenSource, now: datetime) -> str | None:
    """The token that is to be replaced. One that has expired, or cannot be read, is replaced all the same."""
    try:
        return token.read(place, now).value
    except token.TokenError:
        return None


def _put(place: TokenSource, value: str, encrypted: str | None, policy: str) -> None:
    if place.key is None:
        atomic_file.write_atomic(place.path, f"{value}\n", 0o600, folder_mode=0o700)
        return
    if encrypted is None:
        raise token.TokenError(f"There is no file {place.path}.", f"Make it first: `sops edit {place.path}`, key {place.key}.")
    written = Sops(policy).with_value(place.path.name, encrypted, place.key, value)
    atomic_file.write_atomic(place.path, written, place.path.stat().st_mode & 0o777)


def _name(value: str | None) -> str | None:
    return hashlib.sha256(value.encode()).hexdigest()[:16] if value else None
