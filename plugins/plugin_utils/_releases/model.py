# SPDX-License-Identifier: GPL-3.0-or-later
"""What all parts of releases speak of. Only data: no file, no command, no clock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: the phases of every release, in order
BUILD, PUSH, MIGRATE_PRE, ROLLOUT, MIGRATE_POST, FINALIZE = "build", "push", "migrate_pre", "rollout", "migrate_post", "finalize"
PHASES = (BUILD, PUSH, MIGRATE_PRE, ROLLOUT, MIGRATE_POST, FINALIZE)

# -- status of a phase, and of a release, which has no skipped ------------------------------------------------------------------------
PENDING, RUNNING, COMPLETED, FAILED, SKIPPED = "pending", "running", "completed", "failed", "skipped"

DEPLOY, ROLLBACK = "deploy", "rollback"
ROLLING = "rolling"

# -- the fixed reasons ----------------------------------------------------------------------------------------------------------------
NO_MIGRATION = "no migration configured"
REUSES_IMAGES = "rollback reuses images"
NO_MIGRATION_BACK = "rollback runs no migrations"
NOTHING_TO_BUILD = "no service is built here"


@dataclass(frozen=True, slots=True)
class Image:
    """One service's image. *reference*: with its tag, as it is built; *digest*: ``sha256:…``, empty before it is known.

    *inputs*: digest of all that it is built from; *backend* and the rest are empty for one that is not built here.
    """

    service: str
    reference: str
    digest: str = ""
    inputs: str = ""
    backend: str = ""
    context: str = ""
    dockerfile: str = ""
    platform: str = ""
    args: Mapping[str, str] = field(default_factory=dict)

    @property
    def repository(self) -> str:
        """The reference without tag and digest."""
        name = self.reference.partition("@")[0]
        head, _slash, tail = name.rpartition("/")
        return f"{head}/{tail.partition(':')[0]}".lstrip("/")

    @property
    def pinned(self) -> str:
        """The one content: repository and digest. What is not pushed by a release is taken as the base file names it."""
        return f"{self.repository}@{self.digest}" if self.digest else self.reference


@dataclass(frozen=True, slots=True)
class Migration:
    """A command that runs once in a container of the new image of *service*, on *host*. *when*: ``pre`` or ``post`` the rollout."""

    when: str
    service: str
    argv: tuple[str, ...]
    reversible: bool
    host: str
    role: str
    timeout: int = 600


@dataclass(frozen=True, slots=True)
class Project:
    """The Compose project of one host role. *services*: how each is replaced, by name; *drain*: seconds, of those
    that are rolled."""

    role: str
    name: str
    hosts: tuple[str, ...]
    services: Mapping[str, str]
    drain: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a release would do: a value, the same for the same input. *skips*: the reason by phase that does not apply.

    *base*: folder of the base project in the repository; *batches*: hosts in the order in which they get the version.
    """

    environment: str
    kind: str
    version: str
    commit_sha: str
    base: str
    images: tuple[Image, ...]
    projects: tuple[Project, ...]
    batches: tuple[tuple[str, ...], ...]
    migrations: tuple[Migration, ...]
    skips: Mapping[str, str]
    health_timeout: float = 120.0
    health_stable: float = 3.0
    retain: int = 3
    target_id: str = ""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host, in the order of batches."""
        return tuple(host for batch in self.batches for host in batch)

    def migrations_of(self, phase: str) -> tuple[Migration, ...]:
        """Return what the phase ``migrate_pre`` or ``migrate_post`` runs, in order."""
        return tuple(m for m in self.migrations if f"migrate_{m.when}" == phase and phase not in self.skips)

    def as_table(self) -> dict[str, Any]:
        """Return the plan as JSON holds it; ``plan_of`` makes it a plan again."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the whole plan."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def plan_of(table: Mapping[str, Any]) -> Plan:
    """Return the plan that ``as_table`` wrote down."""
    made: dict[str, Any] = {
        "images": tuple(Image(**i) for i in table["images"]),
        "projects": tuple(Project(**{**p, "hosts": tuple(p["hosts"])}) for p in table["projects"]),
        "batches": tuple(tuple(b) for b in table["batches"]),
        "migrations": tuple(Migration(**{**m, "argv": tuple(m["argv"])}) for m in table["migrations"]),
    }
    return Plan(**{**table, **made})


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase as recorded. *reason*: why it failed or was skipped; *detail*: what is known of it, as JSON can hold it."""

    name: str
    status: str = PENDING
    reason: str = ""
    started_at: str = ""
    ended_at: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.status in (COMPLETED, FAILED, SKIPPED)


@dataclass(frozen=True, slots=True)
class Release:
    """A release as recorded. *images*: with digests, as far as they are known; *rendered*: SHA-256 of each project's file, by project.

    *timestamp*: when it was created, UTC; *target_id*: of a rollback, what it goes back to; *interrupted*: the run that was at it is over,
    and left it like this; *current*: it is the live one.
    """

    id: str
    environment: str
    seq: int
    version: str
    commit_sha: str
    kind: str
    status: str
    timestamp: str
    previous_id: str
    target_id: str
    run_id: str
    plan: Plan
    images: tuple[Image, ...]
    phases: tuple[Phase, ...]
    rendered: Mapping[str, str] = field(default_factory=dict)
    ended_at: str = ""
    interrupted: bool = False
    current: bool = False

    def phase(self, name: str) -> Phase:
        return self.phases[PHASES.index(name)]

    @property
    def is_over(self) -> bool:
        return self.status in (COMPLETED, FAILED)

    @property
    def reached_hosts(self) -> bool:
        """Whether its rollout began: nodes may run something of it."""
        return bool(self.phase(ROLLOUT).started_at)


def release_id(environment: str, seq: int, version: str) -> str:
    """Return the id of a release: it sorts by environment and sequence, and says the version."""
    return f"{environment}-{seq:06d}-{version}"
