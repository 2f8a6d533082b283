# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release would do. Pure: no clock, no command, no randomness; the same input gives the same plan, byte for byte."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import (
    BUILD,
    DEPLOY,
    MIGRATE_POST,
    MIGRATE_PRE,
    NO_MIGRATION,
    NO_MIGRATION_BACK,
    NOTHING_TO_BUILD,
    PUSH,
    REUSES_IMAGES,
    ROLLBACK,
    ROLLING,
    Image,
    Migration,
    Plan,
    Project,
    Release,
)

if TYPE_CHECKING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.config import EnvironmentOf, ServiceOf


def deploy(
    environment: str,
    config: EnvironmentOf,
    version: str,
    commit: str,
    trees: Mapping[str, str],
    groups: Mapping[str, Sequence[str]],
    services: Mapping[str, Mapping[str, Any]],
    known: Mapping[str, Image],
) -> Plan:
    """Return the plan that ships *version*, which is *commit*, to *environment*.

    *trees*: git's hash of each build context at the commit, by folder; *groups*: hosts by inventory group; *services*: those of the base
    file, by name; *known*: images of earlier releases by what they were built from, which are not built again.
    Raises PifleetError for a service or group that is not there.
    """
    _refuse_unknown(config, groups, services)
    images = tuple(_image(config, name, service, version, trees, known) for name, service in sorted(config.services.items()))
    migrations = tuple(_migrations(config, groups))
    when = {f"migrate_{migration.when}" for migration in migrations}
    skips = {phase: NO_MIGRATION for phase in (MIGRATE_PRE, MIGRATE_POST) if phase not in when}
    if not any(image.backend for image in images):
        skips |= {BUILD: NOTHING_TO_BUILD, PUSH: NOTHING_TO_BUILD}
    return Plan(
        environment=environment,
        kind=DEPLOY,
        version=version,
        commit_sha=commit,
        base=config.base,
        images=tuple(image for image in images if image.backend),
        projects=_projects(environment, config, groups),
        batches=batches(_roles(config, groups), config.batches.canary, config.batches.size),
        migrations=migrations,
        skips=dict(sorted(skips.items())),
        health_timeout=config.health.timeout,
        health_stable=config.health.stable,
        retain=config.retain,
    )


def rollback(target: Release, groups: Mapping[str, Sequence[str]], canary: int, size: int) -> Plan:
    """Return the plan that brings *target* back: its images and projects, on the hosts that its roles have now. No migration runs."""
    projects = tuple(replace(p, hosts=tuple(sorted(groups.get(p.role, ())))) for p in target.plan.projects)
    skips = {BUILD: REUSES_IMAGES, PUSH: REUSES_IMAGES, MIGRATE_PRE: NO_MIGRATION_BACK, MIGRATE_POST: NO_MIGRATION_BACK}
    return replace(
        target.plan,
        kind=ROLLBACK,
        images=target.images,
        projects=projects,
        batches=batches({p.role: p.hosts for p in projects}, canary, size),
        skips=skips,
        target_id=target.id,
    )


def batches(roles: Mapping[str, Sequence[str]], canary: int, size: int) -> tuple[tuple[str, ...], ...]:
    """Return hosts in the order in which they get a version: *canary* of each role first, then *size* at a time, in the order of names."""
    first = sorted({host for hosts in roles.values() for host in sorted(hosts)[:canary]})
    rest = sorted({host for hosts in roles.values() for host in hosts} - set(first))
    found = [first, *(rest[at : at + size] for at in range(0, len(rest), size))]
    return tuple(tuple(batch) for batch in found if batch)


def _roles(config: EnvironmentOf, groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {role: sorted(groups[role]) for role in sorted({service.role for service in config.services.values()})}


def _refuse_unknown(config: EnvironmentOf, groups: Mapping[str, Sequence[str]], services: Mapping[str, Mapping[str, Any]]) -> None:
    for name, service in sorted(config.services.items()):
        if name not in services:
            raise PifleetError(f"The service {name} is not in the base project {config.base}.", f"It has {', '.join(sorted(services))}.")
        if not groups.get(service.role):
            raise PifleetError(
                f"The role {service.role} of the service {name} is no group of the inventory with hosts.",
                "Correct it. Nothing was recorded.",
            )
        alone = [key for key in ("container_name", "ports") if services[name].get(key)]
        if service.rollout.strategy == ROLLING and alone:
            raise PifleetError(
                f"The service {name} has {alone[0]} in {config.base} and cannot be rolled: two of its containers run side by side.",
                "Take it away, and let a reverse proxy be in front of the service. Nothing was recorded.",
            )


def _image(
    config: EnvironmentOf, name: str, service: ServiceOf, version: str, trees: Mapping[str, str], known: Mapping[str, Image]
) -> Image:
    build = service.build
    if build is None:
        return Image(name, "")
    if not trees.get(build.context):
        raise PifleetError(
            f"The build context {build.context} of {name} is no folder of the commit.",
            "Commit it, or correct `context`. Nothing was recorded.",
        )
    image = Image(
        service=name,
        reference=f"{config.registry}/{service.image}:{version}",
        backend=build.backend,
        context=build.context,
        dockerfile=build.dockerfile,
        platform=build.platform,
        args=dict(sorted(build.args.items())),
    )
    made_of = [trees[build.context], image.repository, image.backend, image.dockerfile, image.platform, dict(image.args)]
    inputs = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    same = known.get(inputs)
    return replace(image, inputs=inputs, digest=same.digest if same else "")


def _projects(environment: str, config: EnvironmentOf, groups: Mapping[str, Sequence[str]]) -> tuple[Project, ...]:
    found = []
    for role, hosts in _roles(config, groups).items():
        rollouts = {name: service.rollout for name, service in sorted(config.services.items()) if service.role == role}
        strategies = {name: rollout.strategy for name, rollout in rollouts.items()}
        drain = {name: rollout.drain for name, rollout in rollouts.items() if rollout.strategy == ROLLING}
        found.append(Project(role, project_name(environment, role), tuple(hosts), strategies, drain))
    names = [project.name for project in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PifleetError(f"Two roles would both have the Compose project {twice[0]}.", "Rename one of the groups.")
    return tuple(found)


def project_name(environment: str, role: str) -> str:
    """Return the name of the Compose project of a host role, in Compose's letters."""
    return f"{environment}-{re.sub(r'[^a-z0-9_-]', '-', role.lower())}"


def _migrations(config: EnvironmentOf, groups: Mapping[str, Sequence[str]]) -> Iterable[Migration]:
    for when in ("pre", "post"):
        for name, service in sorted(config.services.items()):
            given = service.migrations.pre if when == "pre" else service.migrations.post
            if given:
                host = sorted(groups[service.role])[0]
                yield Migration(when, name, tuple(given.argv), given.reversible, host, service.role, given.timeout)
