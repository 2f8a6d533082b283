# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands that act on a running server: tokens, snapshots, encryption."""

from __future__ import annotations

import glob
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence

from . import config as settings
from . import datastore, host, log, snapshots
from .config import Config
from .datastore import Etcd, StoreError
from .files import read_or
from .join import JoinError, Supervisor
from .processes import Children
from .release import Release

# Options that `k3s etcd-snapshot` has and `k3s server` has not, or has under another name.
_SNAPSHOT_OPTIONS = {"name": "etcd-snapshot-name", "dir": "etcd-snapshot-dir", "snapshot-retention": "etcd-snapshot-retention"}


def token(words: Sequence[str], release: Release) -> int:
    """``k3s token generate`` and ``k3s token rotate``."""
    del release
    if words[:1] == ["generate"]:
        alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
        sys.stdout.write(
            "".join(secrets.choice(alphabet) for _ in range(6)) + "." + "".join(secrets.choice(alphabet) for _ in range(16)) + "\n"
        )
        return 0
    if words[:1] != ["rotate"]:
        return _unknown("token", words)
    options = _options(words[1:])
    config = _config([])
    old = options.get("token") or options.get("t") or read_or(f"{config.server_dir}/token").strip()
    fresh = options.get("new-token") or secrets.token_hex(16)
    server = Supervisor(options.get("server", f"https://127.0.0.1:{config.port}"), old, "server")
    try:
        server.trust()
        server.post("/v1-k3s/token", json.dumps({"newToken": fresh}))
    except (JoinError, PermissionError) as problem:
        raise log.FatalError(str(problem)) from None
    sys.stdout.write(
        "WARNING: Recommended to keep a record of the old token. If restoring from a snapshot, "
        "you must use the token associated with that snapshot.\n"
        "Token rotated, restart k3s nodes with new token\n"
    )
    return 0


def etcd_snapshot(words: Sequence[str], release: Release) -> int:
    """``k3s etcd-snapshot save|ls|delete|prune``."""
    action = words[0] if words and not words[0].startswith("-") else "save"
    rest = list(words[1:] if words and not words[0].startswith("-") else words)
    names = [word for word in rest if not word.startswith("-")] if action == "delete" else []
    config = _config([word for word in rest if word not in names])
    if datastore.kind_of(config) != datastore.ETCD or not datastore.initialised(config):
        raise log.FatalError("unable to perform etcd snapshot on non-etcd system")
    etcd = Etcd(config, release, Children(), host.node_address(config.items("node-ip")))
    base = config.text("etcd-snapshot-name", "on-demand" if action == "save" else "etcd-snapshot")
    if action == "save":
        try:
            snapshots.save(config, etcd, base)
        except StoreError as problem:
            raise log.FatalError(f"failed to take etcd snapshot: {problem}") from None
    elif action in ("ls", "list", "l"):
        _list(config)
    elif action == "delete":
        for name in names:
            os.unlink(f"{snapshots.folder(config)}/{name}")
            log.info(f"Snapshot {name} deleted.")
    elif action == "prune":
        snapshots.prune(config, base, int(config.text("etcd-snapshot-retention", str(snapshots.RETENTION))))
    else:
        return _unknown("etcd-snapshot", words)
    return 0


def secrets_encrypt(words: Sequence[str], release: Release) -> int:
    """``k3s secrets-encrypt status``."""
    del release
    if words[:1] != ["status"]:
        return _unknown("secrets-encrypt", words)
    on = os.path.exists(f"{_config([]).server_dir}/cred/encryption-config.json")
    sys.stdout.write(
        "Encryption Status: Enabled\nCurrent Rotation Stage: start\n"
        if on
        else "Encryption Status: Disabled, no configuration file found\n"
    )
    return 0


COMMANDS: dict[str, Callable[[Sequence[str], Release], int]] = {
    "token": token,
    "etcd-snapshot": etcd_snapshot,
    "secrets-encrypt": secrets_encrypt,
}


def _list(config: Config) -> None:
    sys.stdout.write(f"{'Name':<60} {'Location':<100} Size      Created\n")
    for path in sorted(glob.glob(f"{snapshots.folder(config)}/*")):
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.path.getmtime(path)))
        sys.stdout.write(f"{os.path.basename(path):<60} {'file://' + path:<100} {os.path.getsize(path):<9} {made}\n")


def _config(words: Sequence[str]) -> Config:
    arguments = []
    for word in words:
        name, separator, value = word.lstrip("-").partition("=")
        arguments.append(f"--{_SNAPSHOT_OPTIONS.get(name, name)}{separator}{value}" if word.startswith("-") else word)
    return settings.load("server", arguments, os.environ)


def _options(words: Sequence[str]) -> dict[str, str]:
    found, rest = {}, list(words)
    while rest:
        name, separator, value = rest.pop(0).lstrip("-").partition("=")
        found[name] = value if separator else (rest.pop(0) if rest else "")
    return found


def _unknown(command: str, words: Sequence[str]) -> int:
    sys.stderr.write(f"k3s stand-in: `k3s {command} {' '.join(words)}` is not part of the lab\n")
    return 127
