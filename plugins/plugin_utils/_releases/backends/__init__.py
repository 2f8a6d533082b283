# SPDX-License-Identifier: GPL-3.0-or-later
"""Build backends: what makes an image of a build context, by the id that the configuration gives. The only list of ids is here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

#: seconds of a build
BUILD_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """*work_dir*: the build context, absolute; *dockerfile*: relative to it; *tag*: the reference that the image gets; *platform*: empty
    for the machine's own; *timeout*: seconds."""

    work_dir: Path
    tag: str
    dockerfile: str = "Dockerfile"
    platform: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    timeout: float = BUILD_SECONDS


class Backend(Protocol):
    """What builds images. Both raise PifleetError with the cause."""

    def check(self, run: argv.Runner) -> None:
        """Raise where this machine cannot build with it. Changes nothing; called before a release has any state."""

    def build(self, options: BuildOptions, run: argv.Runner) -> str:
        """Build and return the image's reference: *tag*, or one with a digest (``…@sha256:…``) where it is in its registry already."""


class Registry:
    """Backends by id. ``of`` makes each anew."""

    def __init__(self) -> None:
        self._known: dict[str, Callable[[], Backend]] = {}

    def register(self, identity: str, backend: Callable[[], Backend]) -> None:
        """Make *backend* known as *identity*. Raises PifleetError for an id that is taken."""
        if identity in self._known:
            raise PifleetError(f"Two build backends are called {identity}.", "Give one another id.")
        self._known[identity] = backend

    def of(self, identity: str) -> Backend:
        """Return the backend of that id. Raises PifleetError where there is none."""
        if identity not in self._known:
            raise PifleetError(
                f"There is no build backend {identity}.", f"There are {', '.join(sorted(self._known))}. Nothing was recorded."
            )
        return self._known[identity]()


def shipped() -> Registry:
    """Return a registry with the backends of the collection."""
    from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.backends import docker

    registry = Registry()
    registry.register("docker", docker.Docker)
    registry.register("buildx", docker.Buildx)
    return registry


def with_files(registry: Registry, root: Path, files: Iterable[str]) -> Registry:
    """Let each of *files*, Python of the repository at *root* with a function ``register(registry)``, add to *registry*; return it.

    Raises PifleetError for one that cannot.
    """
    for number, name in enumerate(files):
        path = root / name
        spec = importlib.util.spec_from_file_location(f"pifleet_release_backend_{number}", path)
        try:
            if spec is None or spec.loader is None:
                raise PifleetError("it is no Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            module.register(registry)
        except Exception as error:
            raise PifleetError(
                f"{path} registers no build backend: {type(error).__name__}: {error}", "docs/releases.md has one."
            ) from error
    return registry
