# SPDX-License-Identifier: GPL-3.0-or-later
"""A Docker in memory: containers, images and Compose's rules of when a container is replaced, and nothing of what the core does.

It keeps a list of all calls, can be told to fail, and can end the run before or after any call that changes something.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import labels
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Container, Observation
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import (
    EngineDownError,
    EngineError,
    EngineMissingError,
    Ports,
    Source,
)


class KilledError(BaseException):
    """The run was killed, as by kill -9: nothing of it may catch this."""


class FakeClock:
    """A clock that moves only when somebody sleeps, or a test moves it."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def now(self) -> float:
        self.time += 0.000001  # no two moments are the same
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class FakeEngine:
    """*local*: images that are here, ids by reference; *registry*: those that can be pulled; *behaviour*: what a service's containers
    do when they are started (state, exit code, health, restarts); *failing*: errors by verb."""

    clock: FakeClock = field(default_factory=FakeClock)
    local: dict[str, str] = field(default_factory=dict)
    registry: dict[str, str] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    networks: set[str] = field(default_factory=set)
    volumes_here: set[str] = field(default_factory=set)
    behaviour: dict[str, dict[str, Any]] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)
    version: str = "compose-1"
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    log: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    kill_at: int = -1
    steps: int = 0
    on_call: Callable[[str], None] = lambda verb: None
    _ids: itertools.count[int] = field(default_factory=itertools.count)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def ports(self) -> Ports:
        return Ports(self, self.clock, lambda event, fields: self.log.append((event, dict(fields))))

    def all(self) -> list[Container]:
        """All containers at this moment: other threads go on making some."""
        return list(self.containers.values())

    # -- reading ---------------------------------------------------------------------------------------------------------------
    def identity(self) -> str:
        if "identity" in self.failing:
            raise EngineMissingError(self.failing["identity"])
        return self.version

    def observe(self, images: Sequence[str] = (), *, projects: Sequence[str] = (), timeout: float) -> Observation:
        if "observe" in self.failing:
            raise EngineDownError(self.failing["observe"])
        self._called("observe", tuple(projects))
        with self._lock:
            found = tuple(c for c in self.all() if not projects or c.project in projects)
        return Observation(found, {image: self.local[image] for image in images if image in self.local})

    def resolve(self, source: Source, *, timeout: float) -> Mapping[str, Any]:
        self._called("resolve", source.project)
        return self._model(source)

    def disabled(self, source: Source, *, timeout: float) -> tuple[str, ...]:
        merged = _merged(source)
        return tuple(sorted(name for name, table in merged["services"].items() if table.get("profiles")))

    def volumes(self, names: Sequence[str], *, timeout: float) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.volumes_here)

    # -- changing --------------------------------------------------------------------------------------------------------------
    def pull(self, image: str, platform: str, *, timeout: float) -> None:
        self._called("pull", image)
        if image not in self.registry:
            raise EngineError(f"pull access denied for {image}")
        with self._step():
            self.local[image] = self.registry[image]

    def build(self, source: Source, services: Sequence[str], *, timeout: float, keep: Sequence[int] = ()) -> None:
        self._called("build", *services)
        model = self._model(source)
        for name in services:
            self.local[model["services"][name].get("image", f"{source.project}-{name}")] = f"sha256:built{next(self._ids)}"

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
        self._called("up", source.project, tuple(services), recreate)
        model = self._model(source)
        for name, number in (scale or {}).items():
            model["services"][name]["scale"] = number
        for network in model["networks"].values():
            self.networks.add(network["name"])
        for volume in model.get("volumes", {}).values():
            self.volumes_here.add(volume["name"])
        for name in sorted(services, key=lambda s: (_depth(model, s), s)):
            self._converge(source, model, name, recreate)

    def down(self, project: str, *, volumes: bool, timeout: float, keep: Sequence[int] = ()) -> None:
        self._called("down", project, volumes)
        for container in [c for c in self.all() if c.project == project]:
            with self._step():
                del self.containers[container.id]
        if volumes:
            self.volumes_here = {v for v in self.volumes_here if not v.startswith(f"{project}_")}

    def unpause(self, containers: Sequence[str], *, timeout: float) -> None:
        self._called("unpause", *containers)
        for container in containers:
            self.set(container, state="running")

    def rename(self, container: str, name: str, *, timeout: float) -> None:
        self._called("rename", name)
        if any(c.name == name for c in self.all()):
            raise EngineError(f'Conflict. The container name "/{name}" is already in use')
        with self._step():
            self.set(container, name=name)

    def remove(self, containers: Sequence[str], *, timeout: float, keep: Sequence[int] = ()) -> None:
        self._called("remove", *(self.containers[c].name for c in containers if c in self.containers))
        for container in containers:
            with self._step():
                self.containers.pop(container, None)

    def drop_network(self, network: str, containers: Sequence[str], *, timeout: float) -> None:
        self._called("drop_network", network)
        for container in containers:
            with self._step():
                found = self.containers[container]
                self.set(container, networks=tuple(n for n in found.networks if n != network))
        self.networks.discard(network)

    def decrypt(self, source: str, target: str, *, key_file: str, timeout: float) -> None:
        self._called("decrypt", source)
        text = Path(source).read_text()
        if not text.startswith("ENC:"):
            raise EngineError("Error decrypting: no matching key")
        Path(target).write_text(text[4:])

    # -- what a person does ------------------------------------------------------------------------------------------------------
    def named(self, name: str) -> Container:
        return next(c for c in self.all() if c.name == name)

    def set(self, container: str, **what: Any) -> None:
        with self._lock:
            self.containers[container] = replace(self.containers[container], **what)

    def touch(self, name: str, /, **what: Any) -> None:
        """Change something of the container *name* behind Compose's back."""
        self.set(self.named(name).id, **what)

    def by_hand(self, name: str, /, **what: Any) -> Container:
        """Replace the container *name* by one that somebody made by hand."""
        old = self.named(name)
        del self.containers[old.id]
        new = replace(old, id=self._id(), **what)
        self.containers[new.id] = new
        return new

    # -- Compose ---------------------------------------------------------------------------------------------------------------
    def _called(self, verb: str, *args: Any) -> None:
        with self._lock:
            self.calls.append((verb, *args))
        self.on_call(verb)
        if verb in self.failing:
            raise EngineError(self.failing[verb])

    def _step(self) -> _Step:
        return _Step(self)

    def _id(self) -> str:
        with self._lock:
            return hashlib.sha256(str(next(self._ids)).encode()).hexdigest()

    def _model(self, source: Source) -> dict[str, Any]:
        return _resolved(source, _merged(source))

    def _hash(self, table: Mapping[str, Any]) -> str:
        kept = {k: v for k, v in table.items() if k not in ("build", "pull_policy", "scale", "depends_on", "profiles")}
        return hashlib.sha256(json.dumps([self.version, kept], sort_keys=True, default=str).encode()).hexdigest()

    def _converge(self, source: Source, model: Mapping[str, Any], name: str, recreate: bool) -> None:
        table = model["services"][name]
        scale = int(table.get("scale", (table.get("deploy") or {}).get("replicas", 1)))
        image = table.get("image", f"{source.project}-{name}")
        if image not in self.local and scale:
            raise EngineError(f"Error response from daemon: No such image: {image}")
        wanted = self._hash({**table, "id": self.local.get(image)})
        here = sorted((c for c in self.all() if (c.project, c.service) == (source.project, name)), key=lambda c: c.number)
        for extra in here[scale:]:
            with self._step():
                del self.containers[extra.id]
        for container in here[:scale]:
            if recreate and container.shape != wanted:
                self._recreate(source, model, name, container, wanted)
            elif container.state in ("exited", "created"):
                with self._step():
                    self._start(container.id)
        following = max((c.number for c in here), default=0) + 1  # pkg/compose/convergence.go (nextContainerNumber)
        for number in range(following, following + scale - len(here)):
            plain = table.get("container_name") or f"{source.project}-{name}-{number}"
            if any(c.name == plain for c in self.all()):
                raise EngineError(f'Conflict. The container name "/{plain}" is already in use')
            with self._step():
                made = self._container(source, model, name, plain, number, wanted)
            with self._step():
                self._start(made.id)

    def _recreate(self, source: Source, model: Mapping[str, Any], name: str, old: Container, wanted: str) -> None:
        """As pkg/compose/convergence.go does: make the successor under a temporary name, remove the old one, rename, start."""
        plain = model["services"][name].get("container_name") or f"{source.project}-{name}-{old.number}"
        temporary = f"{old.id[:12]}_{plain}"
        if any(c.name == temporary for c in self.all()):
            raise EngineError(f'Conflict. The container name "/{temporary}" is already in use')
        with self._step():
            made = self._container(source, model, name, temporary, old.number, wanted)
        with self._step():
            del self.containers[old.id]
        with self._step():
            self.set(made.id, name=plain)
        with self._step():
            self._start(made.id)

    def _container(self, source: Source, model: Mapping[str, Any], name: str, plain: str, number: int, wanted: str) -> Container:
        table = model["services"][name]
        image = table.get("image", f"{source.project}-{name}")
        own = {key: str(value).replace("$$", "$") for key, value in (table.get("labels") or {}).items()}
        networks = () if table.get("network_mode") else tuple(sorted(model["networks"][n]["name"] for n in table["networks"]))
        made = Container(
            id=self._id(),
            name=plain,
            project=source.project,
            service=name,
            number=number,
            oneoff=False,
            image=image,
            image_id=self.local[image],
            state="created",
            exit_code=0,
            health="",
            restarts=0,
            started_at="0001-01-01T00:00:00Z",
            labels={key: value for key, value in own.items() if key.startswith(labels.PREFIX)},
            folder=source.folder,
            networks=networks,
            network_mode=self._mode(source.project, table),
            limits={
                "Memory": str(table.get("mem_limit", 0)),
                "NanoCpus": "0",
                "RestartPolicy": json.dumps({"MaximumRetryCount": 0, "Name": table.get("restart", "no")}),
            },
            mounts=tuple(sorted(_mount(model, mount) for mount in table.get("volumes", ()))),
            shape=wanted,
        )
        with self._lock:
            self.containers[made.id] = made
        return made

    def _mode(self, project: str, table: Mapping[str, Any]) -> str:
        mode = str(table.get("network_mode", "bridge"))
        if not mode.startswith("service:"):
            return mode
        return "container:" + next(c.id for c in self.all() if (c.project, c.service) == (project, mode[8:]))

    def _start(self, container: str) -> None:
        found = self.containers[container]
        does = self.behaviour.get(found.service, {})
        self.set(container, **{"state": "running", "health": "", "started_at": f"2026-01-01T00:00:00.{next(self._ids):09d}Z", **does})


class _Step:
    """One change that the engine makes. A run may be killed before it: at step *kill_at*, counted from 0."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def __enter__(self) -> None:
        step, self.engine.steps = self.engine.steps, self.engine.steps + 1
        if step == self.engine.kill_at:
            raise KilledError

    def __exit__(self, *_: object) -> None:
        return None


def _merged(source: Source) -> dict[str, Any]:
    merged: dict[str, Any] = {"services": {}}
    for file in source.files:
        try:
            table = yaml.safe_load(Path(file).read_text()) or {}
        except yaml.YAMLError as error:
            raise EngineError(f"yaml: {error}") from None
        for name, service in (table.get("services") or {}).items():
            before = merged["services"].setdefault(name, {})
            own = {**before.get("labels", {}), **(service.get("labels") or {})}
            before.update(service)
            if own:
                before["labels"] = own
        merged.update({key: value for key, value in table.items() if key != "services"})
    return merged


def _resolved(source: Source, merged: dict[str, Any]) -> dict[str, Any]:
    """What ``docker compose config --format json`` answers, for what the tests use of it."""
    folder = Path(source.folder)
    services = {}
    for name, table in merged["services"].items():
        if table.get("profiles"):
            continue
        service = dict(table)
        variables = dict(service.get("environment") or {})
        for file in service.pop("env_file", []):
            if not (folder / file).exists():
                raise EngineError(f"env file {folder / file} not found")
            lines = (folder / file).read_text().splitlines()
            variables = {**dict(line.split("=", 1) for line in lines if "=" in line), **variables}
        if variables:
            service["environment"] = {key: _interpolated(folder, str(value)) for key, value in variables.items()}
        if not service.get("network_mode"):
            service["networks"] = dict.fromkeys(service.get("networks") or ["default"])
        elif str(service["network_mode"]).startswith("service:"):
            other = service["network_mode"][8:]
            service["depends_on"] = {**_dependencies(service), other: {"condition": "service_started", "restart": True}}
        if service.get("depends_on"):
            service["depends_on"] = _dependencies(service)
        if "volumes" in service:
            service["volumes"] = [_volume(folder, text) for text in service["volumes"]]
        if isinstance(service.get("build"), str):
            service["build"] = {"context": str((folder / service["build"]).resolve())}
        if isinstance(service.get("command"), str):
            service["command"] = service["command"].split()
        for kind in ("configs", "secrets"):
            if kind in service:
                service[kind] = [{"source": used} for used in service[kind]]
        services[name] = service
    found: dict[str, Any] = {"name": source.project, "services": services}
    networks = {"default": {}, **{k: v or {} for k, v in (merged.get("networks") or {}).items()}}
    found["networks"] = {key: {"name": f"{source.project}_{key}", **value} for key, value in networks.items()}
    found["volumes"] = {key: {"name": f"{source.project}_{key}", **(value or {})} for key, value in (merged.get("volumes") or {}).items()}
    for kind in ("configs", "secrets"):
        tables = merged.get(kind) or {}
        found[kind] = {
            key: {"name": f"{source.project}_{key}", **value, **({"file": str(folder / value["file"])} if "file" in value else {})}
            for key, value in tables.items()
        }
    if "x-pifleet" in merged:
        found["x-pifleet"] = merged["x-pifleet"]
    return found


def _dependencies(service: Mapping[str, Any]) -> dict[str, Any]:
    given = service.get("depends_on") or {}
    return given if isinstance(given, dict) else {name: {"condition": "service_started", "required": True} for name in given}


def _interpolated(folder: Path, text: str) -> str:
    env = folder / ".env"
    known = dict(line.split("=", 1) for line in env.read_text().splitlines() if "=" in line) if env.exists() else {}

    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise EngineError(f"no value for the variable {match[1]}")
        return known[match[1]]

    return re.sub(r"(?<!\$)\$\{(\w+)\}", value, text)


def _volume(folder: Path, text: str) -> dict[str, Any]:
    source, target = text.split(":")[:2]
    if source.startswith((".", "/")):
        return {
            "type": "bind",
            "source": str((folder / source).resolve(strict=False)),
            "target": target,
            "bind": {"create_host_path": True},
        }
    return {"type": "volume", "source": source, "target": target, "volume": {}}


def _mount(model: Mapping[str, Any], mount: Mapping[str, Any]) -> str:
    source = mount["source"] if mount["type"] == "bind" else model["volumes"][mount["source"]]["name"]
    return f"{mount['type']} {source} {mount['target']} rw"


def _depth(model: Mapping[str, Any], name: str) -> int:
    others = model["services"].get(name, {}).get("depends_on") or {}
    return 1 + max((_depth(model, other) for other in others), default=0)
