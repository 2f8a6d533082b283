# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's ``releases.yml``: what can be released, where to and how. Anything that is not in the schema is refused by its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._strict_yaml import parsed
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

FILE = "releases.yml"


def _inside(place: str) -> str:
    parts = place.split("/")
    if place.startswith("/") or ".." in parts or "\0" in place or "\n" in place or not place.strip("/"):
        raise ValueError("it is no path below the repository's root")
    return place


_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
Name = Annotated[str, StringConstraints(pattern=_NAME)]
#: a folder of the repository, below its root
Place = Annotated[str, AfterValidator(_inside)]
#: registry, port and folder, as in registry.example:5000/team: https://github.com/distribution/reference (name, domain)
Registry = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$")]
Repository = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$")]
#: a Compose service
Service = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9._-]+$")]
Argv = Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Build(_Part):
    """How an image is built. *backend*: an id of the registry of backends; *platform*: as linux/arm64, empty for the engine's own."""

    context: Place
    dockerfile: Place = "Dockerfile"
    backend: str = "docker"
    platform: Annotated[str, StringConstraints(pattern=r"^([a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?)?$")] = ""
    args: dict[str, str] = {}
    timeout: Annotated[int, Field(ge=1)] = 1800


class MigrationOf(_Part):
    """A command in a one-off container of the new image. *reversible*: the version before it can work with what it leaves."""

    argv: Argv
    reversible: bool = False
    timeout: Annotated[int, Field(ge=1)] = 600


class Migrations(_Part):
    pre: MigrationOf | None = None
    post: MigrationOf | None = None


class Rollout(_Part):
    """*strategy*: with ``recreate`` the old container ends before the new one begins; with ``rolling`` *drain* seconds after the new one
    is healthy."""

    strategy: Literal["recreate", "rolling"] = "recreate"
    drain: Annotated[float, Field(ge=0, le=600, strict=False)] = 5.0


class ServiceOf(_Part):
    """*role*: the inventory group whose hosts run it; *image*: repository below the registry, needed with *build*."""

    role: str
    image: Repository | None = None
    build: Build | None = None
    migrations: Migrations = Migrations()
    rollout: Rollout = Rollout()

    @model_validator(mode="after")
    def _complete(self) -> ServiceOf:
        if self.build and not self.image:
            raise ValueError("a service that is built needs `image`, the repository below the registry")
        return self


class Health(_Part):
    """*timeout*: seconds until a host's containers must be healthy; *stable*: seconds for which they must then stay so."""

    timeout: Annotated[float, Field(gt=0, strict=False)] = 120.0
    stable: Annotated[float, Field(ge=0, strict=False)] = 3.0


class Batches(_Part):
    """*canary*: hosts that get a version first; *size*: hosts in each batch after them."""

    canary: Annotated[int, Field(ge=0)] = 1
    size: Annotated[int, Field(ge=1)] = 1


class Login(_Part):
    """*password_file*: a file of the controller that holds the password alone, relative to the repository's root."""

    user: Annotated[str, StringConstraints(min_length=1)]
    password_file: str


class EnvironmentOf(_Part):
    """*base*: the folder of the base Compose project; *retain*: completed releases whose images stay on the hosts."""

    base: Place
    registry: Registry | None = None
    login: Login | None = None
    retain: Annotated[int, Field(ge=1)] = 3
    batches: Batches = Batches()
    health: Health = Health()
    services: Annotated[dict[Service, ServiceOf], Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self) -> EnvironmentOf:
        if not self.registry and any(service.build for service in self.services.values()):
            raise ValueError("`registry` is missing, and a service is built")
        return self


class Config(_Part):
    """*backends*: Python files of the repository that register build backends of their own."""

    backends: list[Place] = []
    environments: Annotated[dict[Name, EnvironmentOf], Field(min_length=1)]

    def environment(self, name: str) -> EnvironmentOf:
        """Return an environment. Raises PifleetError for one that is not defined."""
        if name not in self.environments:
            raise PifleetError(
                f"There is no environment {name or '(none given)'} in {FILE}.",
                f"Give -e environment=NAME with one of: {', '.join(sorted(self.environments))}. Nothing was recorded.",
            )
        return self.environments[name]


def load(root: Path) -> Config:
    """Return the configuration of the fleet at *root*. Raises PifleetError that says what is wrong, and at which key."""
    path = root / FILE
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise PifleetError(f"There is no {path}.", "docs/releases.md says what goes into it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PifleetError(f"{path} cannot be read: {error}.") from error
    return parse(text, str(path))


def parse(text: str, place: str = FILE) -> Config:
    """Return the configuration that *text* holds. Raises PifleetError."""
    return parsed(Config, text, place, begins="It begins with `environments:`.", hint="docs/releases.md lists the keys.")
