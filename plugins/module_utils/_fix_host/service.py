# SPDX-License-Identifier: GPL-3.0-or-later
"""One Compose service of a stack on this node, by the docker command line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed, Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import labels
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.files import compose_files

#: lines of a container's log that an analysis takes
LOG_LINES = 200
#: bytes of what a build, a container or a check said that are kept, however much that was: its beginning and its end
_MOST = 2 << 20
#: seconds that docker has for an answer: so that nothing that is asked at the same time outlasts the question whether it answers at all
_ANSWER = 30.0
_SECRET = re.compile(r"pass|token|secret|key|credential", re.I)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the service is: the folder of *stacks* on the node, the *stack* in it, the *service* of that, and the node's *roles*."""

    stacks: str
    stack: str
    service: str
    roles: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return os.path.join(self.stacks, self.stack)

    @property
    def project(self) -> str:
        return self.stack.replace("/", "-")


class Service:
    """Runs docker through *run*. Raises PifleetError for what does not succeed."""

    def __init__(self, place: Place, run: Runner = argv.run) -> None:
        self.place, self._run = place, run

    # -- reading ----------------------------------------------------------------------------------------------------------------------
    def refuse_without_docker(self) -> None:
        """Raise where Docker does not answer: before anything is changed."""
        done = self._run(["docker", "version", "--format", "{{.Server.Version}}"], timeout=_ANSWER)
        if not done.ok:
            raise PifleetError(
                f"Docker does not answer: {_said(done)}.", "Start it (`systemctl start docker`), and retry. Nothing was changed."
            )

    def defined(self) -> Mapping[str, Any]:
        """Return the service as Compose resolves it, with ``image`` as it will be called, and the names of the stack's ``others``."""
        done = self._compose("config", "--format", "json", timeout=_ANSWER)
        if not done.ok:
            raise PifleetError(f"The stack {self.place.stack} cannot be read: {_said(done)}.")
        services = json.loads(done.stdout).get("services") or {}
        table = services.get(self.place.service)
        if table is None:
            raise PifleetError(f"The stack {self.place.stack} has no service {self.place.service}.", "Correct `service` in the profile.")
        others = sorted(set(services) - {self.place.service})
        return {**table, "image": table.get("image") or f"{self.place.project}-{self.place.service}", "others": others}

    def secrets(self, table: Mapping[str, Any]) -> list[str]:
        """Return the values of those of the service's variables that are secrets by their name. *table*: as ``defined``."""
        given = {**(table.get("environment") or {}), **((table.get("build") or {}).get("args") or {})}
        return [str(value) for name, value in given.items() if value and _SECRET.search(name)]

    def containers(self) -> list[dict[str, Any]]:
        """Return the containers of the service, in the order of names."""
        words = [f"label={labels.COMPOSE_PROJECT}={self.place.project}", f"label={labels.COMPOSE_SERVICE}={self.place.service}"]
        filters = [word for label in words for word in ("--filter", label)]
        listed = self._must("ps", "-aq", "--no-trunc", *filters, timeout=_ANSWER).stdout.split()
        found = json.loads(self._must("inspect", *listed, timeout=_ANSWER).stdout) if listed else []
        return sorted((_container(entry) for entry in found if not _is_oneoff(entry)), key=lambda entry: str(entry["name"]))

    def image_id(self, reference: str) -> str:
        """Return the id of an image, empty where it is not here."""
        done = self._run(["docker", "image", "inspect", "--format", "{{.Id}}", reference], timeout=_ANSWER)
        if done.rc == argv.TIMED_OUT:  # which says nothing of the image
            raise PifleetError(f"`docker image inspect` failed: {_said(done)}.")
        return done.stdout.strip() if done.ok else ""

    def log(self, container: str) -> str:
        """Return the end of a container's log, both streams."""
        done = self._run(["docker", "logs", "--tail", str(LOG_LINES), container], timeout=_ANSWER, most=_MOST)
        return f"{done.stdout}{done.stderr}"

    # -- changing ---------------------------------------------------------------------------------------------------------------------
    def build(self, table: Mapping[str, Any], timeout: float) -> str:
        """Build the service's image, or pull it where it is not built and not here; return what was said. *table*: as ``defined``.

        Raises StepError with all that was said.
        """
        if not table.get("build") and self.image_id(table["image"]):
            return f"{table['image']} is here, and is not built.\n"
        verb = ("build",) if table.get("build") else ("pull", "--quiet")
        done = self._compose(*verb, self.place.service, timeout=timeout, most=_MOST)
        said = f"{done.stdout}{done.stderr}"
        if not done.ok:
            raise StepError(
                f"{' '.join(verb[:1])} of {self.place.service} ended with exit code {done.rc}: {_said(done, self.secrets(table))}", said
            )
        return f"{said}\n{table['image']} is {self.image_id(table['image'])}\n"

    def tag(self, image_id: str, reference: str) -> None:
        self._must("image", "tag", image_id, reference)

    def untag(self, reference: str) -> None:
        """Take a name away, where it is there."""
        done = self._run(["docker", "image", "rm", "--no-prune", reference], timeout=120)
        if not done.ok and self.image_id(reference):
            raise PifleetError(f"`docker image rm` failed: {_said(done)}.")

    def remove(self, containers: Sequence[str]) -> None:
        """Stop and remove containers; volumes stay."""
        if containers:
            self._must("rm", "--force", *containers)

    def execute(self, container: str, words: Sequence[str], timeout: float) -> Completed:
        """Run a command in a container; there is no shell."""
        return self._run(["docker", "exec", container, *words], timeout=timeout, most=_MOST)

    def _compose(self, *words: str, timeout: float, most: int = 0) -> Completed:
        files = compose_files(self.place.folder, self.place.roles)
        if not files:
            raise PifleetError(f"{self.place.folder} has no compose file on the node.", "Run playbooks/stacks.yml, which brings it.")
        given = [part for file in files for part in ("-f", file)]
        call = ["docker", "compose", "--ansi", "never", "-p", self.place.project, "--project-directory", self.place.folder, *given, *words]
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME") or name.startswith("DOCKER_")}
        return self._run(call, timeout=timeout, env=kept, bare=True, most=most)

    def _must(self, *words: str, timeout: float = 120) -> Completed:
        done = self._run(["docker", *words], timeout=timeout)
        if not done.ok:
            raise PifleetError(f"`docker {' '.join(words[:2])}` failed: {_said(done)}.")
        return done


class StepError(PifleetError):
    """A step failed, and said *log*."""

    def __init__(self, what: str, log: str) -> None:
        super().__init__(what)
        self.log = log


def _container(entry: Mapping[str, Any]) -> dict[str, Any]:
    state = entry["State"]
    networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    return {
        "id": entry["Id"],
        "name": entry["Name"].lstrip("/"),
        "image_id": entry["Image"],
        "state": state["Status"],
        "exit_code": state["ExitCode"],
        "error": scrub(state.get("Error") or ""),
        "oom_killed": bool(state.get("OOMKilled")),
        "health": (state.get("Health") or {}).get("Status") or "",
        "restarts": entry.get("RestartCount") or 0,
        "memory": (entry.get("HostConfig") or {}).get("Memory") or 0,
        "address": next((one["IPAddress"] for _name, one in sorted(networks.items()) if one.get("IPAddress")), ""),
    }


def _is_oneoff(entry: Mapping[str, Any]) -> bool:
    return (entry["Config"].get("Labels") or {}).get(labels.COMPOSE_ONEOFF) == "True"


def _said(done: Completed, secrets: Iterable[str] = ()) -> str:
    # masked before it is cut: half of a secret is not known for one
    lines = [line.strip()[:300] for line in scrub(done.stderr.strip() or done.stdout, secrets).splitlines() if line.strip()]
    return " | ".join(lines[-3:]).rstrip(".") or f"exit code {done.rc}"


def file_states(folder: str, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return of each of *paths* below *folder* what it is: ``kind`` (file, link, other, missing), ``links`` and ``sha256``."""
    import hashlib
    import stat

    found: dict[str, dict[str, Any]] = {}
    for path in sorted(paths):
        whole = os.path.join(folder, path)
        above = os.path.join(os.path.realpath(folder), os.path.dirname(path)).rstrip("/")
        if os.path.realpath(os.path.dirname(whole)) != above:
            # through a link, or not below the folder: whatever is there, it is not ours
            found[path] = {"kind": "link", "links": 0, "sha256": ""}
            continue
        try:
            seen = os.lstat(whole)
        except (FileNotFoundError, NotADirectoryError):
            found[path] = {"kind": "missing", "links": 0, "sha256": ""}
            continue
        kind = "link" if stat.S_ISLNK(seen.st_mode) else "file" if stat.S_ISREG(seen.st_mode) else "other"
        content = b""
        if kind == "file":
            with open(whole, "rb") as stream:
                content = stream.read()
        found[path] = {"kind": kind, "links": seen.st_nlink, "sha256": hashlib.sha256(content).hexdigest() if kind == "file" else ""}
    return found


def refuse_unsafe(states: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise PifleetError where writing to one of the files would reach something else: a link, or a file with two names."""
    for path, state in states.items():
        if state["kind"] not in ("file", "missing"):
            raise PifleetError(f"{path} is no plain file on the node.", "Nothing was changed.")
        if state["links"] > 1:
            raise PifleetError(f"{path} has {state['links']} names on the node (hard links).", "Nothing was changed.")
