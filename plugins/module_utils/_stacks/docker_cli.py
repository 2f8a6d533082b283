# SPDX-License-Identifier: GPL-3.0-or-later
"""The port to Docker, by its command line: what is asked of it, and what its answers mean. See ``ports.Engine``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed, Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import labels
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Container, Observation
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import (
    EngineDownError,
    EngineError,
    EngineMissingError,
    EngineTimeoutError,
    Source,
)

#: Where the Docker CLI looks for its plugins: https://github.com/docker/cli/blob/master/cli-plugins/manager/manager_unix.go.
PLUGIN_FOLDERS = (
    "/root/.docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)

#: What `docker update` can change of a container: https://docs.docker.com/reference/cli/docker/container/update/.
LIMITS = (
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "NanoCpus",
    "CpuShares",
    "CpuPeriod",
    "CpuQuota",
    "CpusetCpus",
    "CpusetMems",
    "PidsLimit",
    "BlkioWeight",
    "RestartPolicy",
)
#: What else decides how a container runs, but can only be changed by making another one.
_CONFIG = ("Env", "Cmd", "Entrypoint", "User", "WorkingDir", "Healthcheck", "StopSignal", "Tty")
_HOST_CONFIG = (
    "CapAdd",
    "CapDrop",
    "CgroupParent",
    "Devices",
    "Dns",
    "ExtraHosts",
    "GroupAdd",
    "IpcMode",
    "LogConfig",
    "PidMode",
    "PortBindings",
    "Privileged",
    "ReadonlyRootfs",
    "Runtime",
    "SecurityOpt",
    "ShmSize",
    "Sysctls",
    "Tmpfs",
    "Ulimits",
    "UsernsMode",
)


def _fields(parent: str, names: Sequence[str]) -> str:
    return ",".join(f'{json.dumps(name)}:{{{{json (index . "{parent}" "{name}")}}}}' for name in names)


# One line of JSON for each object. `index` fails on the CLI's own types, so that it falls back to the engine's raw answer, where a
# key that is missing (in an image, or in an older engine) is null instead of an error: cli/command/inspect/inspector.go.
_TEMPLATE = (
    '{"Id":{{json (index . "Id")}}{{if index . "State"}},'
    + ",".join(f'"{name}":{{{{json (index . "{name}")}}}}' for name in ("Name", "Image", "RestartCount", "Mounts"))
    + ',"Of":{{json (index . "Config" "Image")}},"Labels":{{json (index . "Config" "Labels")}}'
    + ',"Networks":[{{$comma := ""}}{{range $name, $network := index . "NetworkSettings" "Networks"}}'
    + '{{$comma}}{{json $name}}{{$comma = ","}}{{end}}'
    + '],"NetworkMode":{{json (index . "HostConfig" "NetworkMode")}}'
    + '{{with index . "State"}},'
    + ",".join(f'"{name}":{{{{json (index . "{name}")}}}}' for name in ("Status", "ExitCode", "StartedAt"))
    + ',"Health":{{with index . "Health"}}{{json (index . "Status")}}{{else}}null{{end}}{{end}}'
    + f',"Limits":{{{_fields("HostConfig", LIMITS)}}},"Shape":{{{_fields("Config", _CONFIG)},{_fields("HostConfig", _HOST_CONFIG)}}}'
    + "{{end}}}"
)

_UNSET = re.compile(r'The \\?"([^"\\]+)\\?" variable is not set')
_NO_SUCH = re.compile(r"no such object: (\S+)", re.I)
_ID = re.compile(r"[0-9a-f]{64}")
#: Lines with which Compose and Docker report progress, which say nothing about a failure.
_PROGRESS = re.compile(
    r"^\s*(?:Container|Network|Volume|Image|\S+) .*(?:Creat|Start|Stopp|Remov|Recreat|Runn|Wait|Healthy|Exited|Pull|Built)\w*\s*$"
    r"|^time=\"[^\"]*\" level=warning|^$"
)


class DockerCli:
    """The Docker Engine that the ``docker`` on this node reaches."""

    def __init__(self, run: Runner = argv.run, plugins: Sequence[str] = PLUGIN_FOLDERS) -> None:
        self._run = run
        self._plugins = plugins
        host = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
        self._env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": os.environ.get("HOME", "/root"), **host}

    # -- reading -----------------------------------------------------------------------------------------------------------------
    def identity(self) -> str:
        docker, plugin = shutil.which("docker", path=self._env["PATH"]), self._plugin()
        if docker is None or plugin is None:
            what = "Docker" if docker is None else "the Compose plugin of Docker"
            raise EngineMissingError(f"{what} is not installed on this node.", "The role stacks installs it.")
        return " ".join(f"{path}:{(found := os.stat(path)).st_size}:{found.st_mtime_ns}" for path in (docker, plugin))

    def observe(self, images: Sequence[str] = (), *, projects: Sequence[str] = (), timeout: float) -> Observation:
        shown = f'{{{{.ID}}}} {{{{.Label "{labels.COMPOSE_PROJECT}"}}}}'
        listed = self._docker("ps", "-a", "--no-trunc", "--filter", f"label={labels.COMPOSE_PROJECT}", "--format", shown, timeout=timeout)
        pairs = (line.split(" ", 1) for line in listed.stdout.splitlines() if " " in line)
        ids = [container for container, project in pairs if not projects or project in projects]
        if not ids and not images:
            return Observation()
        done = self._call(("inspect", "--format", _TEMPLATE, *ids, *images), timeout)
        gone = set(_NO_SUCH.findall(done.stderr))
        if not done.ok and not gone:
            raise _error("looking at containers", done, timeout)
        try:
            found = [json.loads(line) for line in done.stdout.splitlines() if line]
            containers = tuple(_container(entry) for entry in found if "Status" in entry)
            here = [image for image in images if image not in gone]
            ids_here = dict(zip(here, (entry["Id"] for entry in found if "Status" not in entry), strict=True))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EngineError(f"`docker inspect` answered with something that is not understood: {error!r}.") from None
        return Observation(containers, ids_here)

    def resolve(self, source: Source, *, timeout: float) -> Mapping[str, Any]:
        done = self._compose(source, "config", "--format", "json", timeout=timeout)
        if not done.ok:
            raise _error(f"{', '.join(source.files)}: resolving it", done, timeout)
        if unset := sorted(set(_UNSET.findall(done.stderr))):
            names = ", ".join(unset)
            raise EngineError(
                f"{source.files[0]}: no value for the variable {names}.",
                "Set it in a file .env beside it, or write ${NAME:-default}; a dollar sign that is none of Compose's is written $$.",
            )
        try:
            model = json.loads(done.stdout)
        except ValueError:
            raise EngineError(f"{source.files[0]}: `docker compose config` answered with something that is no JSON.") from None
        return model if isinstance(model, dict) else {}

    def disabled(self, source: Source, *, timeout: float) -> tuple[str, ...]:
        answers = [self._compose(source, *flags, "config", "--services", timeout=timeout) for flags in ((), ("--profile", "*"))]
        for done in answers:
            if not done.ok:
                raise _error(f"listing the services of {source.project}", done, timeout)
        on, all_of_them = (set(done.stdout.split()) for done in answers)
        return tuple(sorted(all_of_them - on))

    def volumes(self, names: Sequence[str], *, timeout: float) -> tuple[str, ...]:
        here = set(self._docker("volume", "ls", "--quiet", timeout=timeout).stdout.split())
        return tuple(name for name in names if name in here)

    # -- changing ----------------------------------------------------------------------------------------------------------------
    def pull(self, image: str, platform: str, *, timeout: float) -> None:
        self._docker("pull", "--quiet", *(["--platform", platform] if platform else []), image, timeout=timeout)

    def build(self, source: Source, services: Sequence[str], *, timeout: float, keep: Sequence[int] = ()) -> None:
        done = self._compose(source, "build", "--quiet", *services, timeout=timeout, keep=keep)
        if not done.ok:
            raise _error(f"building images of {source.project}", done, timeout)

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
        # Without --no-deps a neighbour would be compared too, by a hash that another version of Compose makes in another way. With it,
        # Compose before 2.33 hashes a service without the dependencies that are not named: what is only to be started would be replaced.
        flags = ("--detach", "--no-deps", "--no-build", "--pull", "never", *(() if recreate else ("--no-recreate",)))
        scales = [word for name, number in sorted((scale or {}).items()) for word in ("--scale", f"{name}={number}")]
        done = self._compose(source, "up", *flags, *scales, *services, timeout=timeout, keep=keep)
        if not done.ok:
            raise _error(f"applying {source.project}", done, timeout)

    def down(self, project: str, *, volumes: bool, timeout: float, keep: Sequence[int] = ()) -> None:
        flags = ["--remove-orphans", *(["--volumes"] if volumes else [])]
        done = self._start([*self._compose_program(), "--project-directory", "/", "-p", project, "down", *flags], timeout, keep)
        if not done.ok:
            raise _error(f"removing {project}", done, timeout)

    def unpause(self, containers: Sequence[str], *, timeout: float) -> None:
        self._docker("unpause", *containers, timeout=timeout)

    def rename(self, container: str, name: str, *, timeout: float) -> None:
        self._docker("rename", container, name, timeout=timeout)

    def remove(self, containers: Sequence[str], *, timeout: float, keep: Sequence[int] = ()) -> None:
        for verb in ("stop", "rm"):
            done = self._call((verb, *containers), timeout, keep)
            if not done.ok and not re.search("no such container", done.stderr, re.I):
                raise _error("removing containers", done, timeout)

    def drop_network(self, network: str, containers: Sequence[str], *, timeout: float) -> None:
        calls = [("network", "disconnect", "--force", network, container) for container in containers]
        for call in (*calls, ("network", "rm", network)):
            done = self._call(call, timeout)
            if not done.ok and not re.search("not found|no such network|is not connected", done.stderr, re.I):
                raise _error(f"removing the network {network}", done, timeout)

    def decrypt(self, source: str, target: str, *, key_file: str, timeout: float) -> None:
        done = self._run(["sops", "--decrypt", "--output", target, source], timeout=timeout, env={"SOPS_AGE_KEY_FILE": key_file})
        if done.rc == 127:
            raise EngineMissingError("sops is not installed on this node.", "The role stacks installs it where files are encrypted.")
        if not done.ok:
            kind = EngineError if os.path.exists(key_file) else EngineMissingError
            raise kind(cause(done), f"The key belongs in {key_file}.")

    # -- commands ----------------------------------------------------------------------------------------------------------------
    def _compose(self, source: Source, *args: str, timeout: float, keep: Sequence[int] = ()) -> Completed:
        files = [part for file in source.files for part in ("-f", file)]
        call = ("--ansi", "never", "-p", source.project, "--project-directory", source.folder, *files, *args)
        return self._start([*self._compose_program(), *call], timeout, keep)

    def _plugin(self) -> str | None:
        return next((path for folder in self._plugins if os.path.exists(path := os.path.join(folder, "docker-compose"))), None)

    def _compose_program(self) -> tuple[str, ...]:
        """How Compose is started: by itself where the plugin is found, which takes half the time. The Docker CLI starts it twice, first to
        be told what it is: https://github.com/docker/cli/blob/master/cli-plugins/manager/manager.go, and it is made for either:
        https://github.com/docker/compose/blob/main/cmd/main.go (plugin.RunningStandalone)."""
        plugin = self._plugin()
        return (plugin,) if plugin else ("docker", "compose")

    def _docker(self, *args: str, timeout: float) -> Completed:
        done = self._call(args, timeout)
        if not done.ok:
            raise _error(f"`docker {' '.join(args[:1])}`", done, timeout)
        return done

    def _call(self, args: Sequence[str], timeout: float, keep: Sequence[int] = ()) -> Completed:
        return self._start(["docker", *args], timeout, keep)

    def _start(self, argv: Sequence[str], timeout: float, keep: Sequence[int] = ()) -> Completed:
        done = self._run(argv, timeout=timeout, env=self._env, bare=True, keep=keep)
        if done.rc == 127:
            raise EngineMissingError("Docker is not installed on this node.", "The role stacks installs it.")
        return done


def cause(done: Completed) -> str:
    """Return why a command failed, in its own words: the last lines that are no progress, scrubbed, on one line."""
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if not _PROGRESS.match(line)]
    return scrub(" | ".join(said[-3:]))[:1000] or f"exit code {done.rc}"


def _error(what: str, done: Completed, timeout: float = 0.0) -> EngineError:
    if done.rc == argv.TIMED_OUT:
        limit = f"{timeout:.0f} second{'' if f'{timeout:.0f}' == '1' else 's'}"
        return EngineTimeoutError(f"{what} took longer than {limit} and was ended.", "A longer time limit is stacks_timeout.")
    # https://github.com/moby/moby/blob/master/client/errors.go (connectionFailed)
    kind = EngineDownError if "Cannot connect to the Docker daemon" in done.stderr else EngineError
    return kind(f"{what} failed: {cause(done)}")


def _container(entry: Mapping[str, Any]) -> Container:
    own = entry["Labels"] or {}
    number = str(own.get(labels.COMPOSE_NUMBER, ""))
    return Container(
        id=entry["Id"],
        name=entry["Name"].lstrip("/"),
        project=own.get(labels.COMPOSE_PROJECT, ""),
        service=own.get(labels.COMPOSE_SERVICE, ""),
        number=int(number) if number.isdecimal() else 0,
        oneoff=own.get(labels.COMPOSE_ONEOFF) == "True",
        image=entry["Of"],
        image_id=entry["Image"],
        state=entry["Status"],
        exit_code=entry["ExitCode"],
        health=(entry["Health"] or "").replace("none", ""),
        restarts=entry["RestartCount"] or 0,
        started_at=entry["StartedAt"],
        labels={name: value for name, value in own.items() if name.startswith(labels.PREFIX)},
        folder=own.get(labels.COMPOSE_FOLDER, ""),
        networks=tuple(entry["Networks"]),
        network_mode=entry["NetworkMode"],
        limits={name: _plain(value) for name, value in entry["Limits"].items()},
        mounts=tuple(sorted(_mounts(entry["Mounts"] or ()))),
        shape=_shape(entry["Shape"]),
    )


def _mounts(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line for each mount: its kind, where it comes from and goes, and whether it may be written to. Anonymous volumes have none."""
    for mount in found:
        origin = mount.get("Name") or mount.get("Source") or ""
        if not _ID.fullmatch(origin):
            yield f"{mount['Type']} {origin} {mount['Destination']} {'rw' if mount.get('RW') else 'ro'}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _shape(table: Mapping[str, Any]) -> str:
    """Digest of what decides how a container runs. The order of an environment is Compose's whim; that of a command is not."""
    ordered = {name: sorted(value) if name in ("Env", "ExtraHosts") and value else value for name, value in table.items()}
    return hashlib.sha256(json.dumps(ordered, sort_keys=True).encode()).hexdigest()[:32]
