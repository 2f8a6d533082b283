# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands do: prepare, up, wipe, down, status."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lab import artifacts, build, docker, image, nodes, paths, sysctls, system, workload
from lab.artifacts import Artifacts
from lab.console import Console
from lab.inventory import Fleet, Node


@dataclass(frozen=True, slots=True)
class Prepared:
    """What nodes are started from."""

    image: str
    artifacts: tuple[Artifacts, ...]


def prepare(fleet: Fleet, console: Console) -> Prepared:
    """Have the node image and the k3s artifacts of all versions of *fleet*."""
    # the engine switches IP forwarding on, so the settings from before are kept first
    sysctls.save()
    with paths.locked(paths.cache() / "system.lock"):
        system.ensure_engine(console)
    system.need({"ssh-keygen": ["openssh-client"], "openssl": ["openssl"], "sshpass": ["sshpass"]}, console)
    build.folder().mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=2) as pool:
        tag = pool.submit(image.ensure, image.node(), console)
        made = pool.submit(lambda: tuple(artifacts.ensure(version, console) for version in fleet.versions))
        pool.submit(workload.ensure_linked, console).result()
        return Prepared(tag.result(), made.result())


def missing(fleet: Fleet, wanted: Sequence[Node]) -> tuple[Node, ...]:
    """Those of *wanted* whose container does not run."""
    running = {row["node"] for row in docker.containers(fleet.name) if row["state"] == "running"}
    return tuple(node for node in wanted if node.name not in running)


def up(fleet: Fleet, names: Sequence[str], console: Console) -> tuple[Node, ...]:
    """Start what does not run; returns the nodes that were started. Does nothing, quickly, when all run."""
    wanted = fleet.chosen(names)
    known = paths.fleet_state(fleet.name) / "known_hosts"
    prepared_before = all(artifacts.found(version) for version in fleet.versions) and (workload.linked() / "app.tar").exists()
    if known.exists() and prepared_before and not missing(fleet, wanted):
        return ()
    with paths.machine_in_use(), paths.locked(paths.fleet_state(fleet.name) / "lock"):
        prepared = prepare(fleet, console)
        absent = missing(fleet, wanted)
        if absent:
            _start(fleet, absent, prepared, console)
        nodes.write_known_hosts(fleet, wanted)
    return absent


def _start(fleet: Fleet, absent: Sequence[Node], prepared: Prepared, console: Console) -> None:
    sysctls.raise_limits()
    nodes.ensure_network(fleet)
    with console.step(f"starting {len(absent)} node{'s' if len(absent) > 1 else ''}") as step:
        nodes.start(fleet, absent, prepared.image, build.folder(), step.say)


def wipe(fleet: Fleet, names: Sequence[str], console: Console, *, trust: bool = True) -> tuple[Node, ...]:
    """Destroy nodes and start them anew: new disk, new host key, new machine id, as a reflashed card.

    *trust*: their new host keys take the place of the old ones in ``known_hosts``; without it they are strangers, as such a card is.
    """
    chosen = fleet.chosen(names)
    with paths.machine_in_use(), paths.locked(paths.fleet_state(fleet.name) / "lock"):
        prepared = prepare(fleet, console)
        existing = {row["node"]: row["name"] for row in docker.containers(fleet.name)}
        nodes.remove([existing[node.name] for node in chosen if node.name in existing])
        _start(fleet, chosen, prepared, console)
        if trust:
            nodes.write_known_hosts(fleet, chosen)
    return chosen


def down(fleets: Sequence[str] | None, console: Console) -> list[str]:
    """Remove the nodes and networks of *fleets* (None: of all). With the last one go changed sysctls and an engine the lab started.

    Returns the names of the containers that were removed.
    """
    removed = [row for row in docker.containers() if fleets is None or row["fleet"] in fleets]
    if removed:
        with console.step(f"removing {len(removed)} node{'s' if len(removed) > 1 else ''}"):
            nodes.remove([row["name"] for row in removed])
    for name, label in _networks():
        if fleets is None or label in fleets:
            docker.docker("network", "rm", name)
    for name in {row["fleet"] for row in removed}:
        (paths.fleet_state(name) / "known_hosts").unlink(missing_ok=True)
    with paths.machine_in_use(alone=True):
        if not docker.containers():
            _put_back(console)
    return [row["name"] for row in removed]


def _put_back(console: Console) -> None:
    """Undo what the lab did to the machine. Root stops the engine first, which sets some itself; another user may need it to set any."""
    if os.geteuid() == 0:
        system.stop_own_engine(console)
    for name, value in sorted(sysctls.restore().items()):
        console.line(f"{name.replace('/', '.')} is {value} again")
    system.stop_own_engine(console)


def _networks() -> list[tuple[str, str]]:
    form = '{{.Name}}\t{{.Label "pifleet.lab"}}'
    done = docker.docker_tried("network", "ls", "--filter", f"label={docker.LABEL}", "--format", form)
    return [(name, label) for name, _, label in (line.partition("\t") for line in done.stdout.splitlines())] if done.ok else []
