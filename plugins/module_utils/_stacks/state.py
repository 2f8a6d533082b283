# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of each stack on its node: one JSON file, whole or not at all, that only root can read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import MISSING, Options, Service, Stack

#: Raised when the form of the file changes in a way that older code would misread. Another version's file counts as lost.
VERSION = 1
SUFFIX = ".json"
#: Seconds after which a file under its temporary name is nobody's: a write takes less.
_LITTER = 600.0


@dataclass(frozen=True, slots=True)
class Applied:
    """One service as it was last applied and verified.

    *service*: what it was to be; *labels*: what its containers were given, which differs when they were not all made at a time;
    *limits*, *mounts*, *shape*: what they then looked like; *containers*: restarts by id, of those that were seen; *finished*: they had
    ended with 0 by themselves.
    """

    service: Service
    labels: tuple[Mapping[str, str], ...]
    limits: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()
    shape: str = ""
    containers: Mapping[str, int] = field(default_factory=dict)
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """All that is kept of one stack. The first fields are those of ``model.Status``.

    *failures*: failed attempts one after the other at *failed_inputs* (revision and content); *attempt*: labels by service that an apply
    was about to give; *applied*, *networks*, *volumes*: the last verified sync, made of *inputs*, with *content* in its
    folder; *stack*: what Compose made of the desired state when its fingerprint was *fingerprint*; *outside*: digests of files elsewhere
    that it then used; *sops*: digests of encrypted and decrypted files by path; *pinned*: the revision that the stack is held at;
    *removing*: its removal was begun and has not ended, whether it was cut off or failed.
    """

    name: str
    project: str
    owner: str
    status: str = MISSING
    revision: str = ""
    compose_hash: str = ""
    commit_message: str = ""
    last_sync_at: str = ""
    last_attempt_at: str = ""
    last_sync_status: str = ""
    last_error: str = ""
    retry_at: float = 0.0
    failures: int = 0
    failed_inputs: str = ""
    attempt: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    applied: Mapping[str, Applied] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    inputs: str = ""
    stack: Stack | None = None
    fingerprint: str = ""
    outside: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, str] = field(default_factory=dict)
    sops: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    pinned: str = ""
    removing: bool = False


def load(folder: str) -> tuple[dict[str, Record], list[str]]:
    """Return the records in *folder* by project, and a warning for each file that cannot be used (its stack counts as having none)."""
    records: dict[str, Record] = {}
    warnings = []
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX) and not name.startswith("."))
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        raise PifleetError(f"{folder}: what is kept of the stacks cannot be read: {error.strerror}.") from None
    for name in names:
        path = os.path.join(folder, name)
        try:
            record = _record(json.loads(atomic_file.read_bytes(path) or b"null"))
        except (ValueError, TypeError, KeyError, AttributeError, OSError):
            warnings.append(f"{path} is damaged: what it said is recovered from the labels of the containers.")
            continue
        records[name[: -len(SUFFIX)]] = record
    return records, warnings


def load_one(folder: str, project: str, owner: str) -> Record | None:
    """Return the record of one stack of *owner*, None where there is none that can be used."""
    try:
        record = _record(json.loads(atomic_file.read_bytes(os.path.join(folder, project + SUFFIX)) or b"null"))
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return None
    return record if record.owner == owner else None


def pinned(folder: str) -> list[str]:
    """Return the names of the stacks that are held at a revision."""
    return sorted(record.name for record in load(folder)[0].values() if record.pinned)


def save(folder: str, record: Record) -> None:
    """Keep *record*. Raises PifleetError where the disk does not take it; what was kept before then stays."""
    text = json.dumps({"version": VERSION, **asdict(record)}, separators=(",", ":"), ensure_ascii=False)
    write(os.path.join(folder, record.project + SUFFIX), text)


def write(path: str, text: str) -> None:
    """Write a file that only root can read. Raises PifleetError where the disk does not take it."""
    try:
        atomic_file.write_atomic(path, text.encode(errors="surrogatepass"), 0o600, folder_mode=0o700)
    except OSError as error:
        raise PifleetError(
            f"{path} cannot be written: {error.strerror}.", "Make room, or make it writable; what it said before is kept."
        ) from None


def sweep(folder: str, now: float) -> None:
    """Remove files that runs which were killed in the middle of a write left behind. *now*: seconds since the epoch."""
    try:
        for entry in os.scandir(folder):
            if entry.name.startswith(".") and entry.name.endswith(".new") and now - entry.stat(follow_symlinks=False).st_mtime > _LITTER:
                os.unlink(entry.path)
    except OSError:
        return  # another run was quicker, or there is no folder yet: nothing depends on it


def forget(folder: str, project: str) -> None:
    """Remove what is kept of a stack."""
    removed = False
    for suffix in (SUFFIX, ".override.yaml", ".acknowledged"):
        try:
            os.unlink(os.path.join(folder, project + suffix))
            removed = True
        except FileNotFoundError:
            pass
    if removed:
        atomic_file.fsync_folder(folder)


# -- from JSON ------------------------------------------------------------------------------------------------------------------------
def _record(table: Mapping[str, Any]) -> Record:
    if table["version"] != VERSION:
        raise ValueError("another version")
    known = {f.name: table[f.name] for f in fields(Record) if f.name in table}
    known["stack"] = _stack(table["stack"]) if table.get("stack") else None
    known["applied"] = {name: _applied(entry) for name, entry in table.get("applied", {}).items()}
    known["sops"] = {path: (pair[0], pair[1]) for path, pair in table.get("sops", {}).items()}
    return Record(**known)


def _stack(table: Mapping[str, Any]) -> Stack:
    services = {name: _service(entry) for name, entry in table["services"].items()}
    options = Options(**{key: _tuple(value) for key, value in table["options"].items()})
    return Stack(**{**table, "services": services, "options": options, "disabled": tuple(table["disabled"])})


def _service(table: Mapping[str, Any]) -> Service:
    return Service(**{key: _tuple(value) for key, value in table.items()})


def _applied(table: Mapping[str, Any]) -> Applied:
    return Applied(**{**table, "service": _service(table["service"]), "mounts": tuple(table["mounts"]), "labels": tuple(table["labels"])})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
