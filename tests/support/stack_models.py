# SPDX-License-Identifier: GPL-3.0-or-later
"""Stacks as data: what the pure part of the core works on, made without Docker."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.pifleet.ops.plugins.module_utils._stacks import labels, model
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.case import Case
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.files import Folder
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Container, Service, Settings, Stack
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.override import new_labels
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.state import Applied, Record

IMAGES = {"pifleet/lab-app:1": f"sha256:{'1' * 64}", "pifleet/lab-app:2": f"sha256:{'2' * 64}"}
SETTINGS = Settings("/srv/stacks", revision="a" * 40, commit_message="words")
STARTED = "2026-01-01T00:00:00.000000000Z"


def service(name: str, project: str, **more: object) -> Service:
    """A service with as many keys as one of a real stack has."""
    keys = {f"environment.VARIABLE_{n}": f"{n:016x}" for n in range(6)} | {"image": "0" * 16, "networks": "1" * 16, "restart": "2" * 16}
    values = {"keys": keys, "files": {f"{name}.conf": "3" * 16}, "image": "pifleet/lab-app:1", "networks": (f"{project}_default",)}
    return Service(**{"name": name, "hash": f"{name:0>32}", "limits": {"Memory": "0", "RestartPolicy": "always"}, **values, **more})


def settled(name: str, services: int) -> Case:
    """A stack of *services* that is on the node as it is to be."""
    stack = Stack(name, name, {f"s{n}": service(f"s{n}", name) for n in range(services)}, networks={f"{name}_default": "4" * 16})
    given = new_labels(stack, SETTINGS, IMAGES, STARTED)
    containers = tuple(container(stack, one, given[one]) for one in stack.services)
    applied = {
        c.service: Applied(stack.services[c.service], (given[c.service],), c.limits, c.mounts, c.shape, {c.id: 0}) for c in containers
    }
    record = Record(name, name, labels.STACKS, model.SYNCED, applied=applied, networks=stack.networks, stack=stack)
    folder = Folder(name, name, f"/srv/stacks/{name}", (f"/srv/stacks/{name}/compose.yaml",), {"compose.yaml": "5" * 16})
    return Case(
        name,
        name,
        folder,
        home=folder.path,
        stack=stack,
        record=replace(record, content=folder.content),
        containers=containers,
        images=IMAGES,
    )


def container(stack: Stack, name: str, given: dict[str, str]) -> Container:
    """The container of service *name*, as it is after a verified sync."""
    wanted = stack.services[name]
    return Container(
        id=f"{stack.project}/{name}".encode().hex()[:64],
        name=f"{stack.project}-{name}-1",
        project=stack.project,
        service=name,
        number=1,
        oneoff=False,
        image=wanted.image,
        image_id=IMAGES[wanted.image],
        state="running",
        exit_code=0,
        health="",
        restarts=0,
        started_at=STARTED,
        labels=given,
        folder=f"/srv/stacks/{stack.name}",
        networks=wanted.networks or (),
        network_mode="",
        limits=wanted.limits,
        mounts=wanted.mounts,
        shape="6" * 32,
    )


def disturbed(case: Case) -> Case:
    """The same with drift: the first service stopped and limited by hand, the second of another image, the last one gone."""
    first, second, *rest, _ = case.containers
    first = replace(first, state="exited", exit_code=137, limits={**first.limits, "Memory": "1048576"})
    second = replace(second, image="pifleet/lab-app:2", image_id=IMAGES["pifleet/lab-app:2"])
    return replace(case, containers=(first, second, *rest))
