# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of stack_host: plan, ask the controller for what the plan needs, then predict or carry out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import Change
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import desired_tree, host_plan, refresh, turn
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.git import Access, RemoteRepository
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.host_apply import HostApplier
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.host_plan import HostPlan, Wanted
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.node import Node
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.refresh import RefreshPlan, Source, Status, Target

ARCHIVE = "archive"
PROGRAM = "program"
SUPERSEDED = "superseded"
_TEMPORARY = "/run/pifleet"
_LEFT_OVER = 3600.0  # seconds after which what a killed check left is removed by the next one


@dataclass(frozen=True, slots=True)
class Request:
    """*host*: what the node shall have; *access* and *revision*: of the repository that it fetches, None where desired state is what the
    controller has *checked out*; *folder*: of stacks in the repository; *refresh*: whether desired state is refreshed at all; *stacks*:
    names of those that may run here, None where that is not known; *sent*: where the controller's files are on the node, by name;
    *timeout*: seconds for a refresh; *lock_timeout*: seconds to wait for apt's locks."""

    host: Wanted
    folder: str
    access: Access | None = None
    revision: str = ""
    checked_out: Target | None = None
    refresh: bool = True
    stacks: tuple[str, ...] | None = None
    sent: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 300.0
    lock_timeout: float = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """*missing*: names of what the controller has to send first: nothing was done then. *path*: the folder of stacks to reconcile by,
    below *temporary* where that is not empty; *home*: the stable one."""

    changes: tuple[Change, ...]
    status: Status
    path: str
    home: str
    temporary: str = ""
    missing: tuple[str, ...] = ()


class Sent:
    """Source: what the controller has checked out, as an archive that it sends when it is needed."""

    def __init__(self, target: Target, folder: str, archive: str) -> None:
        self._target, self._archive = target, archive
        self.folder = folder

    @property
    def wants(self) -> str:
        return self._target.revision

    def target(self, *, again: bool = False) -> Target:
        del again
        return self._target

    def archive(self, target: Target, into: Path) -> Target:
        shutil.copyfile(self._archive, into)
        return target


class Preparation:
    """Works on the node below *root*, through *run*. *fetch*: returns the text at a URL."""

    def __init__(self, request: Request, run: Runner, clock: turn.Clock, root: str, fetch: Callable[[str], str]) -> None:
        self._request, self._run, self._clock, self._root, self._fetch = request, run, clock, root, fetch
        self._node = Node(root, run)
        self._places = RefreshPlaces.below(root)
        self._home = str(self._places.tree / request.folder)

    def prepare(self, *, check: bool) -> Outcome:
        """Carry out what is wanted, or with *check* predict it. Raises PifleetError."""
        host = host_plan.make_plan(self._node, self._request.host)
        source = self._source(check)
        # what a repository has can only be asked once there is a git: in a check, the controller asks instead
        desired = refresh.make_plan(self._places, source.target(), source.folder) if source and not self._lacks_git() else None
        missing = self._missing(host, source, desired, check)
        if missing:
            return self._outcome((), missing=missing)
        if check:
            return self._predict(host, source, desired)
        self._carry_out(host)
        return self._refreshed(host.changes, source)

    # ------------------------------------------------------------------------------------------------------------ source
    def _source(self, check: bool) -> Source | None:
        request = self._request
        if not request.refresh:
            return None
        if request.checked_out and (not request.access or (check and ARCHIVE in request.sent)):
            return Sent(request.checked_out, request.folder, request.sent.get(ARCHIVE, ""))
        if request.access:
            clone = self._places.repository
            return RemoteRepository(self._run, request.access, request.revision, request.folder, clone, request.timeout)
        return refresh.Kept(self._places) if self._places.active.exists() else None

    def _lacks_git(self) -> bool:
        return (
            self._request.refresh
            and self._request.access is not None
            and ARCHIVE not in self._request.sent
            and not self._node.exists("/usr/bin/git")
        )

    def _missing(self, host: HostPlan, source: Source | None, desired: RefreshPlan | None, check: bool) -> tuple[str, ...]:
        needed: list[str] = []
        if not check:
            needed += [*host.debs, *host.images, *([PROGRAM] if host.program else [])]
        sends = isinstance(source, Sent) and desired is not None and desired.needs_archive
        if sends or (check and self._lacks_git()):
            needed.append(ARCHIVE)
        return tuple(name for name in needed if name not in self._request.sent)

    # ----------------------------------------------------------------------------------------------------------- outcome
    def _outcome(self, changes: tuple[Change, ...], **more: Any) -> Outcome:
        return Outcome(**{"changes": changes, "status": refresh.status(self._places), "path": self._home, "home": self._home, **more})

    def _carry_out(self, host: HostPlan) -> None:
        if not host.steps:
            return
        applier = HostApplier(self._root, self._run, self._clock, self._request.lock_timeout, self._request.sent, self._fetch)
        applier.carry_out(host, self._request.host.origin.fingerprint)
        left = host_plan.make_plan(self._node, self._request.host)
        if left.changes:
            items = "; ".join(f"{c.kind} {c.target} ({c.reason})" for c in left.changes)
            raise PifleetError(f"Done, and yet not in effect: {items}.", "Another tool may undo it.")

    def _refreshed(self, changes: tuple[Change, ...], source: Source | None) -> Outcome:
        if source is None:
            return self._outcome(changes)
        try:
            plan = refresh.refresh(self._places, source, self._clock, self._request.timeout)
        except turn.SupersededError as newer:
            status = replace(refresh.status(self._places), state=SUPERSEDED, error=str(newer))
            return self._outcome(changes, status=status)
        # another one, of the timer, may be under way by now: that is no word about this one
        status = replace(refresh.status(self._places), state=refresh.COMPLETED, error="")
        return self._outcome((*changes, *plan.changes), status=status)

    def _predict(self, host: HostPlan, source: Source | None, desired: RefreshPlan | None) -> Outcome:
        if source is None or desired is None or not desired.reason:
            return self._outcome(host.changes)
        temporary = self._temporary()
        try:
            target = self._extract(source, desired, Path(temporary))
        except BaseException:
            desired_tree.discard(Path(temporary))
            raise
        status = replace(refresh.status(self._places), revision=target.revision, commit_message=target.commit_message)
        path = os.path.join(temporary, "tree", self._request.folder)
        changes = (*host.changes, *replace(desired, target=target).changes)
        return self._outcome(changes, status=status, path=path, temporary=temporary)

    def _temporary(self) -> str:
        """Return a new folder in memory, and remove those that killed checks left there."""
        folder = Path(self._root + _TEMPORARY)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in folder.glob("check-*"):
            if self._clock.time() - old.stat().st_mtime > _LEFT_OVER:
                desired_tree.discard(old)
        return tempfile.mkdtemp(prefix="check-", dir=folder)

    def _extract(self, source: Source, desired: RefreshPlan, folder: Path) -> Target:
        archive = folder / "archive.tar"
        kept = refresh.kept(self._places, desired.target.revision, source.folder)
        if kept:
            target, archive = kept[0], kept[2]
        elif isinstance(source, RemoteRepository):
            target = source.elsewhere(folder / "clone.git").archive(desired.target, archive)
        else:
            target = source.archive(desired.target, archive)
        desired_tree.extract(archive, folder / "tree")
        stacks = folder / "tree" / self._request.folder
        stacks.mkdir(parents=True, exist_ok=True)
        self._leave_out(stacks)
        return target

    def _leave_out(self, stacks: Path) -> None:
        """Remove from a copy the stacks that do not run here: a node without Compose cannot read that off their files."""
        if self._request.stacks is None:
            return
        found = {path.parent for pattern in ("compose.y*ml", "docker-compose.y*ml") for path in stacks.rglob(pattern)}
        for folder in found:
            if str(folder.relative_to(stacks)) not in self._request.stacks:
                desired_tree.discard(folder)
