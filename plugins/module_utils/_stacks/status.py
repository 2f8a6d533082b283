# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a stack: from what is kept of it and, where that is lost, from the labels of its containers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.pifleet.ops.plugins.module_utils._stacks import labels, model
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.case import Case
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.locks import iso
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Container, Status

SUCCEEDED, FAILED = "succeeded", "failed"
_UNDER_WAY = (model.SYNCING, model.DELETING)


def of(case: Case, owner: str, *, held: bool = False) -> Status:
    """Return the status of *case*. *held*: somebody works on it at this moment."""
    known = case.record
    own = [c for c in case.containers if not c.oneoff]
    told = newest(own, owner) if known is None else {}
    running = sum(1 for c in own if c.state == "running")
    stack = case.stack or (known.stack if known else None)
    return Status(
        name=case.name,
        project=case.project,
        owner=owner,
        status=_word(case, held=held),
        revision=known.revision if known else told.get(labels.REVISION, ""),
        compose_hash=known.compose_hash if known else told.get(labels.COMPOSE_HASH, ""),
        commit_message=known.commit_message if known else told.get(labels.COMMIT_MESSAGE, ""),
        last_sync_at=known.last_sync_at if known else told.get(labels.APPLIED_AT, ""),
        last_attempt_at=known.last_attempt_at if known else told.get(labels.APPLIED_AT, ""),
        last_sync_status=known.last_sync_status if known else (SUCCEEDED if told and running else ""),
        last_error=case.error or _last_error(case, held=held),
        retry_at=iso(known.retry_at) if known and known.retry_at else "",
        drift=case.drift,
        policy=case.policy,
        awaiting_acknowledgement=case.waiting,
        plan_digest=case.plan.digest,
        pinned=case.pinned,
        suspended=case.suspended,
        in_scope=case.in_scope,
        recovered=bool(told),
        containers_running=running,
        containers_total=len(own),
        services=tuple(sorted(stack.services if stack else {c.service for c in own})),
        planned=() if case.settled else case.plan.actions,
        actions=case.plan.actions if case.changed else (),
        changed=case.changed,
    )


def is_under_way(case: Case) -> bool:
    """Whether what is kept says that somebody works on it."""
    return case.record is not None and case.record.status in _UNDER_WAY


def newest(containers: Sequence[Container], owner: str) -> dict[str, str]:
    """The labels of the container that was made last; stopped ones count too."""
    ours = [c for c in containers if c.labels.get(labels.OWNER) == owner and labels.APPLIED_AT in c.labels]
    return dict(max(ours, key=lambda c: (c.labels[labels.APPLIED_AT], c.name)).labels) if ours else {}


def _word(case: Case, *, held: bool) -> str:
    kept = case.record.status if case.record else ""
    if kept in _UNDER_WAY and not case.error:
        return kept if held else model.FAILED  # whoever was at it is gone
    if case.error or kept == model.FAILED:
        return model.FAILED
    if case.drift and not case.settled:
        return model.MISSING if case.drift[0].reason == model.STACK_MISSING else model.DRIFTED
    own = [c for c in case.containers if not c.oneoff]
    if kept == model.SYNCED or (own and not kept and all(c.state == "running" or c.exit_code == 0 for c in own)):
        return model.SYNCED
    return model.DRIFTED if own else model.MISSING


def _last_error(case: Case, *, held: bool) -> str:
    record = case.record
    if record and is_under_way(case) and not held:
        return f"the attempt of {record.last_attempt_at} was interrupted"
    return record.last_error if record else ""
