# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the containers of a stack keep running: several looks that show the same. Pure, but for what it remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ansible_collections.pifleet.ops.plugins.module_utils._stacks.drift import LOOP_RESTARTS
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Container, Service, Stack

#: Looks that have to show the same, however short the time asked for is.
LOOKS = 3
#: Seconds that a service may take to stop crashing, as one does that waits for a database to come up.
LOOP_PATIENCE = 8.0

STABLE = "stable"
WAITING = "waiting"


class Watch:
    """The looks at one stack, from its first on.

    *deadline*: when, by the clock of *now*, waiting is over; *before*: restarts by container, as they were before anything was done.
    """

    def __init__(self, stack: Stack, stable_seconds: float, now: float, deadline: float, before: Mapping[str, int]) -> None:
        self.stack = stack
        self._stable = stable_seconds
        self._began, self._deadline = now, deadline
        self._before, self._last = before, dict(before)
        self._codes: dict[str, int] = {}
        self._seen: tuple[tuple[str, str, str], ...] = ()
        self._since, self._looks = now, 0

    def look(self, containers: Sequence[Container], now: float) -> tuple[str, str]:
        """Return (STABLE, ""), (WAITING, what for), or ("", why it failed), from all containers of its project."""
        reason = ""
        for name, service in sorted(self.stack.services.items()):
            here = [c for c in containers if c.service == name and not c.oneoff]
            verdict, why = self._service(service, here, now)
            if not verdict:
                return "", why
            reason = reason or why
        seen = tuple(sorted((c.id, c.started_at, c.state) for c in containers if c.service in self.stack.services))
        if reason or seen != self._seen:
            self._seen, self._since, self._looks = seen, now, 0
        self._looks += 1
        if not reason and self._looks >= LOOKS and now - self._since >= self._stable:
            return STABLE, ""
        if now >= self._deadline:
            return "", f"{reason or 'it does not come to rest'} after {now - self._began:.0f} seconds"
        return WAITING, reason

    def _service(self, service: Service, here: Sequence[Container], now: float) -> tuple[str, str]:
        if len(here) < service.scale:
            return WAITING, f"{service.name} has {len(here)} of {service.scale} containers"
        waiting = ""
        for container in here[: service.scale] if service.scale else ():
            verdict, why = self._container(service, container, now)
            if not verdict:
                return verdict, why
            waiting = waiting or why
        return WAITING, waiting

    def _container(self, service: Service, container: Container, now: float) -> tuple[str, str]:
        last, self._last[container.id] = self._last.get(container.id, 0), container.restarts
        if container.exit_code:  # between two starts Docker does not tell it any more
            self._codes[container.id] = container.exit_code
        looping = container.restarts - self._before.get(container.id, 0) >= LOOP_RESTARTS
        if looping and now - self._began >= LOOP_PATIENCE and (container.state != "running" or container.restarts > last):
            return "", f"{container.name} crashes again and again ({container.restarts} restarts{self._code(container)})"
        if container.health == "unhealthy":
            return "", f"{container.name} is unhealthy"
        if container.state == "running":
            return WAITING, f"{container.name} is not healthy yet" if container.health == "starting" else ""
        if container.state == "exited" and service.limits.get("RestartPolicy", "no") == "no":
            if container.exit_code == 0 and (service.job or service.undecided):
                return WAITING, ""
            return "", f"{container.name} ended with exit code {container.exit_code}"
        if container.state == "exited" and container.exit_code == 0 and service.job:
            return WAITING, ""
        return WAITING, f"{container.name} is {container.state}"

    def _code(self, container: Container) -> str:
        """The exit code it ended with last, as far as that was seen."""
        return f", exit code {self._codes[container.id]}" if container.id in self._codes else ""


def holding_up(stack: Stack, containers: Sequence[Container]) -> str:
    """Say what an apply that came to no end waits for: services that are not healthy, or jobs that do not end. Empty where nothing is."""
    found = []
    for name, service in sorted(stack.services.items()):
        for container in (c for c in containers if c.service == name and not c.oneoff):
            if container.health in ("starting", "unhealthy"):
                found.append(f"{container.name} is not healthy")
            elif container.state == "running" and service.job:
                found.append(f"{container.name} has not completed")
    return ", ".join(found)
