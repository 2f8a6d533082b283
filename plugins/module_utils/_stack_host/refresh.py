# SPDX-License-Identifier: GPL-3.0-or-later
"""Refresh: brings one revision of desired state to a node's stable folder, or leaves the last good one there, and says which.

Between the first and the last renamed file there is a note (``pending.json``): whoever finds it finishes that checkout first, from the
archive that was kept, before anything reconciles by it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import Change
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import checkout, desired_tree, turn
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.checkout import Checkout
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces

#: reasons of a plan, in the order in which one is preferred to another
FIRST, NEW_REVISION, OTHER_FOLDER, INTERRUPTED, DIVERGED = "first", "new_revision", "other_folder", "interrupted", "diverged"
#: a state: it ended, and what it was to bring is in force
COMPLETED = "completed"
_HINTS = {
    errno.ENOSPC: "The disk is full: free some space, then run again.",
    errno.EDQUOT: "The disk quota is used up: free some space, then run again.",
    errno.EROFS: "The file system is read-only: check the SD card (`dmesg`).",
    errno.EACCES: "Run with root rights: set `become: true`.",
}


@dataclass(frozen=True, slots=True)
class Target:
    """The revision that desired state shall have (full commit hash), and its commit message, empty while that is not known yet."""

    revision: str
    commit_message: str


#: a way to be alone with the checked-out files for a moment
Alone = Callable[[], AbstractContextManager[None]]


class Source(Protocol):
    """Where desired state comes from. *wants*: what was asked for, in words of git; *folder*: the part of the repository."""

    @property
    def wants(self) -> str: ...

    @property
    def folder(self) -> str: ...

    def target(self, *, again: bool = False) -> Target:
        """Return which revision it is to be, asking anew if *again*. Raises PifleetError where that cannot be found out."""

    def archive(self, target: Target, into: Path) -> Target:
        """Write the folder at that revision to the file *into*, as a tar archive. Return *target* with its message. Raises PifleetError."""


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """*reason*: why something has to be done, empty when nothing has; *needs_archive*: not even an archive kept on the node will do."""

    target: Target
    reason: str
    needs_archive: bool
    before: str

    @property
    def changes(self) -> tuple[Change, ...]:
        if not self.reason:
            return ()
        subject = scrub(self.target.commit_message.strip().partition("\n")[0])
        after = f"revision {self.target.revision} ({subject})"
        return (Change("desired_state", "stacks", self.reason, f"revision {self.before}" if self.before else "", after),)


@dataclass(frozen=True, slots=True)
class Status:
    """*state*: ``refreshing``, ``queued``, ``completed``, ``failed``, or ``never`` before the first; *revision*: what is checked out and in
    force, *commit_message* its; *at*: when the last refresh ended, UTC; *error*: why it failed; *target*: what is being refreshed to, or
    was asked for last; *waiting*: what waits to be refreshed to next, None when nothing does."""

    state: str
    revision: str
    commit_message: str
    at: str
    error: str
    target: str
    waiting: str | None


def make_plan(places: RefreshPlaces, target: Target, folder: str) -> RefreshPlan:
    """Return what a refresh to *target* has to do. Only reads."""
    active = _noted(places.active)
    before = active.revision if active else ""
    if active is None:
        reason = FIRST
    elif active.revision != target.revision:
        reason = NEW_REVISION
    else:
        reason = OTHER_FOLDER if active.folder != folder else _damage(places, active)
    return RefreshPlan(target, reason, bool(reason) and kept(places, target.revision, folder) is None, before)


def refresh(places: RefreshPlaces, source: Source, clock: turn.Clock, timeout: float) -> RefreshPlan:
    """Bring desired state to what *source* says, and return what there was to do.

    Waits at most *timeout* seconds for its turn. Raises PifleetError with the last good revision still checked out (SupersededError where a
    newer refresh does it); how it ended is in ``status``.
    """
    try:
        with _told():
            plan = make_plan(places, _target_or_repair(places, source, clock, timeout), source.folder)
            if plan.reason:
                with turn.take(places.state, source.wants, clock, timeout):
                    plan = _refresh(places, source, lambda: turn.writing(places.state, clock, timeout))
    except (turn.SupersededError, turn.BusyError):
        raise  # how it ends is told by the one that has the turn
    except PifleetError as error:
        _note(places, source.wants, str(error))
        raise
    with _told():
        _note(places, plan.target.revision, "")
    return plan


def _target_or_repair(places: RefreshPlaces, source: Source, clock: turn.Clock, timeout: float) -> Target:
    try:
        return source.target()
    except PifleetError:
        # nobody to ask: the last good revision has to be whole all the same
        if damage(places):
            with turn.take(places.state, "", clock, timeout):
                _repair(places, lambda: turn.writing(places.state, clock, timeout))
        raise


def _refresh(places: RefreshPlaces, source: Source, alone: Alone) -> RefreshPlan:
    if not places.pending.exists():
        _clear(places)
    target = source.target(again=True)
    plan = make_plan(places, target, source.folder)
    found = kept(places, target.revision, source.folder)
    if found:
        _check_out(places, *found, alone)
    elif plan.reason:
        _check_out(places, source.archive(target, places.incoming), source.folder, places.incoming, alone)
    return plan


def damage(places: RefreshPlaces) -> str:
    """Return ``interrupted`` or ``diverged`` where what is checked out is not the revision it is said to be, else nothing. Only reads."""
    active = _noted(places.active)
    return _damage(places, active) if active else (INTERRUPTED if places.pending.exists() else "")


def _damage(places: RefreshPlaces, active: Checkout) -> str:
    if places.pending.exists():
        return INTERRUPTED
    whole = (places.tree / active.folder).is_dir() and not _differences(places, active.files, active.files, active.folder)
    return "" if whole else DIVERGED


def kept(places: RefreshPlaces, revision: str = "", folder: str = "") -> tuple[Target, str, Path] | None:
    """Return (revision, folder, archive) of what the node has whole: of *revision* and *folder*, or whatever a repair would bring back."""
    for noted in (_noted(places.pending), _noted(places.active)):
        if noted and (not revision or (noted.revision, noted.folder) == (revision, folder)):
            archive = _kept_archive(places, noted)
            if archive:
                return Target(noted.revision, noted.commit_message), noted.folder, archive
    return None


def _repair(places: RefreshPlaces, alone: Alone) -> None:
    """Finish a checkout that was cut off, or bring back what is in force. From what is on the node alone."""
    found = kept(places)
    if found:
        _check_out(places, *found, alone)


def _kept_archive(places: RefreshPlaces, noted: Checkout) -> Path | None:
    """Return the undamaged archive of a checkout, None where there is none any more."""
    return next((path for path in (places.archive, places.incoming) if desired_tree.sha256_of(path) == noted.archive_sha256), None)


def _check_out(places: RefreshPlaces, target: Target, folder: str, archive: Path, alone: Alone) -> None:
    digest = desired_tree.sha256_of(archive) or ""
    wanted = Checkout(target.revision, target.commit_message, folder, digest, desired_tree.read_manifest(archive))
    before = {**_files(_noted(places.active)), **_files(_noted(places.pending))}
    found = _differences(places, wanted.files, before, folder)
    # a link of somebody else in the place of the folder would lead the writes elsewhere
    if places.tree.is_symlink():
        places.tree.unlink()
    places.tree.mkdir(mode=0o755, parents=True, exist_ok=True)
    desired_tree.stage(archive, places.staging, places.tree, found)
    if found:
        # with the files of before, so that what has to go is known to whoever finishes this
        pending = Checkout(wanted.revision, wanted.commit_message, folder, digest, {**before, **wanted.files})
        with alone():
            atomic_file.write_atomic(places.pending, checkout.to_json(pending))
            desired_tree.carry_out(places.staging, places.tree, found)
        left = _differences(places, wanted.files, before, folder)
        if left:
            what = f"{places.tree / left[0].path} is {left[0].reason} again right after the checkout."
            raise PifleetError(what, "Something else writes there: stop it, and run again.")
    desired_tree.make_folder(places.tree, places.tree / folder)  # git has no empty folder: without stacks it is one all the same
    if archive != places.archive:
        os.replace(archive, places.archive)
    atomic_file.write_atomic(places.active, checkout.to_json(wanted))
    places.pending.unlink(missing_ok=True)
    _clear(places)


def _differences(
    places: RefreshPlaces, wanted: checkout.Manifest, before: checkout.Manifest, folder: str
) -> tuple[desired_tree.Difference, ...]:
    """What is not as wanted, without the folders of stacks that are held at a revision: they keep the files of that."""
    found = desired_tree.differences(places.tree, wanted, before, folder)
    if not found:
        return found
    from ansible_collections.pifleet.ops.plugins.module_utils._stacks import state  # here: where nothing differs, it is not needed

    held = tuple(f"{folder}/{name}/" for name in state.pinned(str(places.records)))
    return tuple(difference for difference in found if not difference.path.startswith(held))


def _clear(places: RefreshPlaces) -> None:
    """Remove what is only needed during a checkout."""
    desired_tree.discard(places.staging)
    places.incoming.unlink(missing_ok=True)
    atomic_file.fsync_folder(places.state)


def _files(noted: Checkout | None) -> checkout.Manifest:
    return noted.files if noted else {}


def _noted(path: Path) -> Checkout | None:
    return checkout.from_json(atomic_file.read_text(path))


@contextmanager
def _told() -> Iterator[None]:
    """What the disk refuses is told as what a person can act on."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise PifleetError(
            f"Desired state cannot be written: {error.strerror or error}{where}. The last good revision stays in force.",
            _HINTS.get(error.errno or 0, ""),
        ) from error


class Kept:
    """Source: what is in force already, where nothing is fetched. What an edit or a kill damaged is brought back."""

    wants = ""

    def __init__(self, places: RefreshPlaces) -> None:
        self._active = _noted(places.active) or _noted(places.pending)

    @property
    def folder(self) -> str:
        return self._active.folder if self._active else ""

    def target(self, *, again: bool = False) -> Target:
        del again
        if not self._active:
            raise PifleetError("There is no desired state on this node yet.", "Run site.yml, which brings it.")
        return Target(self._active.revision, self._active.commit_message)

    def archive(self, target: Target, into: Path) -> Target:
        del into
        what = f"The checked-out desired state is damaged, and its archive too: revision {target.revision} cannot be brought back."
        raise PifleetError(what, "Run site.yml, which brings it again.")


# ---------------------------------------------------------------------------------------------------------------- status
def status(places: RefreshPlaces) -> Status:
    """Return how the refresh is. Only reads."""
    active = _noted(places.active)
    turns = turn.look(places.state)
    noted, at = _outcome(places)
    error = str(noted.get("error") or "")
    if not error and places.pending.exists() and not turns.running:
        error = "A checkout was cut off. The next refresh finishes it first."
    ended = "failed" if error else COMPLETED if active else "never"
    return Status(
        state="refreshing" if turns.running else "queued" if turns.waiting else ended,
        revision=active.revision if active else "",
        commit_message=active.commit_message if active else "",
        at=at,
        error=error,
        target=turns.running.wants if turns.running else str(noted.get("target") or ""),
        waiting=turns.waiting.wants if turns.waiting else None,
    )


def _note(places: RefreshPlaces, target: str, error: str) -> None:
    """Note how a refresh ended. The file's time says when; its content is written only when it is another one, which spares the SD card."""
    text = json.dumps({"target": target, "error": scrub(error)})
    try:
        if atomic_file.read_text(places.outcome) == text:
            os.utime(places.outcome)
        else:
            atomic_file.write_atomic(places.outcome, text)
    except OSError:
        if not error:
            raise  # a full disk must not hide why the refresh failed; that it completed has to be known


def _outcome(places: RefreshPlaces) -> tuple[dict[str, object], str]:
    try:
        noted = json.loads(atomic_file.read_text(places.outcome) or "{}")
        at = datetime.fromtimestamp(places.outcome.stat().st_mtime, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OSError):
        return {}, ""
    return (noted if isinstance(noted, dict) else {}), at
