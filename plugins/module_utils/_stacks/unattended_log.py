# SPDX-License-Identifier: GPL-3.0-or-later
"""What unattended runs did to stacks, kept on the node until the ledger has it.

A file for each attempt: written before anything is touched, so that one which was cut off is known as well, and again with how it ended.
It goes when the controller says that the attempt is evidence: whoever is killed in between offers it again, under the same id.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import locks, model, state
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Status

#: below the folder of records
FOLDER = "unattended"
#: attempts that a node keeps at most: more than a month of a stack that fails once an hour. The oldest goes first, and is counted
LIMIT = 1000
#: differences and actions of an attempt that are kept, and characters of its error
_NAMED, _ERROR = 50, 2000
_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of an unattended run at one stack. *id*: sorts by time, and is no other's; *project*: whose lock is held meanwhile;
    *revision*: of the desired state that was applied; *ended_at*: empty while it goes on; *stack*: what the modules return of the stack;
    *lost*: how many earlier attempts the node had no room for."""

    id: str
    project: str
    revision: str
    began_at: str
    ended_at: str = ""
    stack: dict[str, Any] = field(default_factory=dict)
    lost: int = 0


class UnattendedLog:
    """The attempts of one run, which begins *now*. *folder*: of the records.

    Writing raises PifleetError where the disk does not take it.
    """

    def __init__(self, folder: str, now: float) -> None:
        self._folder = os.path.join(folder, FOLDER)
        state.sweep(self._folder, now)
        self._room = threading.Lock()  # stacks begin in several threads

    def begin(self, seen: Status, revision: str, now: float) -> Attempt:
        """Keep that the plan of *seen* is about to be carried out."""
        under_way = model.DELETING if any(action.kind == model.REMOVE_STACK for action in seen.planned) else model.SYNCING
        at = locks.iso(now)
        begun = Attempt(_new_id(at), seen.project, revision, at, stack=_shown(replace(seen, status=under_way, actions=seen.planned)))
        return self._add(begun)

    def end(self, begun: Attempt | None, seen: Status, revision: str, now: float) -> None:
        """Keep how an attempt ended; None for one that had nothing to carry out."""
        at = locks.iso(now)
        if begun is None:
            self._add(Attempt(_new_id(at), seen.project, revision, at, at, _shown(seen)))
        else:
            self._write(replace(begun, ended_at=at, stack=_shown(seen)))

    def _add(self, attempt: Attempt) -> Attempt:
        """Write a new attempt, and make room for it. What is lost is counted before it goes: a killed run counts too many, not too few."""
        with self._room:
            names = _names(self._folder)
            oldest = names[: max(0, len(names) - LIMIT + 1)]
            attempt = replace(attempt, lost=sum(1 + gone.lost for name in oldest if (gone := _read(self._folder, name))))
            self._write(attempt)
            _unlink(self._folder, oldest)
            return attempt

    def _write(self, attempt: Attempt) -> None:
        state.write(os.path.join(self._folder, attempt.id + _SUFFIX), json.dumps(asdict(attempt), ensure_ascii=False))


def collect(folder: str) -> list[dict[str, Any]]:
    """Return the attempts that are over, oldest first, as tables. *folder*: of the records. One that was cut off has failed, and may have
    changed something."""
    inside = os.path.join(folder, FOLDER)
    over = (_over(folder, inside, name) for name in _names(inside))
    return [asdict(attempt) for attempt in over if attempt]


def forget(folder: str, ids: Iterable[str]) -> None:
    """Remove the attempts *ids*, which are evidence by now."""
    inside = os.path.join(folder, FOLDER)
    wanted = {f"{one}{_SUFFIX}" for one in ids}
    _unlink(inside, [name for name in _names(inside) if name in wanted])


def _over(folder: str, inside: str, name: str) -> Attempt | None:
    """The attempt as it ended; None for one that goes on, or that is gone by now."""
    attempt = _read(inside, name)
    if attempt and not attempt.ended_at:
        if locks.is_held(folder, attempt.project):
            return None
        attempt = _read(inside, name)  # its end is written before its lock is free
    if attempt is None or attempt.ended_at:
        return attempt
    error = f"the attempt of {attempt.began_at} was interrupted"
    return replace(attempt, stack={**attempt.stack, "status": model.FAILED, "changed": True, "last_error": error})


def _shown(seen: Status) -> dict[str, Any]:
    table = seen.as_result()
    kept = {key: table[key] for key in ("name", "status", "changed", "revision", "plan_digest", "policy", "awaiting_acknowledgement")}
    drift = [{key: found[key] for key in ("service", "reason")} for found in table["drift"][:_NAMED]]
    actions = [{key: done[key] for key in ("kind", "target")} for done in table["actions"][:_NAMED]]
    return {**kept, "last_error": seen.last_error[:_ERROR], "drift": drift, "actions": actions}


def _new_id(at: str) -> str:
    return f"{at.translate({ord(c): None for c in '-:'})}-{os.urandom(8).hex()}"


def _names(inside: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(inside) if name.endswith(_SUFFIX) and not name.startswith("."))
    except FileNotFoundError:
        return []


def _read(inside: str, name: str) -> Attempt | None:
    """The attempt in a file, None where that is gone. Of one that is damaged no more is known than that it was there."""
    content = atomic_file.read_bytes(os.path.join(inside, name))
    if content is None:
        return None
    try:
        return Attempt(**json.loads(content))
    except (ValueError, TypeError):
        damaged = {"name": None, "status": model.FAILED, "last_error": "what the node kept of this attempt is damaged"}
        return Attempt(name[: -len(_SUFFIX)], "", "", "", "unknown", damaged)


def _unlink(inside: str, names: Iterable[str]) -> None:
    removed = False
    for name in names:
        try:
            os.unlink(os.path.join(inside, name))
            removed = True
        except FileNotFoundError:
            pass
    if removed:
        atomic_file.fsync_folder(inside)
