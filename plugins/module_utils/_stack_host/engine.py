# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker Engine and Compose of a node: what is there, read from files alone, and where what is missing comes from. Pure but for reading."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common import dpkg
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.node import Node

MINIMUM = (2, 20)
MINIMUM_TEXT = "2.20"
#: releases whose own packages have a Compose that is new enough: packages.debian.org, packages.ubuntu.com
DISTRIBUTION: Mapping[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("debian", "13"): (("docker.io", "docker-cli"), "docker-compose"),
    ("raspbian", "13"): (("docker.io", "docker-cli"), "docker-compose"),
    ("ubuntu", "24.04"): (("docker.io",), "docker-compose-v2"),
}
#: what the packages of the other supported releases have instead
_TOO_OLD = {
    "12": "bookworm's docker-compose is Compose 1 (1.29, written in Python), which nobody maintains any more",
    "22.04": "Ubuntu 22.04 was released without Compose 2",
}
#: https://docs.docker.com/engine/install/: the folder of the repository for each distribution, and its packages
_FOLDERS = {"debian": "debian", "raspbian": "raspbian", "ubuntu": "ubuntu"}
ENGINE_PACKAGES = ("docker-ce", "docker-ce-cli", "containerd.io")
COMPOSE_PACKAGE = "docker-compose-plugin"
_COMPOSE = ("docker-compose", "docker-compose-v2", COMPOSE_PACKAGE)
#: https://docs.docker.com/engine/install/debian/ (the key's full fingerprint)
FINGERPRINT = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
KEY = "/etc/apt/keyrings/pifleet-docker.asc"
SOURCE = "/etc/apt/sources.list.d/pifleet-docker.sources"
DOCKERD = ("/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd")
CLI = ("/usr/bin/docker", "/usr/local/bin/docker")
#: where the CLI looks for plugins: docker/cli, cli-plugins/manager
PLUGINS = tuple(
    f"{folder}/docker-compose"
    for folder in (
        "/usr/local/lib/docker/cli-plugins",
        "/usr/local/libexec/docker/cli-plugins",
        "/usr/lib/docker/cli-plugins",
        "/usr/libexec/docker/cli-plugins",
    )
)
_DEB = re.compile(r"(?P<name>[a-z0-9][a-z0-9.+-]*)_(?P<version>[^_]+)_(?P<arch>[a-z0-9]+)\.deb")


@dataclass(frozen=True, slots=True)
class Installed:
    """*engine*, *cli*: whether they are there; *compose*: its version as numbers, None where there is none."""

    engine: bool
    cli: bool
    compose: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Supply:
    """What has to be installed, and from where. *debs*: files of the controller; *source*: content of apt's file for Docker's repository,
    empty where the node's own sources have it."""

    packages: tuple[str, ...] = ()
    debs: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where Docker may come from. *prefer*: ``auto``, ``distribution`` or ``docker``; *repository*: base URL of Docker's apt repositories;
    *fingerprint*: of the key that signs them; *debs*: names of package files that the controller has, which come first."""

    prefer: str = "auto"
    repository: str = "https://download.docker.com/linux"
    fingerprint: str = FINGERPRINT
    debs: tuple[str, ...] = ()


def installed(node: Node, status: str) -> Installed:
    """Return what the node has. Compose is asked for its version only where no package tells it."""
    plugin = next((path for path in PLUGINS if node.exists(path)), "")
    packaged = "" if plugin.startswith("/usr/local/") else next(filter(None, (dpkg.field(status, p, "Version") for p in _COMPOSE)), "")
    version = parse_version(packaged or node.compose_version()) if plugin else None
    return Installed(any(map(node.exists, DOCKERD)), any(map(node.exists, CLI)), version)


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with (``2.26.1-4``, ``v2.24.6+ds1-0ubuntu1``, epoch left out); (0,) where there are none."""
    found = re.match(r"(?:\d+:)?v?(\d+(?:\.\d+)*)", text.strip())
    return tuple(int(part) for part in found[1].split(".")) if found else (0,)


def supply(found: Installed, release: tuple[str, str, str], architecture: str, status: str, origin: Origin) -> Supply:
    """Return what has to be installed for a Docker Engine with Compose; nothing where both are there and new enough.

    *release*: id, version and codename of os-release(5); *architecture*: dpkg's. An engine that is there stays the one it is.
    Raises PifleetError where it cannot be had, with the reason.
    """
    engine = not (found.engine and found.cli)
    compose = found.compose is None or found.compose < MINIMUM
    if not engine and not compose:
        return Supply()
    if origin.debs:
        return _from_files(engine, compose, architecture, origin.debs)
    os_id, version, codename = release
    known = DISTRIBUTION.get((os_id, version))
    docker_ce = bool(dpkg.field(status, "docker-ce", "Version"))
    if known and origin.prefer != "docker" and not docker_ce:
        packages, plugin = known
        return Supply((*(packages if engine else ()), *((plugin,) if compose else ())))
    if origin.prefer == "distribution":
        why = _TOO_OLD.get(version, f"the packages of {os_id} {version} are not known to have Compose {MINIMUM_TEXT} or newer")
        raise PifleetError(
            f"Compose {MINIMUM_TEXT} or newer is needed, and {why}.",
            "Set stacks_docker_source: docker (Docker's own apt repository), or stacks_artifact_dir to a folder with Docker's .deb files.",
        )
    source = "" if docker_ce else _apt_source(_FOLDERS.get(os_id, "debian"), codename, architecture, origin.repository)
    return Supply((*(ENGINE_PACKAGES if engine else ()), *((COMPOSE_PACKAGE,) if compose else ())), source=source)


def _from_files(engine: bool, compose: bool, architecture: str, names: Sequence[str]) -> Supply:
    """Return the files for this architecture. All of them: what they depend on may be among them."""
    fitting = [name for name in sorted(names) if (deb := _DEB.fullmatch(name)) and deb["arch"] in (architecture, "all")]
    packages = {name.partition("_")[0] for name in fitting}
    lacks = [
        what
        for needed, what, any_of in (
            (engine, "Docker Engine (docker-ce or docker.io)", ("docker-ce", "docker.io")),
            (compose, "Compose 2 (docker-compose-plugin, docker-compose-v2 or trixie's docker-compose)", _COMPOSE),
        )
        if needed and not packages & set(any_of)
    ]
    if lacks:
        raise PifleetError(
            f"stacks_artifact_dir has no .deb file for {architecture} of {' and of '.join(lacks)}.",
            "Put it there, named as apt names it (NAME_VERSION_ARCHITECTURE.deb), or leave stacks_artifact_dir empty.",
        )
    return Supply(debs=tuple(fitting))


def further_debs(names: Sequence[str], architecture: str, status: str) -> tuple[str, ...]:
    """Return the files of programs that stacks may need beside Docker, and that the node does not have."""
    fitting = (deb for name in sorted(names) if (deb := _DEB.fullmatch(name)) and deb["arch"] in (architecture, "all"))
    return tuple(deb[0] for deb in fitting if deb["name"] == "sops" and not dpkg.field(status, "sops", "Version"))


def package_of(deb: str) -> str:
    """Return the name of the package in a file of that name."""
    return deb.partition("_")[0]


def key_url(os_id: str, repository: str) -> str:
    """Return where the key of Docker's repository is."""
    return f"{repository.rstrip('/')}/{_FOLDERS.get(os_id, 'debian')}/gpg"


def _apt_source(folder: str, codename: str, architecture: str, repository: str) -> str:
    """Return a source in the format of sources.list(5), deb822."""
    return (
        "# Managed by pifleet.ops (role stacks): a change made here is overwritten.\n"
        "Types: deb\n"
        f"URIs: {repository.rstrip('/')}/{folder}\n"
        f"Suites: {codename}\n"
        "Components: stable\n"
        f"Architectures: {architecture}\n"
        f"Signed-By: {KEY}\n"
    )
