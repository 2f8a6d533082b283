# SPDX-License-Identifier: GPL-3.0-or-later
"""One stack in the course of a run: what is wanted, what is kept, what is there, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.pifleet.ops.plugins.module_utils._stacks import drift, labels, model, plan
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.files import Folder, digest
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Container, Drift, Options, Settings, Stack
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.plan import Plan
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import Source
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.state import Record

NOTHING = Plan()


@dataclass(slots=True)
class Case:
    """*folder* is None for a stack that the desired state no longer has; *home*: where that folder stands, or will stand, when the stack
    is applied; *stack* is None as long as Compose has not resolved it; *sops*: digests of encrypted and decrypted files;
    *loaded*: the record as it was read, *record* with what this run learned;
    *error* says why it cannot be worked on; *waiting*: its plan needs an acknowledgement; *deferred*: it failed a short while ago;
    *removable*: the desired state allows its removal;
    *ours*: False where a project of that name is somebody else's; *settled*: this run repaired what *drift* says."""

    name: str
    project: str
    folder: Folder | None = None
    home: str = ""
    stack: Stack | None = None
    record: Record | None = None
    loaded: Record | None = None
    error: str = ""
    fingerprint: str = ""
    outside: Mapping[str, str] = field(default_factory=dict)
    sops: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    containers: tuple[Container, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    in_scope: bool = True
    removable: bool = False
    drift: tuple[Drift, ...] = ()
    plan: Plan = NOTHING
    policy: str = model.APPLY
    waiting: bool = False
    deferred: bool = False
    ours: bool = True
    settled: bool = False
    changed: bool = False

    @property
    def inputs(self) -> str:
        """Digest of what the desired state made it of; empty where it is gone from there."""
        return self.folder.inputs if self.folder else ""

    @property
    def made_of(self) -> str:
        """Digest of the same, and of files elsewhere that it mounts."""
        return digest("\n".join([self.inputs, *(f"{path}\0{value}" for path, value in sorted(self.outside.items()))]))

    @property
    def source(self) -> Source:
        """It as Compose is told of it."""
        folder = model.known(self.folder)  # only what the desired state has is given to Compose
        return Source(self.project, folder.path, folder.files)

    @property
    def says(self) -> Options:
        """What the stack's own compose file says of it; where that is gone, what it said last."""
        stack = self.stack or (self.record.stack if self.record and self.folder is None else None)
        return stack.options if stack else Options()

    @property
    def suspended(self) -> bool:
        return self.says.suspended

    @property
    def pinned(self) -> bool:
        return bool(self.record and self.record.pinned)

    @property
    def left_alone(self) -> bool:
        """Whether somebody said that no run works on it: what it last failed of is no failure of this run."""
        return not self.in_scope or self.suspended or self.pinned

    @property
    def to_do(self) -> bool:
        """Whether this run carries its plan out."""
        return bool(self.plan) and not self.error and not self.waiting and not self.deferred and self.policy != model.DETECT

    @property
    def to_verify(self) -> bool:
        """Whether it is as desired, but was not seen to be so for long enough yet."""
        settled = (
            not self.plan and not self.drift and not self.error and self.in_scope and self.stack and not self.suspended and not self.pinned
        )
        return bool(settled) and (self.record is None or self.record.status != model.SYNCED)

    def judge(self, settings: Settings, now: float) -> None:
        """Find its drift and its plan. Sets *drift*, *plan*, *policy*, and *error* where it is not this owner's to touch."""
        self.drift, self.plan = (), NOTHING
        self.policy = self.says.policy or settings.policy
        if self.folder is None:
            self._judge_removal(settings)
        elif not self.error and self.stack:
            self._claim(settings.owner)
            if not self.error and self.in_scope and not self.suspended and not self.pinned:
                self.drift = drift.compare(
                    self.stack,
                    self.containers,
                    self.images,
                    self.record,
                    owner=settings.owner,
                    now=now,
                    content=self.folder.content,
                    ignore=settings.ignore,
                )
                self.plan = plan.make(self.stack, self.drift, self.inputs, self.images)
                if not settings.images_coming:
                    self._refuse_missing_images(self.stack)

    def _refuse_missing_images(self, stack: Stack) -> None:
        """An image that is not here and may not be pulled is an error before anything is touched."""
        for name in self.new_services:
            service = stack.services[name]
            if service.pull == "never" and not service.build and service.image not in self.images:
                self.error = f"the image {service.image} of {name} is not here, and its pull_policy is never. Load it on the node."

    @property
    def new_services(self) -> tuple[str, ...]:
        """Names of the services that the plan gives new containers."""
        if self.stack and self.plan.services(model.CREATE_STACK):
            return tuple(name for name, service in sorted(self.stack.services.items()) if service.scale)
        return self.plan.services(model.CREATE, model.RECREATE)

    @property
    def new_names(self) -> tuple[str, ...]:
        """Names that the containers which the plan creates may take."""
        if not self.stack:
            return ()
        named = [(name, self.stack.services[name]) for name in (*self.new_services, *self.plan.services(model.SCALE))]
        return tuple(
            service.container_name or f"{self.project}-{name}-{number}" for name, service in named for number in range(1, service.scale + 1)
        )

    def _claim(self, owner: str) -> None:
        self.error = foreign(self.containers, owner, self.home)
        self.ours = not self.error

    def _judge_removal(self, settings: Settings) -> None:
        if not self.in_scope or self.pinned or self.suspended:
            return
        names = [c.name for c in self.containers]
        self._claim(settings.owner)
        self.drift = (Drift("", model.STACK_UNEXPECTED, ", ".join(sorted(names))),)
        if self.removable and (settings.remove if self.says.remove is None else self.says.remove):
            self.plan = plan.removal(self.name, names, settings.remove_volumes)


def foreign(containers: Sequence[Container], owner: str, home: str) -> str:
    """Say whose a project is that is not ours to touch; empty where it is ours, or nobody's yet."""
    own = [c for c in containers if not c.oneoff]
    others = sorted({c.labels[labels.OWNER] for c in own if c.labels.get(labels.OWNER, owner) != owner})
    if others:
        return f"a Compose project of this name on this node belongs to {', '.join(others)}. Rename the stack, or take the other away."
    if own and not any(labels.OWNER in c.labels or c.folder == home for c in own):
        where = own[0].folder or "an unknown folder"
        return f"a Compose project of this name, of {where}, is here and was not made by this collection. Rename the stack, or remove it."
    return ""
