# SPDX-License-Identifier: GPL-3.0-or-later
"""The differences between a stack as it is to be and its containers as they are, each with its reason. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from ansible_collections.pifleet.ops.plugins.module_utils._stacks import labels, model
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.files import digest
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Container, Drift, Service, Stack
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.state import Applied, Record

#: A container that came up again this often since it was verified, and is not up for longer than this, is in a loop.
LOOP_RESTARTS = 3
LOOP_SECONDS = 60.0

#: Name under which Compose makes the successor of a container, until that is gone: pkg/compose/convergence.go (recreateContainer).
_TEMPORARY = re.compile(r"[0-9a-f]{12}_(.+)")

_COMPOSE = (".yaml", ".yml")
_REASON_OF_KEY = {
    "image": model.IMAGE_CHANGED,
    "networks": model.NETWORK_CHANGED,
    "network_mode": model.NETWORK_CHANGED,
    "volumes": model.VOLUME_CHANGED,
}


def is_ignored(patterns: Sequence[str], service: str, reason: str, key: str = "") -> bool:
    """Whether one of *patterns* (``[service/]reason[:key]``, globs) takes this drift, or this key of it, out."""
    for pattern in patterns:
        who, slash, what = pattern.rpartition("/")
        wanted, colon, keys = what.partition(":")
        if slash and not fnmatchcase(service, who):
            continue
        if fnmatchcase(reason, wanted) and (fnmatchcase(key, keys) if colon else not key):
            return True
    return False


def service_hash(service: Service, image_id: str) -> str:
    """Return the digest over everything that decides what runs as *service* when its image is *image_id*."""
    return digest(f"{service.hash}\0{image_id}")


def compose_hash(stack: Stack, images: Mapping[str, str]) -> str:
    """Return the digest over everything that decides what runs as *stack*, with the ids of its images by reference."""
    parts = [
        f"{name}\0{service_hash(service, images.get(service.image, ''))}\0{service.scale}"
        for name, service in sorted(stack.services.items())
    ]
    for kind in (stack.networks, stack.volumes):
        parts += [f"{name}\0{value}" for name, value in sorted(kind.items())]
    return digest("\n".join(parts))


def expected_name(project: str, service: Service, container: Container) -> str:
    """Return the name that Compose gives *container*."""
    return service.container_name or f"{project}-{service.name}-{container.number}"


def leftovers(project: str, service: Service, containers: Sequence[Container]) -> list[Container]:
    """Return successors that a killed recreate left beside the container that they were to replace."""
    names = {c.name for c in containers}
    return [c for c in containers if c.name != expected_name(project, service, c) and expected_name(project, service, c) in names]


def compare(
    stack: Stack,
    containers: Sequence[Container],
    images: Mapping[str, str],
    record: Record | None,
    *,
    owner: str,
    now: float,
    content: Mapping[str, str],
    ignore: Sequence[str] = (),
) -> tuple[Drift, ...]:
    """Return the drift of *stack*: in the order of its services, then of containers that are none of its services.

    *containers*: all of its project; *images*: ids by reference, of those that are here; *record*: what was kept of the last sync;
    *content*: digests of the files of its folder; *ignore*: what is no drift, besides what the stack says itself.
    """
    ignored = (*ignore, *stack.options.drift_ignore)
    own = [c for c in containers if not c.oneoff]
    wanted = {name for name, service in stack.services.items() if service.scale}
    if wanted and not any(c.service in stack.services for c in own):
        found: list[Drift] = [Drift("", model.STACK_MISSING, ", ".join(sorted(wanted)))]
    else:
        found = []
        by_service: dict[str, list[Container]] = {}
        for container in own:
            by_service.setdefault(container.service, []).append(container)
        ids = {name: {c.id for c in found_here} for name, found_here in by_service.items()}
        for name, service in sorted(stack.services.items()):
            here = sorted(by_service.get(name, ()), key=lambda c: (c.number, c.name))
            found += _Comparison(stack, service, here, images, record, owner, now, content, ids, ignored).drift()
    found += _strangers(stack, own)
    return tuple(d for d in found if not is_ignored(ignored, d.service, d.reason))


def _strangers(stack: Stack, containers: Sequence[Container]) -> Iterator[Drift]:
    """Containers of services that the stack does not have. One of a profile that is off, started by hand, is let be."""
    for container in sorted(containers, key=lambda c: (c.service, c.name)):
        if container.service in stack.services:
            continue
        if labels.NAME in container.labels:
            yield Drift(container.service, model.SERVICE_UNEXPECTED, container.name)
        elif container.service not in stack.disabled:
            yield Drift(container.service, model.ORPHAN, container.name)


class _Comparison:
    """One service against its containers."""

    def __init__(
        self,
        stack: Stack,
        service: Service,
        containers: Sequence[Container],
        images: Mapping[str, str],
        record: Record | None,
        owner: str,
        now: float,
        content: Mapping[str, str],
        ids: Mapping[str, set[str]],
        ignored: Sequence[str],
    ) -> None:
        self.stack, self.service, self.images, self.record = stack, service, images, record
        self.owner, self.now, self.content, self.ids, self.ignored = owner, now, content, ids, ignored
        self.applied: Applied | None = record.applied.get(service.name) if record else None
        self.leftovers = leftovers(stack.project, service, containers)
        self.containers = [c for c in containers if c not in self.leftovers]

    def drift(self) -> list[Drift]:
        """All drift of the service, each reason once for equal details."""
        found: dict[Drift, None] = {}
        for reason, detail in self._all():
            found[Drift(self.service.name, reason, detail)] = None
        return list(found)

    def _all(self) -> Iterator[tuple[str, str]]:
        for leftover in self.leftovers:
            yield model.CONTAINER_MISNAMED, leftover.name
        if not self.containers:
            if self.service.scale:
                yield model.SERVICE_MISSING, ""
            return
        if len(self.containers) != self.service.scale:
            yield model.REPLICAS, f"{len(self.containers)} of {self.service.scale}"
        if not self.service.scale:
            return
        yield from self._definitions()
        for container in self.containers:
            if container.name != expected_name(self.stack.project, self.service, container):
                yield model.CONTAINER_MISNAMED, container.name
            yield from self._configuration(container)
            yield from self._image(container)
            yield from self._networks(container)
            yield from self._limits(container)
            yield from self._state(container)

    # -- what it was made of -----------------------------------------------------------------------------------------------------
    def _definitions(self) -> Iterator[tuple[str, str]]:
        """Networks and volumes of the stack that are defined in another way than when they were made."""
        if not self.record or not self.record.applied:
            return
        pairs = (
            (model.NETWORK_CHANGED, self.service.networks or (), self.stack.networks, self.record.networks),
            (model.VOLUME_CHANGED, self.service.volumes, self.stack.volumes, self.record.volumes),
        )
        for reason, names, now, before in pairs:
            for name in names:
                if name in now and name in before and now[name] != before[name]:
                    yield reason, f"definition of {name}"

    def _configuration(self, container: Container) -> Iterator[tuple[str, str]]:
        tampered = self._tampered(container.labels)
        if tampered:
            yield model.LABEL_TAMPERED, ", ".join(tampered)
            return
        if container.labels[labels.SERVICE_HASH] != service_hash(self.service, container.image_id):
            if self.applied and self.applied.service.hash == self.service.hash and not self._applied_labels(container):
                yield model.CONFIG_CHANGED, "made by an attempt that failed, and is to be as before again"
            else:
                yield from self._changes()
        if self.applied and self.applied.containers and container.id not in self.applied.containers and self._applied_labels(container):
            if container.shape != self.applied.shape and container.image_id == self.images.get(self.service.image, container.image_id):
                yield model.CONFIG_CHANGED, "a container made by hand"
            elif container.mounts != self.applied.mounts:
                yield model.VOLUME_CHANGED, _difference(self.applied.mounts, container.mounts)
        elif not self.applied:
            missing = [mount for mount in self.service.mounts if not _has(container.mounts, mount)]
            if missing:
                yield model.VOLUME_CHANGED, ", ".join(missing)

    def _applied_labels(self, container: Container) -> bool:
        return self.applied is not None and container.labels in self.applied.labels

    def _tampered(self, own: Mapping[str, str]) -> list[str]:
        """Names of labels that are not what this collection set, without its prefix."""
        names = [label for label in labels.OURS if label not in own]
        names += [label for label, value in ((labels.NAME, self.stack.name), (labels.OWNER, self.owner)) if own.get(label, value) != value]
        known = list(self.applied.labels) if self.applied else []
        if self.record and self.service.name in self.record.attempt:
            known.append(self.record.attempt[self.service.name])
        if not names and known and own not in known:
            names = [label for label in labels.OURS if all(own[label] != table.get(label) for table in known)] or [labels.SERVICE_HASH]
        return [name[len(labels.PREFIX) :] for name in names]

    def _changes(self) -> Iterator[tuple[str, str]]:
        """What differs between the service as it was applied and as it is to be, by reason."""
        before = self.applied.service if self.applied else None
        if before is None:
            yield model.CONFIG_CHANGED, "in what is not known, because what was kept of the last sync is lost"
            return
        changed: dict[str, list[str]] = {}
        for key in sorted({*before.keys, *self.service.keys}):
            if before.keys.get(key) != self.service.keys.get(key) and not is_ignored(
                self.ignored, self.service.name, model.CONFIG_CHANGED, key
            ):
                changed.setdefault(self._reason(key), []).append(f"{before.image} to {self.service.image}" if key == "image" else key)
        for path in sorted({*before.files, *self.service.files}):
            if before.files.get(path) != self.service.files.get(path):
                changed.setdefault(model.MOUNTED_FILE_CHANGED, []).append(path)
        if any(reason == model.ENV_FILE_CHANGED for reason in changed) and (files := self._changed_files(mounted=before.files)):
            changed[model.ENV_FILE_CHANGED][0] = f"{', '.join(files)}: {changed[model.ENV_FILE_CHANGED][0]}"
        for reason, keys in sorted(changed.items()):
            yield reason, ", ".join(keys)

    def _reason(self, key: str) -> str:
        """Why *key* differs. A variable whose value changed while no compose file did comes from an env file."""
        if key.startswith("environment.") and not any(path.endswith(_COMPOSE) for path in self._changed_files()):
            return model.ENV_FILE_CHANGED
        return _REASON_OF_KEY.get(key, model.CONFIG_CHANGED)

    def _changed_files(self, mounted: Mapping[str, str] | None = None) -> list[str]:
        """Files of the stack's folder that differ from those of the last sync, but for *mounted* ones."""
        before = self.record.content if self.record else {}
        paths = sorted({*before, *self.content})
        return [path for path in paths if before.get(path) != self.content.get(path) and path not in (mounted or {})]

    # -- what runs ---------------------------------------------------------------------------------------------------------------
    def _image(self, container: Container) -> Iterator[tuple[str, str]]:
        if container.image != self.service.image:
            if not self.applied or self.applied.service.image == self.service.image:
                yield model.IMAGE_CHANGED, f"{container.image} instead of {self.service.image}"
        elif (here := self.images.get(self.service.image)) and here != container.image_id:
            yield model.IMAGE_DIGEST_CHANGED, f"{self.service.image} is now {here[:19]}"

    def _networks(self, container: Container) -> Iterator[tuple[str, str]]:
        if self.service.networks is not None:
            if container.networks != self.service.networks:
                yield model.NETWORK_CHANGED, _difference(self.service.networks, container.networks)
        elif self.service.shares:
            shared = container.network_mode.partition(":")[2]
            if shared not in self.ids.get(self.service.shares, ()):
                yield model.NETWORK_CHANGED, f"it shares the network of a container of {self.service.shares} that is gone"

    def _limits(self, container: Container) -> Iterator[tuple[str, str]]:
        applied = self.applied
        wanted = applied.limits if applied and container.id in applied.containers else self.service.limits
        for name, value in sorted(wanted.items()):
            if _limit(name, container.limits.get(name, "")) != _limit(name, value) and not is_ignored(
                self.ignored, self.service.name, model.LIMITS_CHANGED, name
            ):
                yield model.LIMITS_CHANGED, name

    def _state(self, container: Container) -> Iterator[tuple[str, str]]:
        if container.state == "created":
            yield model.NEVER_STARTED, container.name
        elif container.state == "restarting" or self._loops(container):
            yield model.CRASH_LOOPING, f"{container.name}, {container.restarts} restarts, exit code {container.exit_code}"
        elif container.state != "running":
            if not (container.state == "exited" and container.exit_code == 0 and self._may_end(container)):
                yield model.STOPPED, f"{container.name}, {container.state}, exit code {container.exit_code}"
        elif container.health == "unhealthy":
            yield model.UNHEALTHY, container.name

    def _may_end(self, container: Container) -> bool:
        return self.service.job or bool(
            self.service.undecided and self.applied and self.applied.finished and container.id in self.applied.containers
        )

    def _loops(self, container: Container) -> bool:
        before = self.applied.containers.get(container.id, 0) if self.applied else 0
        return container.restarts - before >= LOOP_RESTARTS and self.now - seconds(container.started_at) < LOOP_SECONDS


def seconds(text: str) -> float:
    """Return the seconds since the epoch of Docker's ``2026-01-31T12:00:00.123456789Z``; 0.0 for what is no time."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(f"{text[:19]}+00:00").timestamp()
    except ValueError:
        return 0.0


def _limit(name: str, value: str) -> str:
    """A limit in one form: a restart policy by its name, and what means no limit as 0."""
    if name == "RestartPolicy":
        return re.sub(r'.*"Name": "([^"]*)".*', r"\1", value) or "no"
    return "0" if value in ("", "null", "-1") else value


def _has(mounts: Sequence[str], wanted: str) -> bool:
    """Whether something is mounted as *wanted* says: a bind mount by its target, because links in its source are resolved."""
    kind, source, target = wanted.split(" ", 2)
    places = [mount.rsplit(" ", 2)[1] for mount in mounts if mount.startswith(f"{kind} " if kind == "bind" else f"{kind} {source} ")]
    return target in places


def _difference(wanted: Sequence[str], found: Sequence[str]) -> str:
    return ", ".join(
        [*(f"without {name}" for name in wanted if name not in found), *(f"with {name}" for name in found if name not in wanted)]
    )
