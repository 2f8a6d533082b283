# SPDX-License-Identifier: GPL-3.0-or-later
"""Merges the fleet's context into a kubeconfig without touching anything else in it.

``merge`` is pure; ``replace_file`` carries it out under kubectl's own lock.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import MASK
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import credentials
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import process
from ansible_collections.pifleet.ops.plugins.plugin_utils._yaml_text import Dumper

MODE = 0o600
#: seconds to wait for kubectl or another run to be done with the file
LOCK_SECONDS = 20.0

_SECRET_KEYS = ("client-key-data", "token", "password")
_LONG_KEYS = ("certificate-authority-data", "client-certificate-data")
#: settings that contradict those of k3s: kubectl refuses a cluster with both
_REPLACED = {"certificate-authority", "insecure-skip-tls-verify"}


class KubeconfigError(PifleetError):
    """A kubeconfig cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The one cluster and user of a server's k3s.yaml."""

    cluster: Mapping[str, Any]
    user: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Merged:
    """*text*: the whole file as it is to be; *before*, *after*: the fleet's own entries for a diff, secrets masked."""

    text: str
    changed: bool
    before: str
    after: str


@dataclass(frozen=True)
class _Verbatim:
    """A number, a date, a truth value: kept as it was written, because YAML libraries write some of them differently."""

    tag: str
    text: str


class _Loader(yaml.SafeLoader):
    """Reads every plain scalar that is no text as _Verbatim."""


class _Dumper(Dumper):
    """Writes them back as they were."""


def _keep(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> object:
    return None if node.tag.endswith(":null") else _Verbatim(node.tag, str(loader.construct_scalar(node)))


for _kind in ("bool", "int", "float", "timestamp", "null"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _keep)
_Dumper.add_representer(_Verbatim, lambda dumper, data: dumper.represent_scalar(data.tag, data.text))


def parse(text: str, where: str) -> dict[str, Any]:
    """Return a kubeconfig as data. Raises KubeconfigError, naming *where*, for anything else."""
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError as error:
        raise KubeconfigError(
            f"{where} is no valid YAML: {' '.join(str(error).split())}.", "Correct it or move it away; it was left alone."
        ) from error
    if data is None:
        return {}
    ours = isinstance(data, dict) and all(
        data.get(part) is None or (isinstance(data[part], list) and all(isinstance(e, dict) and e.get("name") for e in data[part]))
        for part in ("clusters", "users", "contexts")
    )
    if not ours:
        raise KubeconfigError(f"{where} is no kubeconfig.", "Correct it or move it away; it was left alone.")
    return dict(data)


def parse_fetched(text: str, where: str) -> Fetched:
    """Return cluster and user of the context that a server's k3s.yaml uses."""
    data = parse(text, where)
    context = _entry(data, "contexts", data.get("current-context") or "default").get("context") or {}
    cluster = _entry(data, "clusters", context.get("cluster")).get("cluster")
    user = _entry(data, "users", context.get("user")).get("user")
    if not cluster or not user or not cluster.get("certificate-authority-data") or not user.get("client-key-data"):
        raise KubeconfigError(f"{where} is not whole.", "Wait until k3s is up there (`systemctl status k3s`) and run again.")
    return Fetched(cluster, user)


def held(path: Path, context: str, sha256: str) -> Fetched | None:
    """Return the credentials that *context* has in the kubeconfig *path*, None where they are not those with the digest *sha256*."""
    if not sha256:
        return None
    try:
        data = parse(_read(path) or "", str(path))
    except OSError:
        return None  # whoever writes it will say why
    cluster, user = _entry(data, "clusters", context).get("cluster"), _entry(data, "users", context).get("user")
    if not isinstance(cluster, dict) or not isinstance(user, dict) or credentials.digest({**cluster, **user}) != sha256:
        return None
    return Fetched({credentials.KEYS[0]: cluster[credentials.KEYS[0]]}, {key: user[key] for key in credentials.KEYS[1:]})


def ca_sha256(fetched: Fetched) -> str:
    """The SHA-256 of the certificate of the cluster's authority, as a file of it has."""
    return hashlib.sha256(base64.b64decode(fetched.cluster[credentials.KEYS[0]])).hexdigest()


def check_server(server: str) -> str:
    """Return *server*, or raise KubeconfigError unless it is the URL of an API."""
    try:
        parts = urlsplit(server)
        good = parts.scheme == "https" and parts.hostname and (parts.port or 443) and parts.path in ("", "/") and not parts.username
    except ValueError:
        good = False
    if not good:
        raise KubeconfigError(f"server is {server!r}, which is no address of an API.", "Write it such as https://192.0.2.10:6443.")
    return server


def merge(existing: str | None, where: str, fetched: Fetched | None, context: str, server: str) -> Merged:
    """Return *existing* with cluster, user and context of the name *context* as they are to be.

    *fetched* None: not known yet (check mode before the first bootstrap); the result then is a change, and its text is *existing*.
    What others added to the cluster (a proxy) or to the context (a namespace) stays. The current context is set only where there is none.
    Raises KubeconfigError where a context of that name belongs to another cluster.
    """
    data = parse(existing or "", where)
    theirs = _entry(data, "contexts", context).get("context") or {}
    if theirs and (theirs.get("cluster"), theirs.get("user")) != (context, context):
        raise KubeconfigError(
            f"{where} has a context {context!r} already, of the cluster {theirs.get('cluster')!r}; it was left alone.",
            "Choose another k3s_kubeconfig_context (or fleet_name), or rename that one: `kubectl config rename-context`.",
        )
    before = _shown(data, context)
    if fetched is None:
        return Merged(
            existing or "", True, before, f"clusters:\n- name: {context}\n  cluster:\n    server: {server}\n    # the rest is made by k3s\n"
        )
    old_cluster = {k: v for k, v in (_entry(data, "clusters", context).get("cluster") or {}).items() if k not in _REPLACED}
    merged = dict(data)
    merged.setdefault("apiVersion", "v1")
    merged.setdefault("kind", "Config")
    merged["clusters"] = _with(data, "clusters", context, "cluster", {**old_cluster, **fetched.cluster, "server": server})
    merged["users"] = _with(data, "users", context, "user", dict(fetched.user))
    merged["contexts"] = _with(data, "contexts", context, "context", {**theirs, "cluster": context, "user": context})
    merged["current-context"] = data.get("current-context") or context
    if merged == data:
        return Merged(existing or "", False, before, before)
    return Merged(_dump(merged), True, before, _shown(merged, context))


def _entry(data: Mapping[str, Any], part: str, name: object) -> dict[str, Any]:
    return next((e for e in data.get(part) or () if e["name"] == name), {})


def _with(data: Mapping[str, Any], part: str, name: str, key: str, value: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of *part* with that of *name* changed in its place, or added at the end."""
    entries = list(data.get(part) or ())
    if not any(e["name"] == name for e in entries):
        return [*entries, {"name": name, key: value}]
    return [{**e, key: value} if e["name"] == name else e for e in entries]


def _dump(data: object) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1 << 20)


def _shown(data: Mapping[str, Any], name: str) -> str:
    """The fleet's entries for a person: keys masked, certificates as fingerprints of their text."""
    found: dict[str, Any] = {
        part: _masked(_entry(data, part, name)) for part in ("clusters", "contexts", "users") if _entry(data, part, name)
    }
    if found:
        found["current-context"] = data.get("current-context")
    return _dump(found) if found else ""


def _masked(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        key: MASK
        if key in _SECRET_KEYS
        else f"(sha256 {hashlib.sha256(str(part).encode()).hexdigest()[:12]})"
        if key in _LONG_KEYS
        else _masked(part)
        for key, part in value.items()
    }


def replace_file(path: Path, change: Callable[[str | None], Merged], *, check: bool) -> Merged:
    """Apply *change* to the file's text under the lock, and write it (0600) where something differs; a symlink stays one.

    Raises KubeconfigError for a file that cannot be read or written. In check mode nothing is written, and no lock taken.
    """
    target = Path(os.path.realpath(path))
    try:
        if check:
            return _with_mode(target, change(_read(target)))
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, parents=True)
        with locked(target):
            merged = _with_mode(target, change(_read(target)))
            if merged.changed:
                atomic_file.write_atomic(target, merged.text, mode=MODE)
            return merged
    except OSError as error:
        raise KubeconfigError(
            f"{path} cannot be written on the controller: {error.strerror or error}.",
            "Make room or give access, or set k3s_kubeconfig_path to another file.",
        ) from error


def _with_mode(target: Path, merged: Merged) -> Merged:
    """A file that others can read is a difference too: it has keys in it."""
    if merged.changed or not target.exists():
        return merged
    mode = stat.S_IMODE(target.stat().st_mode)
    if mode & 0o077 == 0:
        return merged
    return Merged(merged.text, True, f"mode: {mode:04o}\n{merged.before}", f"mode: {MODE:04o}\n{merged.after}")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise KubeconfigError(f"{path} is no text.", "Correct it or move it away; it was left alone.") from error


@contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold *path* against other runs (lock on its folder, gone with the process) and against kubectl.

    kubectl's lock is the existence of ``<path>.lock``. Ours has our process in it, so that one left by a killed run is known to be stale.
    """
    deadline = time.monotonic() + seconds
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while not _flock(folder):
            _wait(path, deadline)
        lock = path.with_name(f"{path.name}.lock")
        while not _take(lock):
            _wait(lock, deadline)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(folder)


def _wait(path: Path, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise KubeconfigError(
            f"{path} is in use by another program.", f"If no kubectl runs, remove {path} where it ends in .lock, and run again."
        )
    time.sleep(0.05)


def _flock(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take(lock: Path) -> bool:
    me = process.identify(os.getpid())
    try:
        fd = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        if _is_stale(lock):
            lock.unlink(missing_ok=True)
        return False
    with os.fdopen(fd, "w") as stream:
        stream.write(f"pifleet {me.pid} {me.started} {me.boot_id} {me.controller}\n")
    return True


def _is_stale(lock: Path) -> bool:
    words = (atomic_file.read_text(lock) or "").split()
    if len(words) != 5 or words[0] != "pifleet":
        return False
    return process.is_gone(process.Process(words[4], words[3], int(words[1]), words[2]))
