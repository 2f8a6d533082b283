# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out the plan of one stack. Killed at any step, what is there then is drift that the next run finds and repairs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import drift, locks, model, override, rolling, state
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.case import Case
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Settings, Stack
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import Ports
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.state import Record


@dataclass(slots=True)
class Work:
    """The attempt at one stack: *deadline* by the monotonic clock, *keep*: the lock's descriptor, *record*: what is kept meanwhile."""

    case: Case
    record: Record
    deadline: float
    keep: tuple[int, ...]


def carry_out(work: Work, settings: Settings, ports: Ports) -> None:
    """Carry out the plan of *work*. Raises PifleetError; ``case.changed`` says whether anything was changed before that."""
    case = work.case
    if case.plan.services(model.REMOVE_STACK):
        case.changed = True
        ports.engine.down(case.project, volumes=settings.remove_volumes, timeout=_left(work, ports), keep=work.keep)
        return
    stack = model.known(case.stack)  # a plan other than a removal comes from a resolved stack
    new, kept = case.new_services, case.plan.services(model.SCALE, model.START)
    images = _with_images(work, stack, (*new, *case.plan.services(model.SCALE)), settings, ports)
    given = override.new_labels(stack, settings, images, locks.iso(ports.clock.now()))
    attempt = {**work.record.attempt, **{name: given[name] for name in new}}
    work.record = replace(work.record, attempt=attempt)
    state.save(settings.state_dir, work.record)
    _before_compose(work, stack, ports)
    _compose(work, {**given, **_labels_of(case, kept)}, new, kept, settings, ports)


def _left(work: Work, ports: Ports) -> float:
    left = work.deadline - ports.clock.monotonic()
    if left <= 0:
        raise PifleetError("no time was left for it.", "Give it more (stacks_timeout), or look for what takes so long.")
    return left


def _labels_of(case: Case, kept: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """The labels that the containers of services carry: given again, they make no difference to Compose."""
    return {c.service: dict(c.labels) for c in case.containers if c.service in kept and not c.oneoff}


# -- images ---------------------------------------------------------------------------------------------------------------------------
def _with_images(work: Work, stack: Stack, new: tuple[str, ...], settings: Settings, ports: Ports) -> Mapping[str, str]:
    """Ids of images by reference, after those that are missing were pulled or built. A registry that is down only matters for these."""
    case, images = work.case, dict(work.case.images)
    built = [
        name for name in new if stack.services[name].build and (stack.services[name].image not in images or _context_changed(case, name))
    ]
    if built:
        case.changed = True
        ports.engine.build(case.source, built, timeout=_left(work, ports), keep=work.keep)
    pulled = {
        stack.services[name].image: stack.services[name] for name in new if name not in built and _is_pulled(stack.services[name], images)
    }
    for image, service in sorted(pulled.items()):
        try:
            ports.engine.pull(image, service.platform, timeout=_left(work, ports))
            case.changed = True
        except PifleetError as error:
            if image not in images:
                raise PifleetError(f"the image {image} of {service.name} is not here and cannot be pulled: {error}") from None
    if built or pulled:
        images |= ports.engine.observe(stack.images, projects=(stack.project,), timeout=settings.timeout).images
    return images


def _is_pulled(service: model.Service, images: Mapping[str, str]) -> bool:
    if service.build or service.pull == "never":
        return False
    return service.pull == "always" or service.image not in images


def _context_changed(case: Case, name: str) -> bool:
    """Whether what the image of a service is built from differs from what it was built from."""
    before = case.record.applied.get(name) if case.record else None
    now = case.stack.services[name] if case.stack else None
    return before is None or now is None or before.service.keys.get("build") != now.keys.get("build")


# -- what Compose does not do -----------------------------------------------------------------------------------------------------------
def _before_compose(work: Work, stack: Stack, ports: Ports) -> None:
    """Put right what would be in Compose's way: containers under wrong names, of no service, paused, or on networks that change."""
    case, engine = work.case, ports.engine
    own = [c for c in case.containers if not c.oneoff]
    strangers = [c.id for c in own if c.service in case.plan.services(model.REMOVE) and c.service not in stack.services]
    misnamed = case.plan.services(model.RENAME)
    for name in misnamed:
        here = [c for c in own if c.service == name]
        left = {c.id for c in drift.leftovers(stack.project, stack.services[name], here)}
        taken = {c.name for c in here}
        for container in here:
            right = drift.expected_name(stack.project, stack.services[name], container)
            if container.id in left or (container.name != right and right in taken):
                strangers.append(container.id)
            elif container.name != right:
                case.changed = True
                taken.add(right)
                engine.rename(container.id, right, timeout=_left(work, ports))
    if strangers:
        case.changed = True
        engine.remove(strangers, timeout=_left(work, ports), keep=work.keep)
    if paused := [c.id for c in own if c.state == "paused" and c.service in case.plan.services(model.START, model.SCALE, model.RECREATE)]:
        case.changed = True
        engine.unpause(paused, timeout=_left(work, ports))
    for network, value in sorted(stack.networks.items()):
        if work.record.networks.get(network, value) != value:
            case.changed = True
            engine.drop_network(network, [c.id for c in own if network in c.networks], timeout=_left(work, ports))


def _compose(
    work: Work,
    given: Mapping[str, Mapping[str, str]],
    new: tuple[str, ...],
    kept: tuple[str, ...],
    settings: Settings,
    ports: Ports,
) -> None:
    """Let Compose do the rest, in one call where that is possible: what is replaced must not take along what is only to be started."""
    case = work.case
    rolled = tuple(name for name in case.plan.services(model.RECREATE) if _is_rolled(case, name))
    recreated = tuple(name for name in case.plan.services(model.RECREATE) if name not in rolled)
    if not new and not kept:
        return
    path = os.path.join(settings.state_dir, case.project + override.SUFFIX)
    state.write(path, override.text({name: given[name] for name in (*new, *kept) if name in given}))
    source = replace(case.source, files=(*case.source.files, path))
    case.changed = True
    for name in rolled:
        rolling.roll(work, source, name, settings, ports)
    new = tuple(name for name in new if name not in rolled)
    calls = [(kept, False), (new, True)] if recreated else [(tuple(sorted((*new, *kept))), False)]
    for services, recreate in calls:
        if services:
            ports.engine.up(source, services, recreate=recreate, timeout=_left(work, ports), keep=work.keep)


def _is_rolled(case: Case, name: str) -> bool:
    """Whether the old container of a service goes only when the new one is healthy: it says so, and there is one that serves."""
    stack = model.known(case.stack)
    serving = any(c.service == name and c.state == "running" and not c.oneoff for c in case.containers)
    return name in stack.options.rolling and serving and bool(stack.services[name].scale)
