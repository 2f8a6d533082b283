# SPDX-License-Identifier: GPL-3.0-or-later
"""What the releases of one environment say together: which is live, where a rollback goes, what is kept, what is quarantined. Pure.

*releases* are always all of one environment, oldest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import (
    COMPLETED,
    DEPLOY,
    MIGRATE_POST,
    MIGRATE_PRE,
    ROLLBACK,
    Image,
    Plan,
    Release,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a rollback is to go: at most one of the three. None at all means the previous one."""

    to_release: str = ""
    to_version: str = ""
    to_previous: bool = False


def current(releases: Sequence[Release]) -> Release | None:
    """Return the live release: the newest that is completed."""
    return next((release for release in reversed(releases) if release.status == COMPLETED), None)


def target(releases: Sequence[Release], wanted: Wanted, environment: str) -> Release:
    """Return the release that a rollback goes back to. Raises PifleetError for one that it cannot go back to."""
    if sum(map(bool, (wanted.to_release, wanted.to_version, wanted.to_previous))) > 1:
        raise PifleetError("A rollback goes to one release.", "Give one of to_release, to_version and to_previous.")
    live = current(releases)
    if live is None:
        raise PifleetError(f"No release of {environment} was ever completed, so there is none to go back to.")
    # a release after the live one that reached hosts and did not complete: then the live one itself is where to go back to
    astray = any(release.seq > live.seq and release.reached_hosts for release in releases)
    if wanted.to_release:
        found = next((release for release in releases if release.id == wanted.to_release), None)
        if found is None:
            raise PifleetError(f"{environment} has no release {wanted.to_release}.", "`playbooks/releases.yml` lists them.")
        if found.status != COMPLETED:
            raise PifleetError(f"The release {found.id} is {found.status}, not completed: it is no state to go back to.")
    else:
        found = _newest(releases, wanted, live, astray, environment)
    if found.id == live.id and not astray:
        raise PifleetError(f"The release {found.id} is the live one already.")
    return found


def _newest(releases: Sequence[Release], wanted: Wanted, live: Release, astray: bool, environment: str) -> Release:
    possible = [r for r in releases if r.status == COMPLETED and (astray or r.id != live.id)]
    if wanted.to_version:
        possible = [release for release in possible if release.version == wanted.to_version]
        if not possible and live.version == wanted.to_version:
            raise PifleetError(f"The version {wanted.to_version} is the live one already, as {live.id}.")
        what = f"No other release of {environment} with the version {wanted.to_version} is completed"
    else:
        if not astray:
            # after a rollback, back is where the version that it left came from, not the version that it left
            origin = _origin(releases, live)
            possible = [release for release in possible if release.seq < origin.seq]
        what = f"{environment} has no completed release before {live.id}"
    if not possible:
        raise PifleetError(f"{what}, so there is none to go back to.", "`playbooks/releases.yml` lists them.")
    return possible[-1]


def _origin(releases: Sequence[Release], release: Release) -> Release:
    """The deploy that a rollback, or a rollback of a rollback, goes back to."""
    by_id = {found.id: found for found in releases}
    while release.kind == ROLLBACK and release.target_id in by_id:
        release = by_id[release.target_id]
    return release


def irreversible(releases: Sequence[Release], to: Release) -> tuple[str, ...]:
    """Return what a rollback to *to* would cross: each migration that ran since and is not marked reversible, as ``release: service``."""
    origin = _origin(releases, to)
    return tuple(
        f"{release.id}: {migration.service} ({phase})"
        for release in releases
        if release.seq > origin.seq and release.kind == DEPLOY
        for phase in (MIGRATE_PRE, MIGRATE_POST)
        if release.phase(phase).started_at
        for migration in release.plan.migrations_of(phase)
        if not migration.reversible
    )


def quarantined(releases: Sequence[Release], commit: str) -> str:
    """Return the id of the rollback that took *commit* away, as long as that rollback is the live release; empty otherwise."""
    live = current(releases)
    if live is None or live.kind != ROLLBACK:
        return ""
    origin = _origin(releases, live)
    left = {r.commit_sha for r in releases if origin.seq < r.seq < live.seq and r.kind == DEPLOY} - {origin.commit_sha}
    return live.id if commit in left else ""


def retained(releases: Sequence[Release], retain: int) -> tuple[Release, ...]:
    """Return the releases whose images stay: the newest *retain* that are completed, and what the live one goes back to."""
    kept = [release for release in releases if release.status == COMPLETED][-retain:]
    by_id = {release.id: release for release in releases}
    origins = [by_id[release.target_id] for release in kept if release.target_id in by_id]
    return tuple(sorted({r.id: r for r in (*kept, *origins)}.values(), key=lambda release: release.seq))


def removable(releases: Sequence[Release], retain: int) -> tuple[str, ...]:
    """Return the pinned references of images that no retained release has, in order: what hosts need no more."""
    keep = {image.pinned for image in _needed(releases, retain)}
    return tuple(sorted({i.pinned for release in releases for i in release.images if i.digest} - keep))


def removable_builds(releases: Sequence[Release], retain: int) -> tuple[str, ...]:
    """Return the tags of what was built for releases that are not retained, in order: what the controller needs no more."""
    keep = {image.reference for image in _needed(releases, retain)}
    return tuple(sorted({i.reference for release in releases for i in release.images if i.backend} - keep))


def _needed(releases: Sequence[Release], retain: int) -> list[Image]:
    under_way = [release for release in releases if not release.is_over]
    return [image for release in (*retained(releases, retain), *under_way) for image in release.images]


def known_images(releases: Iterable[Release]) -> dict[str, Image]:
    """Return images by what they were built from, of releases that pushed them; the newest of each."""
    return {i.inputs: i for r in releases for i in r.images if i.inputs and i.digest and r.phase("push").status == COMPLETED}


def is_as(live: Release | None, plan: Plan, rendered: Mapping[str, str]) -> bool:
    """Whether *plan* with the projects *rendered* (SHA-256 by project) would change nothing of the live release."""
    if live is None or not rendered:
        return False
    hosts = {project.name: project.hosts for project in plan.projects}
    same_hosts = hosts == {project.name: project.hosts for project in live.plan.projects}
    return same_hosts and dict(rendered) == dict(live.rendered) and (plan.version, plan.commit_sha) == (live.version, live.commit_sha)
