# SPDX-License-Identifier: GPL-3.0-or-later
"""A stack as Compose resolves it, turned into what is compared: pure, but for the content of files that containers mount."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import files, labels
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.drift import is_ignored
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.files import short
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import CONFIG_CHANGED, POLICIES, Options, Service, Stack

EXTENSION = "x-pifleet"

#: Keys of a service that decide nothing about a container that runs: how its image comes to be, how many of it there are, in which
#: order services start, what is merged into other keys.
_NO_CONFIG = frozenset(("pull_policy", "scale", "depends_on", "profiles", "env_file", "label_file", "develop"))
#: Keys that are compared entry by entry.
_TABLES = ("environment", "labels")
#: Value of an unset limit: https://docs.docker.com/reference/api/engine/ (HostConfig).
_NO_LIMIT = "0"


def options_of(model: Mapping[str, Any], where: str) -> Options:
    """Return what a stack says under ``x-pifleet``. Raises PifleetError for what is not understood there."""
    table = model.get(EXTENSION)
    if table is None:
        return Options()
    if not isinstance(table, dict):
        raise PifleetError(f"{where}: {EXTENSION} must be a table of keys, not {_kind(table)}.")
    known = ("drift_ignore", "nodes", "policy", "remove", "roles", "rolling", "suspended")
    for key in table:
        if key not in known:
            raise PifleetError(f"{where}: {EXTENSION} has no key {key}.", f"There are {', '.join(known)}.")
    policy = table.get("policy")
    if policy is not None and policy not in POLICIES:
        raise PifleetError(f"{where}: {EXTENSION}.policy is {policy!r}.", f"It can be {', '.join(POLICIES)}.")
    return Options(
        nodes=_texts(table, "nodes", where),
        roles=_texts(table, "roles", where),
        policy=policy,
        suspended=bool(_flag(table, "suspended", where)),
        drift_ignore=_texts(table, "drift_ignore", where),
        remove=_flag(table, "remove", where),
        rolling=_rolling(table, model, where),
    )


def _rolling(table: Mapping[str, Any], model: Mapping[str, Any], where: str) -> dict[str, float]:
    """Seconds by service. One that cannot run twice at a time cannot be rolled."""
    value = table.get("rolling")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(s, (int, float)) and not isinstance(s, bool) and s >= 0 for s in value.values()):
        raise PifleetError(f"{where}: {EXTENSION}.rolling must be a table of services with seconds, 0 or more.")
    for name in value:
        service = (model.get("services") or {}).get(name)
        if service is None:
            raise PifleetError(f"{where}: {EXTENSION}.rolling names {name}, which is no service of it.")
        for key in ("container_name", "ports"):
            if service.get(key):
                raise PifleetError(
                    f"{where}: {name} has {key} and cannot be rolled: two of its containers run side by side for a while.",
                    "Take it away, and let a reverse proxy be in front of the service.",
                )
    return {name: float(seconds) for name, seconds in value.items()}


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", int: "a number", bool: "yes or no"}.get(type(value), "nothing")


def _texts(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table.get(key)
    if isinstance(value, str):
        return (value,)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise PifleetError(f"{where}: {EXTENSION}.{key} must be a list of texts.")
    return tuple(value)


def _flag(table: Mapping[str, Any], key: str, where: str) -> bool | None:
    value = table.get(key)
    if value is not None and not isinstance(value, bool):
        raise PifleetError(f"{where}: {EXTENSION}.{key} must be true or false.")
    return value


# -- the whole stack ----------------------------------------------------------------------------------------------------------------
def build(
    folder: files.Folder,
    model: Mapping[str, Any],
    *,
    root: str,
    home: str = "",
    disabled: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Stack:
    """Return the stack that *model*, the answer of ``docker compose config``, describes.

    *root*: the folder of the desired state; *home*: where the stack's folder will stand, if elsewhere than it does; *ignore*: what is
    no drift, besides what the stack itself says.
    Raises PifleetError for what Docker would take but nobody can mean.
    """
    where = folder.files[0]
    options = options_of(model, where)
    if not model.get("services"):
        raise PifleetError(f"{where}: it has no services.")
    mounted = _Mounted(folder, model, root, home)
    ignored = (*ignore, *options.drift_ignore)
    services = {name: _service(folder.project, name, table, model, mounted, ignored) for name, table in sorted(model["services"].items())}
    _refuse_names(services.values(), where)
    return Stack(
        name=folder.name,
        project=folder.project,
        services=_with_jobs(services, model["services"]),
        options=options,
        disabled=tuple(sorted(disabled)),
        networks=_definitions(model, "networks"),
        volumes=_definitions(model, "volumes"),
    )


def _definitions(model: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Short digests of what the stack itself defines, by real name. Those of others (``external``) are not its to change."""
    tables = (model.get(kind) or {}).values()
    return {str(t["name"]): short(_text(_without_nothing(t))) for t in tables if t and not t.get("external")}


def _refuse_names(services: Iterable[Service], where: str) -> None:
    """Raise PifleetError for names that two containers would have."""
    taken: dict[str, str] = {}
    for service in services:
        name = service.container_name
        if name and (service.scale > 1 or name in taken):
            others = f"{taken[name]} and {service.name}" if name in taken else f"all {service.scale} containers of {service.name}"
            raise PifleetError(f"{where}: the container_name {name} would be that of {others}.", "Give each container a name of its own.")
        taken[name] = service.name


def _with_jobs(services: Mapping[str, Service], tables: Mapping[str, Any]) -> dict[str, Service]:
    """The services; one whose end others wait for is a job."""
    waited_for = {
        other
        for table in tables.values()
        for other, how in (table.get("depends_on") or {}).items()
        if isinstance(how, dict) and how.get("condition") == "service_completed_successfully"
    }
    return {name: replace(service, job=True, undecided=False) if name in waited_for else service for name, service in services.items()}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _without_nothing(value: Any) -> Any:
    """*value* without keys that are null or empty: some versions of Compose print those, others do not."""
    if isinstance(value, dict):
        kept = {key: _without_nothing(part) for key, part in value.items()}
        return {key: part for key, part in kept.items() if part is not None and part != {}}
    return [_without_nothing(part) for part in value] if isinstance(value, list) else value


# -- one service --------------------------------------------------------------------------------------------------------------------
def _service(
    project: str, name: str, table: Mapping[str, Any], model: Mapping[str, Any], mounted: _Mounted, ignored: Sequence[str]
) -> Service:
    deploy = table.get("deploy") or {}
    restart, decided = _restart(table, deploy)
    keys = dict(_keys(mounted.at_home(table), ignored, name))
    for kind in ("configs", "secrets"):
        for used in _used(table, kind):
            if (defined := (model.get(kind) or {}).get(used)) and "content" in defined:
                keys[f"{kind}.{used}"] = short(str(defined["content"]))
    if table.get("build"):
        keys["build"] = short(_text([mounted.at_home(_without_nothing(table["build"])), mounted.context(table["build"])]))
    content = mounted.of(table)
    return Service(
        name=name,
        hash=files.digest(_text([keys, content])),
        keys=keys,
        files=content,
        image=table.get("image") or f"{project}-{name}",
        scale=_scale(table, deploy),
        container_name=table.get("container_name") or "",
        networks=_networks(table, model),
        mounts=tuple(_mounts(mounted.at_home(table), model)),
        volumes=tuple(sorted(_volumes(table, model))),
        limits=dict(_limits(table, deploy, restart)),
        job=decided and (restart == "no" or restart.startswith("on-failure")),
        undecided=not decided,
        follows=tuple(sorted(set(_follows(table)))),
        shares=_shared(table.get("network_mode")),
        pull=table.get("pull_policy") or "",
        platform=table.get("platform") or "",
        build=bool(table.get("build")),
    )


def _keys(table: Mapping[str, Any], ignored: Sequence[str], service: str) -> Iterator[tuple[str, str]]:
    """(key, short digest) of everything in a service that decides how it runs, but for the keys that *ignored* takes out."""
    for key, value in _without_nothing(table).items():
        if key in _NO_CONFIG:
            continue
        if key == "deploy":
            value = {name: part for name, part in value.items() if name != "replicas"}
        if key in _TABLES and isinstance(value, dict):
            entries = {f"{key}.{name}": part for name, part in value.items() if not name.startswith(labels.PREFIX)}
        else:
            entries = {key: value}
        for path, part in entries.items():
            if part != {} and not is_ignored(ignored, service, CONFIG_CHANGED, path):
                yield path, short(_text(part))


def _restart(table: Mapping[str, Any], deploy: Mapping[str, Any]) -> tuple[str, bool]:
    """(Docker's restart policy, whether the file says so). Compose takes ``deploy.restart_policy`` where there is no ``restart``:
    https://github.com/docker/compose/blob/main/pkg/compose/create.go (getRestartPolicy)."""
    if table.get("restart"):
        return str(table["restart"]), True
    policy = deploy.get("restart_policy")
    if not policy:
        return "no", False
    condition = policy.get("condition") or "any"
    kind = {"none": "no", "on-failure": "on-failure", "any": "always"}.get(condition, condition)
    times = policy.get("max_attempts")
    return (f"{kind}:{times}" if times and kind == "on-failure" else kind), True


def _scale(table: Mapping[str, Any], deploy: Mapping[str, Any]) -> int:
    for value in (table.get("scale"), deploy.get("replicas")):
        if value is not None:
            return int(value)
    return 1


def _networks(table: Mapping[str, Any], model: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Real names of the networks that its containers must be in; None where they have none of their own."""
    if table.get("network_mode"):
        return None
    defined = model.get("networks") or {}
    return tuple(sorted(str((defined.get(key) or {}).get("name") or key) for key in table.get("networks") or {}))


def _mounts(table: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[str]:
    """``<kind> <source> <target>`` of what must be mounted at least."""
    for mount in table.get("volumes") or ():
        source = mount.get("source")
        if mount.get("type") == "volume" and source:
            source = ((model.get("volumes") or {}).get(source) or {}).get("name") or source
        if mount.get("type") in ("bind", "volume") and source:
            yield f"{mount['type']} {source} {str(mount['target']).rstrip('/') or '/'}"


def _volumes(table: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[str]:
    defined = model.get("volumes") or {}
    for mount in table.get("volumes") or ():
        if mount.get("type") == "volume" and mount.get("source") in defined:
            yield str(defined[mount["source"]].get("name") or mount["source"])


def _limits(table: Mapping[str, Any], deploy: Mapping[str, Any], restart: str) -> Iterator[tuple[str, str]]:
    """What `docker inspect` must show of the limits that the file gives or leaves out."""
    limits = (deploy.get("resources") or {}).get("limits") or {}
    memory = str(table.get("mem_limit") or limits.get("memory") or _NO_LIMIT)
    if memory.isdecimal():
        yield "Memory", memory
    cpus = table.get("cpus") or limits.get("cpus")
    yield "NanoCpus", str(round(float(cpus) * 1e9)) if cpus else _NO_LIMIT
    yield "RestartPolicy", restart.split(":", maxsplit=1)[0]


def _follows(table: Mapping[str, Any]) -> Iterator[str]:
    """Services whose recreation takes this one's containers with it: it lives in their namespaces, or asks for it."""
    for other, how in (table.get("depends_on") or {}).items():
        if isinstance(how, dict) and how.get("restart"):
            yield other
    for key in ("network_mode", "ipc", "pid"):
        if shared := _shared(table.get(key)):
            yield shared
    for entry in table.get("volumes_from") or ():
        if not str(entry).startswith("container:"):
            yield str(entry).split(":", maxsplit=1)[0]


def _shared(mode: object) -> str:
    return mode[len("service:") :] if isinstance(mode, str) and mode.startswith("service:") else ""


def _used(table: Mapping[str, Any], kind: str) -> list[str]:
    return [entry["source"] for entry in table.get(kind) or () if isinstance(entry, dict) and entry.get("source")]


# -- what containers mount ----------------------------------------------------------------------------------------------------------
class _Mounted:
    """The content of what a stack's services mount, as far as it is desired state: files of the stack, ``configs`` and ``secrets``."""

    def __init__(self, folder: files.Folder, model: Mapping[str, Any], root: str, home: str) -> None:
        self._folder, self._model = folder, model
        self._root = os.path.join(root, "")
        self._home = home

    def at_home(self, value: Any) -> Any:
        """*value* with paths below the stack's folder as they are where the stack will be applied."""
        if not self._home or self._home == self._folder.path:
            return value
        if isinstance(value, dict):
            return {key: self.at_home(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self.at_home(part) for part in value]
        if isinstance(value, str) and (value == self._folder.path or value.startswith(self._folder.path + "/")):
            return self._home + value[len(self._folder.path) :]
        return value

    def of(self, table: Mapping[str, Any]) -> dict[str, str]:
        """Short digests by path of what one service mounts. Raises PifleetError for a source that is not there."""
        found: dict[str, str] = {}
        for mount in table.get("volumes") or ():
            if mount.get("type") == "bind":
                found.update(self._bind(str(mount.get("source") or ""), str(mount.get("target") or "")))
        for kind in ("configs", "secrets"):
            for used in _used(table, kind):
                found.update(self._defined(kind, used))
        return found

    def context(self, built: Mapping[str, Any]) -> dict[str, str]:
        """Short digests by path of what an image is built from, but for the compose files."""
        found = self._content(str(built.get("context") or "")) if isinstance(built, dict) else {}
        return {path: value for path, value in found.items() if os.path.join(self._folder.path, path) not in self._folder.files}

    def _bind(self, source: str, target: str) -> dict[str, str]:
        if not os.path.lexists(source):
            if source.startswith(self._root) or os.path.splitext(source)[1] or os.path.splitext(target)[1]:
                raise PifleetError(
                    f"{self._folder.files[0]}: {source}, to be mounted at {target}, does not exist. Docker would make a folder of it.",
                    "Add the file, or correct the path.",
                )
            return {}
        return self._content(source) if source.startswith(self._root) else {}

    def _defined(self, kind: str, name: str) -> dict[str, str]:
        defined = (self._model.get(kind) or {}).get(name) or {}
        source = defined.get("file")
        if defined.get("environment"):
            return {path: value for path, value in self._folder.content.items() if path == ".env"}
        if not source:
            return {}
        if not os.path.isfile(source):
            raise PifleetError(
                f"{self._folder.files[0]}: {source}, of {kind}.{name}, does not exist.", "Add the file, or correct the path."
            )
        return self._content(source) or {source: files.outside_digest(source)}

    def _content(self, source: str) -> dict[str, str]:
        """Digests below *source*, a file or folder of the stack, or of the desired state around it."""
        inside = os.path.join(self._folder.path, "")
        if source.startswith(inside) or source + "/" == inside:
            below = source[len(inside) :]
            return {
                path: value for path, value in self._folder.content.items() if not below or path == below or path.startswith(below + "/")
            }
        if not source.startswith(self._root):
            return {}
        if os.path.isfile(source):
            return {os.path.relpath(source, self._folder.path): files.file_digest(source)}
        walked = ((folder, name) for folder, _below, names in sorted(os.walk(source)) for name in sorted(names))
        return {os.path.relpath(path, self._folder.path): files.file_digest(path) for path in (os.path.join(*pair) for pair in walked)}
