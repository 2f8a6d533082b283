# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be kept of a stack after it was looked at, synced, or failed. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from ansible_collections.pifleet.ops.plugins.module_utils._stacks import drift, labels, model, override, status
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.case import Case
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.locks import iso
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Container, Settings, Stack
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.state import Applied, Record

#: Seconds until an unattended run tries a revision again that failed once; twice as long after each further failure, up to the second.
BACKOFF, LONGEST_BACKOFF = 30.0, 3600.0


def current(case: Case, owner: str) -> Record:
    """Return what is kept of *case* or, where that is lost, what the labels of its containers tell."""
    if case.record:
        return case.record
    told = status.newest([c for c in case.containers if not c.oneoff], owner)
    return Record(
        case.name,
        case.project,
        owner,
        revision=told.get(labels.REVISION, ""),
        compose_hash=told.get(labels.COMPOSE_HASH, ""),
        commit_message=told.get(labels.COMMIT_MESSAGE, ""),
        last_sync_at=told.get(labels.APPLIED_AT, ""),
    )


def begun(case: Case, owner: str, now: float) -> Record:
    """Return the record of a stack whose plan is about to be carried out."""
    removing = case.folder is None
    word = model.DELETING if removing else model.SYNCING
    return replace(current(case, owner), status=word, last_attempt_at=iso(now), removing=removing)


def synced(case: Case, record: Record, settings: Settings, now: float) -> Record:
    """Return the record of a stack whose containers were just seen to be what the desired state says."""
    stack, folder = model.known(case.stack), model.known(case.folder)  # nothing else is ever synced
    return replace(
        with_stack(case, record),
        status=model.SYNCED,
        revision=settings.revision,
        commit_message=override.storable(settings.commit_message),
        compose_hash=drift.compose_hash(stack, {c.image: c.image_id for c in case.containers}),
        last_sync_at=iso(now),
        last_attempt_at=iso(now),
        last_sync_status=status.SUCCEEDED,
        last_error="",
        retry_at=0.0,
        failures=0,
        failed_inputs="",
        attempt={},
        applied=_applied(stack, case.containers),
        networks=stack.networks,
        volumes=stack.volumes,
        inputs=case.made_of,
        content=folder.content,
        removing=False,
    )


def failed(case: Case, record: Record, settings: Settings, now: float, error: str) -> Record:
    """Return the record of a stack whose attempt failed. What was last synced stays visible."""
    tried = attempted(case, settings)
    failures = record.failures + 1 if record.failed_inputs == tried else 1
    return replace(
        with_stack(case, record),
        status=model.FAILED,
        last_attempt_at=iso(now),
        last_sync_status=status.FAILED,
        last_error=error,
        failures=failures,
        failed_inputs=tried,
        retry_at=now + min(LONGEST_BACKOFF, BACKOFF * 2.0 ** min(failures - 1, 16)),
    )


def attempted(case: Case, settings: Settings) -> str:
    """Name what an attempt at *case* tries: a revision, and what it is made of."""
    return f"{settings.revision} {case.made_of}"


def kept(case: Case, settings: Settings, now: float) -> Record | None:
    """Return the record of a stack that this run does not work on; None where there is to be none. Equal to ``case.loaded`` where
    the run found nothing new."""
    if case.folder is None or case.folder.error or not case.ours:
        return case.loaded
    if case.error:
        return _unusable(case, current(case, settings.owner), now)
    if case.record is None:
        # where containers are, and their record is lost, it is written when they were verified, not before
        return None if case.containers else with_stack(case, current(case, settings.owner))
    settled = case.record.status == model.SYNCED and not case.drift and case.in_scope and not case.suspended and not case.pinned
    if not settled or _is_current(case, case.record, settings):
        return with_stack(case, case.record)
    return synced(case, case.record, settings, now)


def with_stack(case: Case, record: Record) -> Record:
    """Return *record* with what Compose answered, so that it need not be asked again."""
    if case.folder is None:
        return record
    if case.stack is None:
        return replace(record, sops=case.sops)
    return replace(record, stack=case.stack, fingerprint=case.fingerprint, outside=case.outside, sops=case.sops)


def _is_current(case: Case, record: Record, settings: Settings) -> bool:
    """Whether the last sync was of this revision, and of these files."""
    message = override.storable(settings.commit_message)
    return (record.revision, record.commit_message, record.inputs) == (settings.revision, message, case.made_of)


def _unusable(case: Case, record: Record, now: float) -> Record:
    """The record of a stack that cannot be resolved. The same error again is nothing new."""
    record = with_stack(case, record)
    if record.last_error == case.error and record.status == model.FAILED:
        return record
    return replace(record, status=model.FAILED, last_error=case.error, last_sync_status=status.FAILED, last_attempt_at=iso(now))


def as_last_seen(record: Record) -> list[Container]:
    """Return the containers of the last sync as they will be once Docker starts again, as far as that is known: those without a restart
    policy stay down. Which image they are of is not."""
    found = []
    for name, applied in sorted(record.applied.items()):
        service = applied.service
        policy = service.limits.get("RestartPolicy", "no")
        for number, (container, restarts) in enumerate(applied.containers.items(), 1):
            shared = next(iter(record.applied[service.shares].containers), "") if service.shares in record.applied else ""
            found.append(
                Container(
                    id=container,
                    name=service.container_name or f"{record.project}-{name}-{number}",
                    project=record.project,
                    service=name,
                    number=number,
                    oneoff=False,
                    image=service.image,
                    image_id="",
                    state="exited" if policy == "no" or applied.finished else "running",
                    exit_code=0 if applied.finished else 255,
                    health="",
                    restarts=restarts,
                    started_at="",
                    labels=applied.labels[0],
                    folder="",
                    networks=service.networks or (),
                    network_mode=f"container:{shared}" if shared else "",
                    limits=applied.limits,
                    mounts=applied.mounts,
                    shape=applied.shape,
                )
            )
    return found


def _applied(stack: Stack, containers: Sequence[Container]) -> dict[str, Applied]:
    """The services of *stack* as they are now."""
    found = {}
    for name, service in sorted(stack.services.items()):
        here = [c for c in containers if c.service == name and not c.oneoff]
        if here:
            finished = all(c.state == "exited" and c.exit_code == 0 for c in here)
            restarts = {c.id: c.restarts for c in here}
            given = tuple({json.dumps(c.labels, sort_keys=True): c.labels for c in here}.values())
            found[name] = Applied(service, given, here[0].limits, here[0].mounts, here[0].shape, restarts, finished)
    return found
