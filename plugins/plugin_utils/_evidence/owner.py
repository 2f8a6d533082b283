# SPDX-License-Identifier: GPL-3.0-or-later
"""Which sync services a fleet has: ``owner.json`` names the one that owns the outbox, ``services/`` every one that was started.

The owner also holds a lock for as long as it lives, which the kernel takes back whatever kills it: two services can never both own an
outbox. The records are there to be read by others, who signal no process and wait for no lock.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process, is_gone

STOP = "ansible-playbook playbooks/sync.yml -e mode=stop"


class OwnerError(PifleetError):
    """This service may not own the outbox."""


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """One sync service: its process, when it began, where it answers (loopback *port*), what it runs and for whom."""

    pid: int
    started_at: str
    controller: str
    boot_id: str
    process_started: str
    port: int
    executable_path: str
    source_path: str
    package_version: str
    server_url: str | None
    team_or_user: str | None
    queue_db_path: str

    @property
    def process(self) -> Process:
        return Process(self.controller, self.boot_id, self.pid, self.process_started)

    @property
    def same_identity(self) -> tuple[str | None, str | None, str]:
        """What has to be equal for one service to take over from another."""
        return (self.server_url, self.team_or_user, self.queue_db_path)

    def to_dict(self) -> dict[str, object]:
        """Return the record as it may be shown: passwords in its URLs are masked."""
        return {key: scrub(value) if isinstance(value, str) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Found:
    """A record and the file it stands in; *record* None where the file holds no record. *owner*: whether it names the owner."""

    path: Path
    record: OwnerRecord | None
    owner: bool


def read_all(folder: Path) -> tuple[Found, ...]:
    """Return what stands in *folder* (``Settings.sync_dir``): the owner first, then services beside it that never ended."""
    owner = _look(folder / "owner.json", owner=True)
    others = (_look(path, owner=False) for path in sorted((folder / "services").glob("*.json")))
    beside = tuple(f for f in others if f is not None and (owner is None or f.record is None or f.record != owner.record))
    return ((owner,) if owner else ()) + beside


def forget(found: Found) -> None:
    """Remove a record, unless another has taken its place meanwhile. An owner's stands among the services' too."""
    if found.owner and found.record:
        forget(Found(_own(found.path.parent, found.record), found.record, owner=False))
    if _look(found.path, owner=found.owner) == found:
        found.path.unlink(missing_ok=True)
        atomic_file.fsync_folder(found.path.parent)


class Ownership:
    """One service's hold on the outbox of the fleet whose records are in *folder*."""

    def __init__(self, folder: Path, gone: Callable[[Process], bool] = is_gone) -> None:
        self._folder = folder
        self._gone = gone
        self._lock: int | None = None
        self._record: OwnerRecord | None = None

    def claim(self, record: OwnerRecord) -> None:
        """Become the owner. Raises OwnerError, with nothing changed, where another is it, or one of another identity was and died."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._folder / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(lock, record)
        except BaseException:
            os.close(lock)
            raise
        self._lock, self._record = lock, record

    def _take(self, lock: int, record: OwnerRecord) -> None:
        found = _look(self._folder / "owner.json", owner=True)
        if found is not None and found.record is None:
            raise OwnerError(f"{found.path} is no record of a sync service.", f"Remove it: {STOP}")
        before = found.record if found else None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = f"pid {before.pid} since {before.started_at}" if before else f"see `fuser {self._folder / 'owner.lock'}`"
            raise OwnerError(f"Another pifleet-sync owns this outbox ({who}).", f"Let it work, or end it: {STOP}") from None
        if before is not None and not self._gone(before.process):
            raise OwnerError(f"The pifleet-sync with pid {before.pid} on {before.controller} owns this outbox.", f"End it first: {STOP}")
        if before is not None and before.same_identity != record.same_identity:
            raise OwnerError(
                f"The pifleet-sync that ended without a word (pid {before.pid}) was of another identity: "
                f"{before.team_or_user} at {before.server_url}, ledger {scrub(before.queue_db_path)}.",
                f"Make sure that this is meant, and remove its record: {STOP}",
            )
        text = json.dumps(asdict(record), indent=2) + "\n"
        atomic_file.write_atomic(_own(self._folder, record), text, 0o600, folder_mode=0o700)
        atomic_file.write_atomic(self._folder / "owner.json", text, 0o600, folder_mode=0o700)
        self._forget_dead(record)

    def _forget_dead(self, record: OwnerRecord) -> None:
        """Remove the records of services of this identity that were killed as owners, or while they were becoming or ceasing to be it."""
        for found in read_all(self._folder):
            other = found.record
            if not found.owner and other and other.same_identity == record.same_identity and self._gone(other.process):
                forget(found)

    def held(self) -> bool:
        """Whether this service is the owner still: its record may have been removed or replaced by a person."""
        return self._record is not None and self._record == self._standing()

    def release(self) -> None:
        """End the ownership and remove the records of it."""
        if self._lock is None or self._record is None:
            return
        with suppress(OSError):
            forget(Found(self._folder / "owner.json", self._record, owner=True))
        os.close(self._lock)
        self._lock = self._record = None

    def _standing(self) -> OwnerRecord | None:
        found = _look(self._folder / "owner.json", owner=True)
        return found.record if found else None


def _own(folder: Path, record: OwnerRecord) -> Path:
    return folder / "services" / f"{record.pid}-{record.process_started or 0}.json"


def _look(path: Path, *, owner: bool) -> Found | None:
    try:
        text = atomic_file.read_text(path)
        return None if text is None else Found(path, OwnerRecord(**json.loads(text)), owner)
    except (OSError, ValueError, TypeError):
        return Found(path, None, owner)
