# SPDX-License-Identifier: GPL-3.0-or-later
"""What repairs the drift of a stack: ordered, without side effects, with a digest. Check mode, --diff and apply all use it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._stacks import model
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.files import digest
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Action, Drift, Stack

#: The action that repairs a reason; of several for one service, the first in _ORDER. What is not here takes a new container.
_KIND = {
    model.SERVICE_MISSING: model.CREATE,
    model.REPLICAS: model.SCALE,
    model.STOPPED: model.START,
    model.NEVER_STARTED: model.START,
    model.CONTAINER_MISNAMED: model.RENAME,
    model.SERVICE_UNEXPECTED: model.REMOVE,
    model.ORPHAN: model.REMOVE,
    model.STACK_MISSING: model.CREATE_STACK,
    model.STACK_UNEXPECTED: model.REMOVE_STACK,
}
_ORDER = (
    model.REMOVE_STACK,
    model.CREATE_STACK,
    model.REMOVE,
    model.RENAME,
    model.CREATE,
    model.RECREATE,
    model.SCALE,
    model.START,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One action in short: *content* is the image that the target gets or has, or what a removal takes; empty where that is not known
    yet, because it is pulled or built on the way."""

    kind: str
    target: str
    content: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done to one stack, in order. *digest*, which an acknowledgement names, is empty where there is nothing to do;
    *outline*: the same without the content of the images, which a check may not see yet; *steps*: of the actions."""

    actions: tuple[Action, ...] = ()
    digest: str = ""
    outline: str = ""
    steps: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.actions)

    def services(self, *kinds: str) -> tuple[str, ...]:
        """Names of the services with an action of one of *kinds*."""
        return tuple(action.target for action in self.actions if action.kind in kinds)


def make(stack: Stack, drift: Sequence[Drift], inputs: str, images: Mapping[str, str]) -> Plan:
    """Return the plan that repairs *drift*. *inputs*: digest of what the stack is made of; *images*: ids by reference."""
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for found in drift:
        kind = _KIND.get(found.reason, model.RECREATE)
        reasons.setdefault((kind, found.service or stack.name), {})[found.reason] = None
    reasons = _merged(_with_followers(stack, reasons))
    actions = sorted(
        (Action(kind, target, tuple(sorted(why))) for (kind, target), why in reasons.items()),
        key=lambda action: (_ORDER.index(action.kind), action.target),
    )
    steps = tuple(Step(action.kind, action.target, _image_of(stack, action.target, images)) for action in actions)
    whole = (model.CREATE_STACK, stack.name) in reasons
    made = {target for kind, target in reasons if kind in (model.CREATE, model.RECREATE, model.SCALE)}
    new = [service for name, service in sorted(stack.services.items()) if service.scale and (whole or name in made)]
    if whole:
        steps += tuple(Step(model.CREATE, service.name, _image_of(stack, service.name, images)) for service in new)
    outline = _outline(stack, actions, drift, inputs, images) if actions else ""
    content = [[service.name, images[service.image]] for service in new if service.image in images]
    return Plan(tuple(actions), digest(json.dumps([outline, content])) if content else outline, outline, steps)


def removal(name: str, containers: Iterable[str], volumes: bool) -> Plan:
    """Return the plan that removes a stack which the desired state no longer has."""
    actions = (Action(model.REMOVE_STACK, name, (model.STACK_UNEXPECTED,)),)
    step = Step(model.REMOVE_STACK, name, "containers and volumes" if volumes else "containers")
    found = digest(json.dumps([name, "remove", volumes, sorted(containers)]))
    return Plan(actions, found, found, (step,))


def of_missing(name: str, inputs: str) -> Plan:
    """Return the plan that makes a stack of which there is nothing yet, whether or not Compose can say what it consists of."""
    actions, step = (Action(model.CREATE_STACK, name, (model.STACK_MISSING,)),), Step(model.CREATE_STACK, name, "")
    found = digest(json.dumps([name, "create", inputs]))
    return Plan(actions, found, found, (step,))


def overall(plans: Iterable[tuple[str, Plan]]) -> str:
    """Return the digest of all plans of a run, by stack. A check that sees no image foretells it."""
    return digest(json.dumps([[name, plan.outline] for name, plan in plans if plan]))


def _image_of(stack: Stack, name: str, images: Mapping[str, str]) -> str:
    """Id of the image of a service as it is here; empty where the attempt itself may bring another."""
    service = stack.services.get(name)
    return "" if service is None or service.build or service.pull == "always" else images.get(service.image, "")


def _with_followers(stack: Stack, reasons: Mapping[tuple[str, str], dict[str, None]]) -> dict[tuple[str, str], dict[str, None]]:
    """*reasons* with the services that are recreated because one that they follow is."""
    found = dict(reasons)
    added = True
    while added:
        added = False
        renewed = {target for kind, target in found if kind in (model.RECREATE, model.CREATE)}
        for name, service in sorted(stack.services.items()):
            if service.scale and name not in renewed and renewed.intersection(service.follows):
                found[model.RECREATE, name] = {f"follows {', '.join(sorted(renewed.intersection(service.follows)))}": None}
                added = True
    return found


def _merged(reasons: Mapping[tuple[str, str], dict[str, None]]) -> dict[tuple[str, str], dict[str, None]]:
    """One action for each service, but for a rename, which comes before another."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    order = (model.RECREATE, model.CREATE, model.SCALE, model.START)
    for target in {target for _kind, target in reasons}:
        kinds = [kind for kind in order if (kind, target) in reasons]
        if kinds:
            found[kinds[0], target] = {why: None for kind in kinds for why in reasons[kind, target]}
        for (kind, other), why in reasons.items():
            if other == target and kind not in order:
                found[kind, target] = why
    return found


def _outline(stack: Stack, actions: Sequence[Action], drift: Sequence[Drift], inputs: str, images: Mapping[str, str]) -> str:
    """Digest of what is done, and of the desired state that it leads to."""
    if [action.kind for action in actions] == [model.CREATE_STACK]:
        return of_missing(stack.name, inputs).outline
    leads_to = {
        action.target: stack.services[action.target].hash
        for action in actions
        if action.kind in (model.CREATE, model.RECREATE, model.SCALE) and action.target in stack.services
    }
    other_content = {d.service: images.get(stack.services[d.service].image, "") for d in drift if d.reason == model.IMAGE_DIGEST_CHANGED}
    if any(action.kind == model.CREATE_STACK for action in actions):
        leads_to[stack.name] = inputs
    done = [[action.kind, action.target, list(action.reasons)] for action in actions]
    names = sorted(d.detail for d in drift if d.reason in (model.CONTAINER_MISNAMED, model.SERVICE_UNEXPECTED, model.ORPHAN))
    return digest(json.dumps([stack.name, done, leads_to, other_content, names], sort_keys=True))
