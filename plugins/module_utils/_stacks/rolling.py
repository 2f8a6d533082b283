# SPDX-License-Identifier: GPL-3.0-or-later
"""Replaces the containers of one service without a moment in which none serves, as docker-rollout does: start new ones beside the old, wait
until they are healthy, leave a reverse proxy time to find them, stop the old. What is not healthy in time goes, and the old stay.

Killed in between, old and new containers are drift that the next run finds: it does the same again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import model
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.case import Case
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Container, Settings
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import Ports, Source

#: seconds between two looks at new containers
_PAUSE = 0.5
#: seconds of a stack's time that are kept for taking back what does not get healthy
_RESERVE = 15.0


class Work(Protocol):
    """What is used of ``apply.Work``."""

    @property
    def case(self) -> Case: ...

    @property
    def deadline(self) -> float: ...

    @property
    def keep(self) -> tuple[int, ...]: ...


def roll(work: Work, source: Source, name: str, settings: Settings, ports: Ports) -> None:
    """Replace the containers of the service *name*. Raises PifleetError where the new ones do not get healthy: the old ones serve on."""
    old = {c.id for c in work.case.containers if c.service == name and not c.oneoff}
    stack = model.known(work.case.stack)
    scale = {name: len(old) + stack.services[name].scale}
    new: list[Container] = []
    try:
        ports.engine.up(source, (name,), recreate=False, timeout=_left(work, ports), keep=work.keep, scale=scale)
        new = _healthy(work, name, old, settings, ports)
    except PifleetError:
        _remove(work, (c.id for c in _others(work, name, old, settings, ports)), ports)
        raise
    ports.clock.sleep(min(stack.options.rolling[name], _left(work, ports)))
    _remove(work, old, ports)
    ports.log("rolled", {"stack": work.case.name, "service": name, "containers": ", ".join(c.id[:12] for c in new)})


def _healthy(work: Work, name: str, old: set[str], settings: Settings, ports: Ports) -> list[Container]:
    """Wait for the new containers, and return them: healthy, or without a health check running for a while."""
    wanted = model.known(work.case.stack).services[name].scale
    seen_since = ports.clock.monotonic()
    while True:
        new = _others(work, name, old, settings, ports)
        if bad := next((c for c in new if c.health == "unhealthy" or c.state in ("exited", "dead") or c.restarts), None):
            raise PifleetError(
                f"the new container of {name} is {bad.health if bad.health == 'unhealthy' else 'not up'}; the old one serves on."
            )
        up = [c for c in new if c.state == "running" and c.health in ("", "healthy")]
        now = ports.clock.monotonic()
        if len(up) < wanted:
            seen_since = now
        elif all(c.health for c in up) or now - seen_since >= settings.stable_seconds:
            return new
        if work.deadline - now < min(_RESERVE, settings.timeout / 3):
            raise PifleetError(f"the new container of {name} was not healthy in time; the old one serves on.")
        ports.clock.sleep(_PAUSE)


def _others(work: Work, name: str, old: set[str], settings: Settings, ports: Ports) -> list[Container]:
    seen = ports.engine.observe((), projects=(work.case.project,), timeout=settings.timeout).containers
    return [c for c in seen if c.service == name and not c.oneoff and c.id not in old]


def _remove(work: Work, containers: Iterable[str], ports: Ports) -> None:
    found = sorted(containers)
    if found:
        # what began to roll is finished, or taken back, even when the time is over
        ports.engine.remove(found, timeout=max(_RESERVE, work.deadline - ports.clock.monotonic()), keep=work.keep)


def _left(work: Work, ports: Ports) -> float:
    return max(1.0, work.deadline - ports.clock.monotonic())
