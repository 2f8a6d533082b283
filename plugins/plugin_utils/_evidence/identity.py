# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose evidence it is and which hub it goes to: ``evidence.yml`` in the fleet's folder, the one place that says so.

Playbooks, the service and the preflight all read this file, so that none can believe something else. It holds no secret and is meant to be
committed. Without it, or without ``hub_url`` in it, the fleet has no identity yet.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file, exposition
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root

FILE = "evidence.yml"
#: rows that an outbox holds, both of its tables together
LIMIT = 100_000
#: how often a row is refused by the hub before it becomes a dead letter
ATTEMPTS = 5
#: the scope of rows that were queued before the fleet had an identity
LEGACY = ""

KEYS = frozenset(
    (
        "hub_url",
        "owner",
        "fleet",
        "token_file",
        "token_sops",
        "ca_file",
        "ledger_url",
        "legacy_ledger",
        "outbox_limit",
        "outbox_attempts",
        "textfile",
    )
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_COLLECTION = Path(__file__).resolve().parents[3]


class SettingsError(PifleetError):
    """``evidence.yml`` cannot be used."""


def prefix_of(scope: str) -> str:
    """Return owner and fleet of a scope, up to its hub."""
    return scope.partition("@")[0] + "@"


@dataclass(frozen=True, slots=True)
class Identity:
    """*owner*: team or user; *fleet*: which of its fleets; *hub_url*: where its evidence goes."""

    owner: str
    fleet: str
    hub_url: str

    @property
    def team_or_user(self) -> str:
        return f"{self.owner}/{self.fleet}"

    @property
    def scope(self) -> str:
        """What its rows in the outbox carry. Version and path of the ledger are no part of it: both change and the rows stay its own."""
        return f"{self.team_or_user}@{self.hub_url}"

    @property
    def prefix(self) -> str:
        """What the scopes of this owner and fleet begin with, whatever hub they are for: neither name has an ``@``."""
        return prefix_of(self.scope)


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Where the token for the hub comes from: a file of mode 0600, or *key* of a SOPS file."""

    path: Path
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``evidence.yml`` of *root* says; *identity* None where there is none."""

    root: Path
    identity: Identity | None = None
    token: TokenSource | None = None
    ca_file: Path | None = None
    #: SQLAlchemy URL of a shared ledger, None for the file of the fleet's folder
    ledger_url: str | None = None
    #: where an earlier ledger's rows still wait, beside the ledger in use
    legacy_ledger: Path | None = None
    #: file for node-exporter that gets figures of the ledger
    textfile: Path | None = None
    limit: int = LIMIT
    attempts: int = ATTEMPTS

    @property
    def scope(self) -> str:
        return self.identity.scope if self.identity else LEGACY

    @property
    def default_ledger(self) -> Path:
        return _fleet_root.state_dir(self.root) / "ledger.db"

    @property
    def sync_dir(self) -> Path:
        """The folder of the sync service's records."""
        return _fleet_root.state_dir(self.root) / "sync"


def load(root: Path) -> Settings:
    """Return the settings of the fleet in *root*. Raises SettingsError for a file that cannot be used: which key, and what it takes."""
    path = root / FILE
    try:
        text = atomic_file.read_text(path)
        found = yaml.safe_load(text) if text is not None else None
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} cannot be read: {' '.join(str(error).split())}.", "Correct the file.") from error
    if found is None:
        return Settings(root)
    if not isinstance(found, Mapping):
        raise SettingsError(f"{path} is no table of keys and values.", f"Its keys are {', '.join(sorted(KEYS))}.")
    return _Reader(path, root, found).settings()


def executable_path() -> str:
    """Return the Python that runs, by the name that does not depend on how it was called (``python``, ``python3``)."""
    folder = Path(sys.executable).parent.resolve()
    versioned = folder / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(versioned) if versioned.exists() else os.path.abspath(sys.executable)


def source_path() -> str:
    """Return the folder of the collection whose code runs."""
    return str(_COLLECTION)


class _Reader:
    """Reads one file, and says of each key what is wrong with it."""

    def __init__(self, path: Path, root: Path, found: Mapping[str, Any]) -> None:
        self._path = path
        self._root = root
        self._found = found

    def settings(self) -> Settings:
        unknown = sorted(str(key) for key in set(self._found) - KEYS)
        if unknown:
            raise SettingsError(f"{self._path} has the unknown key {unknown[0]}.", f"Its keys are {', '.join(sorted(KEYS))}.")
        limit, attempts = self._number("outbox_limit"), self._number("outbox_attempts")
        return Settings(
            root=self._root,
            identity=self._identity(self._url("hub_url"), self._name("owner"), self._name("fleet")),
            token=self._token(self._file("token_file"), self._sops("token_sops")),
            ca_file=self._file("ca_file"),
            ledger_url=self._text("ledger_url"),
            legacy_ledger=self._file("legacy_ledger"),
            textfile=self._textfile(),
            limit=LIMIT if limit is None else limit,
            attempts=ATTEMPTS if attempts is None else attempts,
        )

    def _identity(self, hub_url: str | None, owner: str | None, fleet: str | None) -> Identity | None:
        if hub_url is None:
            return None
        if owner is None:
            raise self._wrong("owner", "is missing, though there is a hub_url", "Name the team or user whose evidence this is.")
        if fleet is None:
            raise self._wrong("fleet", "is missing, though there is a hub_url", "Name the fleet.")
        return Identity(owner, fleet, hub_url)

    def _token(self, path: Path | None, sops: TokenSource | None) -> TokenSource | None:
        if path and sops:
            raise self._wrong("token_sops", "stands beside token_file", "Keep one of them.")
        return TokenSource(path) if path else sops

    def _text(self, key: str) -> str | None:
        value = self._found.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise self._wrong(key, "is no text", "Put it in quotes, or leave the key out.")
        return value

    def _name(self, key: str) -> str | None:
        value = self._text(key)
        if value is not None and not _NAME.fullmatch(value):
            raise self._wrong(key, f"is {value!r}", "It takes 1 to 63 letters, digits, dots, hyphens and underscores.")
        return value

    def _number(self, key: str) -> int | None:
        value = self._found.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise self._wrong(key, f"is {value!r}", "It takes a whole number above 0.")
        return value

    def _file(self, key: str) -> Path | None:
        value = self._text(key)
        return None if value is None else self._root / Path(value).expanduser()

    def _textfile(self) -> Path | None:
        path = self._file("textfile")
        if path is not None and path.suffix != exposition.SUFFIX:
            raise self._wrong("textfile", f"is {path.name}", f"node-exporter reads files that end with {exposition.SUFFIX} alone.")
        return path

    def _url(self, key: str) -> str | None:
        value = self._text(key)
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            host, _port = parts.hostname, parts.port
        except ValueError:
            raise self._wrong(key, "is no URL", "Write it as https://HOST:PORT.") from None
        if parts.scheme not in ("https", "http") or not host or parts.query or parts.fragment:
            raise self._wrong(key, "is no URL of a hub", "Write it as https://HOST:PORT.")
        if parts.username is not None or parts.password is not None:
            raise self._wrong(key, "contains credentials", "The token belongs into token_file.")
        if parts.scheme == "http" and host not in _LOOPBACK:
            raise self._wrong(key, "is not encrypted", "Use https; http is for a hub on the same machine.")
        return value.rstrip("/")

    def _sops(self, key: str) -> TokenSource | None:
        value = self._found.get(key)
        if value is None:
            return None
        whole = isinstance(value, Mapping) and set(value) == {"file", "key"} and all(isinstance(v, str) and v for v in value.values())
        if not whole or not _NAME.fullmatch(value["key"]):
            raise self._wrong(key, "is no table of file and key", "Write it as {file: secrets/hub.sops.yml, key: hub_token}.")
        return TokenSource(self._root / Path(value["file"]).expanduser(), value["key"])

    def _wrong(self, key: str, what: str, hint: str) -> SettingsError:
        return SettingsError(f"{self._path}: {key} {what}.", hint)
