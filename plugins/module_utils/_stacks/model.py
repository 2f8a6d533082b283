# SPDX-License-Identifier: GPL-3.0-or-later
"""What all parts of the stacks core speak of. Only data: no file, no command, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

_T = TypeVar("_T")

# -- drift reasons -------------------------------------------
SERVICE_MISSING = "service_missing"
SERVICE_UNEXPECTED = "service_unexpected"
IMAGE_CHANGED = "image_changed"
IMAGE_DIGEST_CHANGED = "image_digest_changed"
CONFIG_CHANGED = "config_changed"
ENV_FILE_CHANGED = "env_file_changed"
MOUNTED_FILE_CHANGED = "mounted_file_changed"
STOPPED = "stopped"
UNHEALTHY = "unhealthy"
CRASH_LOOPING = "crash_looping"
NETWORK_CHANGED = "network_changed"
VOLUME_CHANGED = "volume_changed"
ORPHAN = "orphan"
REPLICAS = "replicas"
LABEL_TAMPERED = "label_tampered"
LIMITS_CHANGED = "limits_changed"
CONTAINER_MISNAMED = "container_misnamed"
NEVER_STARTED = "never_started"
STACK_MISSING = "stack_missing"
STACK_UNEXPECTED = "stack_unexpected"

# -- status of a stack ------------------------------------------------------------------------------------------------------
SYNCED = "synced"
SYNCING = "syncing"
DRIFTED = "drifted"
FAILED = "failed"
MISSING = "missing"
DELETING = "deleting"

# -- policies -----------------------------------------------------------------------------------------------------------------
APPLY = "apply"
DETECT = "detect"
ACKNOWLEDGE = "acknowledge"
POLICIES = (APPLY, DETECT, ACKNOWLEDGE)

# -- kinds of actions ---------------------------------------------------------------------------------------------------------
CREATE_STACK = "create_stack"
CREATE = "create"
RECREATE = "recreate"
START = "start"
SCALE = "scale"
RENAME = "rename"
REMOVE = "remove"
REMOVE_STACK = "remove_stack"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one reconcile is to do.

    *path*: folder of stacks on the node; *home*: where that folder stands when it is applied (default: *path*; another one in a
    check of a desired state that is not on the node yet); *scope*: globs of stack names, and of node roles as ``role:<glob>``;
    *node_roles*, *node_name*: what ``x-pifleet`` selects by; *ignore*: ``[service/]reason[:key]`` globs of drift that is none;
    *timeout*: seconds for one stack's whole attempt, and for any other command; *stable_seconds*: how long containers must be
    seen unchanged before a stack is called synced; *owner*: whose stacks these are; *only*: no other stack than these is touched;
    *unattended*: a timer's run, which waits out the backoff of a failed revision instead of trying again at once; *images_coming*: in a
    check, images will have been loaded before the run; *tracked*: paths below
    *path* of the files that belong to the desired state (None: all).
    """

    path: str
    home: str = ""
    revision: str = ""
    commit_message: str = ""
    policy: str = APPLY
    scope: tuple[str, ...] = ()
    node_roles: tuple[str, ...] = ()
    node_name: str = ""
    remove: bool = False
    remove_volumes: bool = False
    allow_empty: bool = False
    ignore: tuple[str, ...] = ()
    parallel: int = 4
    timeout: float = 300.0
    stable_seconds: float = 3.0
    owner: str = "stacks"
    state_dir: str = "/var/lib/pifleet/stacks"
    age_key_file: str = "/etc/pifleet/age-key.txt"
    unattended: bool = False
    images_coming: bool = False
    only: tuple[str, ...] = ()
    tracked: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """What one service of a stack is to be. Nothing here tells the value of a variable.

    *hash*: digest of *keys* and *files*; *keys*: short digests by key of the resolved configuration (``environment`` and ``labels``
    by their own keys: ``environment.TZ``); *files*: short digests of mounted content by path; *names*: the container name that the
    file gives; *networks*: real names; *mounts*, *limits*: what `docker inspect` must show at least; *job*: ending with 0 is no drift;
    *undecided*: the file does not say whether it is a job; *follows*: services with which it is recreated.
    """

    name: str
    hash: str
    keys: Mapping[str, str]
    files: Mapping[str, str]
    image: str
    scale: int = 1
    container_name: str = ""
    networks: tuple[str, ...] | None = None
    mounts: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    limits: Mapping[str, str] = field(default_factory=dict)
    job: bool = False
    undecided: bool = False
    follows: tuple[str, ...] = ()
    shares: str = ""
    pull: str = ""
    platform: str = ""
    build: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """What a stack says of itself under ``x-pifleet``. None where it says nothing.

    *rolling*: services whose new container is healthy before the old one goes, each with the seconds between the two.
    """

    nodes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    policy: str | None = None
    suspended: bool = False
    drift_ignore: tuple[str, ...] = ()
    remove: bool | None = None
    rolling: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack as the desired state has it, resolved by Compose.

    *disabled*: services whose profile is off; *networks*, *volumes*: short digests of definitions, by real name.
    """

    name: str
    project: str
    services: Mapping[str, Service]
    options: Options = Options()
    disabled: tuple[str, ...] = ()
    networks: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> tuple[str, ...]:
        """The image references of its services, each once."""
        return tuple(sorted({service.image for service in self.services.values()}))


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a Compose project, as ``docker inspect`` shows it.

    *image*: the reference it was made from; *image_id*: the id of what it runs; *health*: empty without a health check;
    *started_at*: Docker's own text; *limits*, *networks*, *mounts*, *shape*: digests of what can be changed behind Compose's back
    (``docker update``, ``docker network``, a container made by hand), comparable only with those of the same service.
    """

    id: str
    name: str
    project: str
    service: str
    number: int
    oneoff: bool
    image: str
    image_id: str
    state: str
    exit_code: int
    health: str
    restarts: int
    started_at: str
    labels: Mapping[str, str]
    folder: str
    networks: tuple[str, ...]
    network_mode: str
    limits: Mapping[str, str]
    mounts: tuple[str, ...]
    shape: str


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that was seen on the node at one moment. *images*: ids by reference, of those references that are here."""

    containers: tuple[Container, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between desired and actual. *service* is empty where it is the whole stack's; *detail* has no values of variables."""

    service: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that a run does to a stack. *target*: a service, a container's name, or the stack's; *reasons*: the drift behind it."""

    kind: str
    target: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of one stack on this node. Times are UTC in ISO 8601, empty where there is none."""

    name: str
    project: str
    owner: str = "stacks"
    status: str = MISSING
    revision: str = ""
    compose_hash: str = ""
    commit_message: str = ""
    last_sync_at: str = ""
    last_attempt_at: str = ""
    last_sync_status: str = ""
    last_error: str = ""
    retry_at: str = ""
    drift: tuple[Drift, ...] = ()
    policy: str = APPLY
    awaiting_acknowledgement: bool = False
    plan_digest: str = ""
    pinned: bool = False
    suspended: bool = False
    in_scope: bool = True
    recovered: bool = False
    containers_running: int = 0
    containers_total: int = 0
    services: tuple[str, ...] = ()
    planned: tuple[Action, ...] = ()
    changed: bool = False
    actions: tuple[Action, ...] = ()

    def as_result(self) -> dict[str, Any]:
        """Return the status as a module returns it."""
        table = {name: getattr(self, name) for name in self.__slots__}
        table["services"] = list(self.services)
        table["drift"] = [{"service": d.service, "reason": d.reason, "detail": d.detail} for d in self.drift]
        for key in ("planned", "actions"):
            table[key] = [{"kind": a.kind, "target": a.target, "reasons": list(a.reasons)} for a in table[key]]
        return table


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one reconcile: every stack in the order of names, and the plan that was, or in a check would be, carried out.

    *failed*: the stacks with which something is wrong: in a check, only what is known to be wrong before anything is tried.
    """

    stacks: tuple[Status, ...] = ()
    plan_digest: str = ""
    warnings: tuple[str, ...] = ()
    failed: tuple[Status, ...] = ()

    @property
    def changed(self) -> bool:
        return any(stack.changed for stack in self.stacks)

    @property
    def failure(self) -> str:
        """One sentence on every stack that failed."""
        return "; ".join(f"stack {stack.name}: {stack.last_error}" for stack in self.failed)

    def diff(self) -> str:
        """Return as text, for ``--diff``, what is or would be done to the stacks that change, and the drift behind it."""
        lines = []
        for stack in self.stacks:
            if stack.changed:
                lines.append(f"stack {stack.name}")
                lines += [f"  {action.kind} {action.target}: {', '.join(action.reasons)}" for action in stack.actions]
                lines += [f"    {found.service or stack.name}: {found.reason}: {found.detail}" for found in stack.drift if found.detail]
        return "".join(f"{line}\n" for line in lines)

    def as_result(self) -> dict[str, Any]:
        """Return what the modules return: ``changed``, ``plan`` (``digest``, ``actions``) and ``stacks``."""
        actions = [{"stack": stack.name, **action} for stack in self.stacks for action in stack.as_result()["actions"]]
        found = {"warnings": list(self.warnings)} if self.warnings else {}
        return {
            **found,
            "changed": self.changed,
            "plan": {"digest": self.plan_digest, "actions": actions},
            "stacks": [stack.as_result() for stack in self.stacks],
        }


def known(value: _T | None) -> _T:
    """Return *value*, of which the caller knows that it is there. Raises AssertionError where it is not: a defect, not an input."""
    if value is None:
        raise AssertionError("a value that has to be known by now is not")
    return value
