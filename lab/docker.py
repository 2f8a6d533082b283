# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker command line, as far as the lab uses it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed, check, run

# Every container and network of the lab carries it; its value is the fleet's name.
LABEL = "pifleet.lab"


def docker(*arguments: str, stdin: str | None = None, timeout: float = 120.0) -> str:
    """Standard output of ``docker ARGUMENTS``. Raises CommandError with what Docker said."""
    return check(docker_tried(*arguments, stdin=stdin, timeout=timeout)).stdout


def docker_tried(*arguments: str, stdin: str | None = None, timeout: float = 120.0) -> Completed:
    """The same where a failure is an answer."""
    return run(["docker", *arguments], stdin=stdin, timeout=timeout)


def containers(fleet: str | None = None) -> list[dict[str, str]]:
    """The lab's containers (of *fleet*, or all): dicts with ``name``, ``state``, ``fleet``, ``node``. Empty where no engine answers."""
    wanted = f"label={LABEL}" if fleet is None else f"label={LABEL}={fleet}"
    form = '{{.Names}}\t{{.State}}\t{{.Label "pifleet.lab"}}\t{{.Label "pifleet.lab.node"}}'
    done = docker_tried("ps", "-a", "--filter", wanted, "--format", form, timeout=120)
    rows = [line.split("\t") for line in done.stdout.splitlines()] if done.ok else []
    return [dict(zip(("name", "state", "fleet", "node"), row, strict=True)) for row in rows]


def inspect(names: Sequence[str]) -> list[Mapping[str, Any]]:
    """``docker inspect`` of containers."""
    found: list[Mapping[str, Any]] = json.loads(docker("inspect", *names)) if names else []
    return found


def image_exists(tag: str) -> bool:
    return docker_tried("image", "inspect", "--format", "{{.Id}}", tag).ok
