# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images for the nodes' Docker Engines: archives for ``docker load``, made without a registry (docs/lab.md, "Images")."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import images, nodes, paths, tools
from lab.console import Console
from lab.images import Image
from lab.inventory import Fleet, Node

NAME = "pifleet/lab-app"
#: archive -> image tag -> what its /version says; ``other`` has a known tag with another content
ARCHIVES = {"app": {"1": "1", "2": "2", "3": "3"}, "other": {"1": "1 made anew"}}
#: what health checks of other images call
COMMANDS = ("bin/sh", "usr/bin/curl", "usr/bin/wget")
LOAD_TIMEOUT = 120.0  # seconds


def linked() -> Path:
    """The stable folder that the lab's inventories name as ``stacks_artifact_dir``: in it a link to the archive ``app``."""
    return paths.STATE / "images"


def ensure_linked(console: Console) -> None:
    """Have that folder."""
    link = linked() / "app.tar"
    real = archive("app", console)
    if not link.exists() or link.resolve() != real.resolve():
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh = link.with_name(f".{link.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(real.resolve())
        fresh.replace(link)


def archive(name: str, console: Console) -> Path:
    """The archive *name* of ARCHIVES, in the cache."""
    program = tools.ensure("workload", console)
    tags = ARCHIVES[name].items()
    return _written([Image(f"{NAME}:{tag}", program, command=("serve",), files=_version(said)) for tag, said in tags])


def standins(references: Sequence[str], console: Console) -> Path:
    """An archive with the program under other names: in the place of images that only a registry has.

    *references*: as ``docker.io/library/caddy:2``, or with the ports to serve on (default: 8080) as ``docker.io/library/caddy:2=80,443``.
    """
    program = tools.ensure("workload", console)
    found = []
    for reference in references:
        name, _, ports = reference.partition("=")
        found.append(Image(name, program, arguments=("standin", ports or "8080"), files=_version(name), links=COMMANDS))
    return _written(found)


def _version(said: str) -> dict[str, bytes]:
    return {"version": f"{said}\n".encode()}


def _written(wanted: list[Image]) -> Path:
    code = [Path(images.__file__).read_bytes(), Path(__file__).read_bytes()]
    key = hashlib.sha256(repr(sorted(map(repr, wanted))).encode() + b"".join(code)).hexdigest()[:12]
    target = paths.cache() / "workload" / f"{key}.tar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with paths.locked(target.with_suffix(".lock")):
            part = target.with_suffix(".partial")
            images.write_archive(part, wanted, "amd64")
            part.rename(target)
    return target


def load(fleet: Fleet, wanted: Sequence[Node], file: Path) -> None:
    """Put the images of *file* into the engines of the nodes, which must run."""

    def one(node: Node) -> None:
        command = ["docker", "exec", "--interactive", nodes.container(fleet.name, node.name), "docker", "load", "--quiet"]
        with file.open("rb") as stream:
            done = subprocess.run(command, stdin=stream, capture_output=True, text=True, timeout=LOAD_TIMEOUT, check=False)
        if done.returncode != 0:
            hint = f"Start it: python -m lab exec {node.name} -- systemctl start docker"
            raise PifleetError(f"{node.name} does not take the images: {done.stderr.strip()}", hint)

    nodes.in_parallel(one, wanted)
