# SPDX-License-Identifier: GPL-3.0-or-later
"""What all parts of fix runs speak of. Only data: no file, no command, no clock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: the steps of every fix run, in order; the last one runs only where one of the others failed after files were touched
ANALYZE, PATCH, BUILD, RESTART, VERIFY, ROLLBACK = "analyze", "patch", "build", "restart", "verify", "rollback"
FORWARD = (ANALYZE, PATCH, BUILD, RESTART, VERIFY)
STEPS = (*FORWARD, ROLLBACK)

# -- state of a step ------------------------------------------------------------------------------------------------------------------
PENDING, IN_PROGRESS, SUCCEEDED, FAILED, SKIPPED = "pending", "in_progress", "succeeded", "failed", "skipped"

# -- status of a fix run, beside pending, succeeded and failed ------------------------------------------------------------------------
AWAITING, RUNNING, ROLLED_BACK, ROLLBACK_FAILED = "awaiting_approval", "running", "rolled_back", "rollback_failed"
REJECTED, EXPIRED, CANCELLED = "rejected", "expired", "cancelled"
#: a fix run of one of these holds its service
OPEN = (PENDING, AWAITING, RUNNING)

# -- whose turn in the queue is first --------------------------------------------------------------------------------------------------
NORMAL, HIGH = "normal", "high"

# -- when an approval is needed -------------------------------------------------------------------------------------------------------
NONE, PRE_RUN, PRE_VERIFY = "none", "pre-run", "pre-verify"
#: the step that may not begin without it
GATES: Mapping[str, str] = {PRE_RUN: PATCH, PRE_VERIFY: VERIFY}

#: where git keeps the commit with a patch, the candidate, from being pruned
REFS = "refs/pifleet/fix-runs/"

# -- what becomes of a patch that verified --------------------------------------------------------------------------------------------
COMMIT, PINNED = "commit", "pinned"
#: when a pinned stack was let go of, in the detail of its verification
UNPINNED = "unpinned_at"

# -- status of an approval as a fix run shows it --------------------------------------------------------------------------------------
NOT_REQUIRED, AWAITS, GRANTED = "not_required", "awaiting", "granted"


@dataclass(frozen=True, slots=True)
class Edit:
    """One file of a patch, by its *path* below the repository's root. *before*: None for one that is new; *mode*: git's of the file, where
    it gets another one than it has, or than a new file has."""

    path: str
    before: str | None
    after: str
    mode: str = ""


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of a patch as a plan has it: SHA-256 (hex) of its content before, empty for a new one, and after."""

    path: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ActionPlan:
    """What a fix run would do: a value, the same for the same input. *steps*: typed parameters by step.

    *base*: the revision that the patch is made against; *profile*: SHA-256 of the profile it was made by; *diff_sha256*: of the patch as a
    unified diff, which is not part of the plan: files may hold secrets; *requirement*: one of ``none``, ``pre-run``, ``pre-verify``.
    """

    service: str
    stack: str
    compose_service: str
    node: str
    instruction: str
    strategy: str
    summary: str
    base: str
    profile: str
    requirement: str
    diff_sha256: str
    files: tuple[FileChange, ...]
    steps: Mapping[str, Mapping[str, Any]]
    approver_roles: tuple[str, ...] = ()
    valid_for_minutes: int = 30
    keep: str = COMMIT

    def as_table(self) -> dict[str, Any]:
        """Return the plan as JSON holds it; ``plan_of`` makes it a plan again."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the whole plan."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def plan_of(table: Mapping[str, Any]) -> ActionPlan:
    """Return the plan that ``as_table`` wrote down."""
    files = tuple(FileChange(**entry) for entry in table["files"])
    return ActionPlan(**{**table, "files": files, "approver_roles": tuple(table["approver_roles"])})


@dataclass(frozen=True, slots=True)
class Step:
    """One step as recorded. *message*: how it ended; *detail*: what is known of it, as JSON can hold it. Times are UTC, ISO 8601."""

    name: str
    state: str = PENDING
    message: str = ""
    started_at: str = ""
    ended_at: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.state in (SUCCEEDED, FAILED, SKIPPED)


@dataclass(frozen=True, slots=True)
class Approval:
    """A permission for one plan of one fix run. *decision*: ``approved`` or ``rejected``; *envelope*: the signed statement of all of this;
    *diff_sha256*: empty where it was given ahead of the fix run, and the plan's digest alone says which diff it is;
    *used_at*: when the step began that it was for, empty before."""

    id: str
    fix_run_id: str
    decision: str
    approver: str
    plan_digest: str
    diff_sha256: str
    given_at: str
    expires_at: str
    used_at: str = ""
    envelope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_ahead(self) -> bool:
        """Whether it was given before the fix run was asked for."""
        return not self.diff_sha256


@dataclass(frozen=True, slots=True)
class Artifact:
    """*path*: below the artifact root; *checksum*: SHA-256 (hex) of its content."""

    name: str
    type: str
    step: str
    path: str
    checksum: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FixRun:
    """A fix run as recorded. *run_id*: the run that is, or was last, at it, empty while it waits in the queue; *plan*: None before it was
    analysed; *parent_id*: the fix run that it was started anew from; *candidate*: the commit with the patch, empty before it was made;
    *interrupted*: the run that was at it is over and left it like this; *task_id*: of the queue's message that it was last taken for;
    *deliveries*: times that the queue began to do it since somebody asked for that."""

    id: str
    service: str
    stack: str
    node: str
    instruction: str
    status: str
    requester: str
    run_id: str
    created_at: str
    steps: tuple[Step, ...]
    plan: ActionPlan | None = None
    parent_id: str = ""
    candidate: str = ""
    reason: str = ""
    ended_at: str = ""
    approvals: tuple[Approval, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    interrupted: bool = False
    priority: str = NORMAL
    task_id: str = ""
    deliveries: int = 0

    def step(self, name: str) -> Step:
        return self.steps[STEPS.index(name)]

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def holds(self) -> bool:
        """Whether its stack is pinned at its patch."""
        return (
            self.status == SUCCEEDED and self.plan is not None and self.plan.keep == PINNED and not self.step(VERIFY).detail.get(UNPINNED)
        )

    @property
    def plan_digest(self) -> str:
        return self.plan.digest if self.plan else ""
