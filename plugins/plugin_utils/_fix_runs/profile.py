# SPDX-License-Identifier: GPL-3.0-or-later
"""A service's profile ``fix_profiles/<service>.yml``, and the fleet's ``fix_runs.yml``. Anything that is not in the schema is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._strict_yaml import parsed
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

FOLDER = "fix_profiles"
FLEET = "fix_runs.yml"
_HINT = "docs/fix-runs.md lists the keys."
_SERVICE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
#: what a parameter of a command may be; no type takes what an option would begin with, or what leads out of a folder
KINDS: Mapping[str, re.Pattern[str]] = {
    "word": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127}"),
    "number": re.compile(r"[0-9]{1,12}"),
    "version": re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+!-]{0,63}"),
}


def _glob(pattern: str) -> str:
    parts = pattern.split("/")
    if pattern.startswith("/") or ".." in parts or "" in parts or "." in parts or "\\" in pattern or "\0" in pattern:
        raise ValueError("it is no glob of files below the stack's folder")
    return pattern


def _url(url: str) -> str:
    if not re.fullmatch(r"https?://(\{address\}|[A-Za-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?(/[^\s\x00-\x1f]*)?", url):
        raise ValueError("it is no http(s) URL; {address} stands for the container's address")
    return url


Glob = Annotated[str, AfterValidator(_glob)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$")]
Stack = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*$")]
Word = Annotated[str, StringConstraints(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Command(_Part):
    """A command that may run in the service's container. ``{name}`` in *argv* takes a parameter; there is no shell."""

    argv: Annotated[list[Word], Field(min_length=1)]
    parameters: dict[str, Literal["word", "number", "version"]] = {}
    timeout: Annotated[int, Field(ge=1, le=600)] = 30

    @model_validator(mode="after")
    def _complete(self) -> Command:
        used = {name for word in self.argv for name in _PLACEHOLDER.findall(word)}
        if used != set(self.parameters):
            raise ValueError(f"argv and parameters name different things: {', '.join(sorted(used ^ set(self.parameters)))}")
        if _PLACEHOLDER.search(self.argv[0]):
            raise ValueError("the program itself cannot be a parameter")
        return self

    def filled(self, name: str, given: Mapping[str, str]) -> list[str]:
        """Return the argument list with *given* parameters. Raises PifleetError for those that do not fit."""
        if set(given) != set(self.parameters):
            wanted = ", ".join(sorted(self.parameters)) or "no parameters"
            raise PifleetError(f"The command {name} takes {wanted}, and got {', '.join(sorted(given)) or 'none'}.")
        for key, kind in self.parameters.items():
            if not KINDS[kind].fullmatch(given[key]):
                raise PifleetError(f"The parameter {key} of the command {name} is no {kind}: {given[key]!r}.")
        return [_PLACEHOLDER.sub(lambda found: given[found[1]], word) for word in self.argv]


class Health(_Part):
    """*url*: must answer a GET with 200 for *samples* looks one after the other, *interval* seconds apart, within *timeout* seconds; empty
    where the container's own health is all there is. *checks*: names of commands that must end with 0."""

    url: Annotated[str, AfterValidator(lambda url: _url(url) if url else url)] = ""
    interval: Annotated[float, Field(gt=0, le=60, strict=False)] = 5.0
    timeout: Annotated[float, Field(gt=0, le=3600, strict=False)] = 120.0
    samples: Annotated[int, Field(ge=1, le=100)] = 3
    checks: list[Name] = []


class Approval(_Part):
    """*requirement*: when an approval is needed; *risky*: globs of files for which one is needed before the run in any case;
    *approver_roles*: of ``fix_runs.yml``, one of which the approver needs; none: anybody may approve."""

    requirement: Literal["none", "pre-run", "pre-verify"] = "none"
    risky: list[Glob] = []
    approver_roles: list[Name] = []
    valid_for_minutes: Annotated[int, Field(ge=5, le=10080)] = 30


class Timeouts(_Part):
    """Seconds."""

    build: Annotated[int, Field(ge=1, le=7200)] = 900
    restart: Annotated[int, Field(ge=1, le=3600)] = 60


class Profile(_Part):
    """*service*: in the compose file; *files*: globs of those a fix run may change, below the stack's folder; *compose_keys*: globs of the
    service's keys it may change; *keep*: a patch that verified is committed to the desired state, or the stack stays pinned at it."""

    stack: Stack
    service: Name
    node: Word
    files: Annotated[list[Glob], Field(min_length=1)]
    compose_keys: list[Word] = ["image", "environment.*"]
    commands: dict[Name, Command] = {}
    health: Health = Health()
    timeouts: Timeouts = Timeouts()
    risk: Literal["low", "medium", "high"] = "low"
    approval: Approval = Approval()
    keep: Literal["commit", "pinned"] = "commit"

    @model_validator(mode="after")
    def _complete(self) -> Profile:
        if unknown := sorted(set(self.health.checks) - set(self.commands)):
            raise ValueError(f"health.checks names {', '.join(unknown)}, which is not among the commands")
        if wanting := [name for name in self.health.checks if self.commands[name].parameters]:
            raise ValueError(f"health.checks names {', '.join(wanting)}, which takes parameters")
        if self.risk == "high" and self.approval.requirement != "pre-run":
            raise ValueError("a service of high risk needs an approval before it is touched: `approval: {requirement: pre-run}`")
        return self


class Fleet(_Part):
    """*two_person*: an approver is somebody else than the requester; *roles*: logins by role; *artifacts*: folder below the fleet's."""

    two_person: bool = True
    roles: dict[Name, list[Word]] = {}
    artifacts: Annotated[str, AfterValidator(_glob)] = "var/artifacts"

    def has_role(self, login: str, roles: list[str] | tuple[str, ...]) -> bool:
        """Whether *login* has one of *roles*; everybody has, where none is asked for."""
        return not roles or any(login in self.roles.get(role, ()) for role in roles)


def place(service: str) -> str:
    """Return the path of a service's profile. Raises PifleetError for what cannot be the name of a service."""
    if not _SERVICE.fullmatch(service):
        raise PifleetError(f"{service!r} is no name of a service.", "Small letters, digits, `-` and `_`. Nothing was recorded.")
    return f"{FOLDER}/{service}.yml"


def parse(text: str, where: str) -> Profile:
    """Return the profile that *text* holds. Raises PifleetError that says what is wrong, and at which key."""
    return parsed(Profile, text, where, begins="It begins with `stack:`.", hint=_HINT)


def parse_fleet(text: str) -> Fleet:
    """Return the fleet's settings. Raises PifleetError."""
    return parsed(Fleet, text, FLEET, begins="Remove it, or say `two_person: true`.", hint=_HINT)
