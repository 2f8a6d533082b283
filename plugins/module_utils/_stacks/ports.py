# SPDX-License-Identifier: GPL-3.0-or-later
"""What the stacks core needs of the world: Docker, a clock, a log. Files are read and written directly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Observation


class EngineError(PifleetError):
    """Docker, Compose or sops did not do what was asked; the text is the cause in its own words, scrubbed."""


class EngineMissingError(EngineError):
    """There is no Docker, no Compose, or what else the role brings, on this node."""


class EngineTimeoutError(EngineError):
    """A command did not end in time, and was killed."""


class EngineDownError(EngineError):
    """There is a Docker, and it does not run."""


@dataclass(frozen=True, slots=True)
class Source:
    """A Compose project as Compose is told of it: its name, its folder, and its files in order."""

    project: str
    folder: str
    files: tuple[str, ...]


class Engine(Protocol):
    """What is used of Docker. Every method takes a time limit in seconds, after which the command and all it started are killed.

    Raises EngineError. *keep*: file descriptors that the command holds open: a lock outlives its holder as long as the command runs.
    """

    def identity(self) -> str:
        """Name the Docker CLI and the Compose that are installed, without starting them. Raises EngineMissingError."""

    def observe(self, images: Sequence[str] = (), *, projects: Sequence[str] = (), timeout: float) -> Observation:
        """Return all containers of Compose projects (of *projects*, where given), and the ids of those *images* that are here.

        Two commands at most, whatever there is.
        """

    def resolve(self, source: Source, *, timeout: float) -> Mapping[str, Any]:
        """Return the project as ``docker compose config`` resolves it. A variable without a value is an error."""

    def pull(self, image: str, platform: str, *, timeout: float) -> None:
        """Fetch *image* from its registry."""

    def build(self, source: Source, services: Sequence[str], *, timeout: float, keep: Sequence[int] = ()) -> None:
        """Build the images of *services*."""

    def disabled(self, source: Source, *, timeout: float) -> tuple[str, ...]:
        """Names of the services whose profile is off."""

    def up(
        self,
        source: Source,
        services: Sequence[str],
        *,
        recreate: bool,
        timeout: float,
        keep: Sequence[int] = (),
        scale: Mapping[str, int] | None = None,
    ) -> None:
        """Create, scale and start *services*, and nothing else, from images that are here.

        *recreate*: containers whose configuration differs from that of *source*, in a label too, are replaced; *scale*: how many of a
        service there are to be, instead of what *source* says.
        """

    def down(self, project: str, *, volumes: bool, timeout: float, keep: Sequence[int] = ()) -> None:
        """Remove the containers and networks of *project*, and its *volumes* too where that is said."""

    def unpause(self, containers: Sequence[str], *, timeout: float) -> None:
        """Let paused containers go on."""

    def volumes(self, names: Sequence[str], *, timeout: float) -> tuple[str, ...]:
        """Return those of the volumes *names* that exist."""

    def rename(self, container: str, name: str, *, timeout: float) -> None:
        """Give a container another name."""

    def remove(self, containers: Sequence[str], *, timeout: float, keep: Sequence[int] = ()) -> None:
        """Stop containers as their images ask for, and remove them. Volumes stay."""

    def drop_network(self, network: str, containers: Sequence[str], *, timeout: float) -> None:
        """Take *containers* out of a network and remove it, so that Compose makes it anew."""

    def decrypt(self, source: str, target: str, *, key_file: str, timeout: float) -> None:
        """Let ``sops`` write the plaintext of the file *source* to *target*, with the age keys in *key_file*.

        Raises EngineMissingError where there is no sops, or no such file.
        """


class Clock(Protocol):
    """Time, as the node has it."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds that no change of the clock moves."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class Log(Protocol):
    """Where one structured line for each start, success and failure of a stack goes."""

    def __call__(self, event: str, fields: Mapping[str, str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """The three together, as ``reconcile.reconcile`` takes them; ``local.ports`` makes those of a node."""

    engine: Engine
    clock: Clock
    log: Log
