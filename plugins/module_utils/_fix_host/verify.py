# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a service is well: its containers run, its health URL answers, its checks end with 0; several looks one after the other."""

from __future__ import annotations

import itertools
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._fix_host.service import Service

#: seconds that one look waits for an answer
_PATIENCE = 5.0
_MOST = 1 << 16
#: seconds that a check has in any case, where the time of all is all but over
_LEAST = 1.0


@dataclass(frozen=True, slots=True)
class Health:
    """*url*: ``{address}`` stands for the container's; *checks*: each with ``name``, ``argv``, ``timeout``;
    *secrets*: what is masked in what these say, before it is cut."""

    url: str
    interval: float
    timeout: float
    samples: int
    checks: tuple[Mapping[str, Any], ...] = ()
    secrets: tuple[str, ...] = ()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """200 is asked for: where it leads elsewhere, that is no 200."""

    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        return None


def get(url: str, limit: float = _PATIENCE) -> tuple[bool, str]:
    """Return whether a GET of *url* is answered with 200, and what was said. No proxy of the node has a say."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(url, timeout=limit) as answer:
            answer.read(_MOST)
            return answer.status == 200, f"{answer.status}"
    except urllib.error.HTTPError as error:
        return False, f"{error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return False, str(getattr(error, "reason", error))


def look(url: str, containers: Sequence[Mapping[str, Any]]) -> tuple[bool, str]:
    """Return whether the service is well at this moment, and why not."""
    if not containers:
        return False, "it has no container"
    for one in containers:
        if one["state"] != "running":
            return False, f"{one['name']} is {one['state']} (exit code {one['exit_code']})"
        if one["health"] not in ("", "healthy"):
            return False, f"{one['name']} is {one['health']}"
        if url:
            ok, said = get(url.replace("{address}", one["address"]))
            if not ok:
                return False, f"{url} answers {said}"
    return True, "it runs and answers"


def check(
    service: Service, container: Mapping[str, Any], wanted: Mapping[str, Any], most: float = float("inf"), secrets: Iterable[str] = ()
) -> tuple[bool, str, str]:
    """Run a check in a container, for its timeout or *most* seconds, and return whether it ended with 0, why not, and what it said."""
    done = service.execute(container["id"], wanted["argv"], min(float(wanted["timeout"]), most))
    said = scrub(f"{done.stdout}{done.stderr}".strip(), secrets)[-2000:]
    why = f"the check {wanted['name']} ended with exit code {done.rc} in {container['name']}"
    return done.ok, "" if done.ok else why, f"check {wanted['name']} in {container['name']}: exit code {done.rc}: {said}"


def verify(
    service: Service, health: Health, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> tuple[bool, str, list[str]]:
    """Return whether the service was well for all samples one after the other within the time, why not, and what was seen, line by line.

    A look is a good one where all checks end with 0 in all containers. It takes as long as they do; the next begins an interval after it
    began. A container that came up anew, or is another one, between two looks begins the count again: it flaps.
    """
    began, lines = clock(), []
    said: dict[tuple[str, str], str] = {}
    steady, before, why = 0, None, ""
    while True:
        at = clock()
        containers = service.containers()
        ok, why = look(health.url, containers)
        for wanted, one in itertools.product(health.checks, containers) if ok else ():
            ok, failed, line = check(service, one, wanted, max(began + health.timeout - clock(), _LEAST), health.secrets)
            # not again what it said the time before
            if said.get((wanted["name"], one["name"])) != line:
                said[wanted["name"], one["name"]] = line
                lines.append(line)
            if not ok:
                why = failed
                break
        now = [(one["id"], one["restarts"]) for one in containers]
        steady = (steady + 1 if before in (None, now) or not steady else 1) if ok else 0
        before = now
        lines.append(f"{clock() - began:7.1f} s  {steady}/{health.samples}  {why}")
        if steady >= health.samples:
            return True, f"well for {health.samples} looks", lines
        pause = max(at + health.interval - clock(), 0.0)
        if clock() + pause > began + health.timeout:
            return False, f"not well for {health.samples} looks within {health.timeout:g} seconds: {why}", lines
        sleep(pause)
