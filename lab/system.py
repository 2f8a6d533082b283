# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine itself must have: packages, root's rights, a Docker Engine."""

from __future__ import annotations

import grp
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import read_text, write_atomic
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import docker, paths
from lab.console import Console

ENGINE_TIMEOUT = 60.0  # seconds until a started engine must answer


def root() -> list[str]:
    """What to put before a command that needs root: nothing, or sudo. Raises PifleetError where neither is possible."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        return ["sudo"]
    raise PifleetError("This step needs root, and there is no sudo.", "Run it as root, or install sudo.")


def need(programs: dict[str, Sequence[str]], console: Console) -> None:
    """Install by apt what is missing of *programs* (program -> its Debian packages)."""
    if _missing(programs):
        with paths.locked(paths.cache() / "packages.lock"):
            _install(programs, _missing(programs), console)


def _missing(programs: dict[str, Sequence[str]]) -> list[str]:
    return [program for program in programs if shutil.which(program) is None and not Path("/usr/sbin", program).exists()]


def _install(programs: dict[str, Sequence[str]], missing: Sequence[str], console: Console) -> None:
    if not missing:
        return
    packages = list(dict.fromkeys(package for program in missing for package in programs[program]))
    if shutil.which("apt-get") is None:
        raise PifleetError(f"Not installed: {', '.join(missing)}.", "Install them with this system's package manager.")
    with console.step(f"installing {' '.join(packages)}"):
        check(run([*root(), "apt-get", "update", "-qq"], timeout=600), "The package lists cannot be had: is there a network?")
        available = [p for p in packages if run(["apt-cache", "show", p]).ok]
        command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends", *available]
        check(run([*root(), *command], timeout=1800), f"Install {' '.join(packages)} by hand.")


def ensure_engine(console: Console) -> None:
    """Have a Docker Engine that this user may use; start one where no service manager does it."""
    if shutil.which("docker") and docker.docker_tried("version", "--format", "{{.Server.Version}}", timeout=30).ok:
        return
    need({"docker": ["docker.io", "docker-cli"], "dockerd": ["docker.io"], "iptables": ["iptables"]}, console)
    answer = docker.docker_tried("version", timeout=30)
    if answer.ok:
        return
    if "permission denied" in answer.stderr:
        raise PifleetError(
            "The Docker Engine refuses this user.", "Add the user to the group docker, and log in again: sudo usermod -aG docker $USER"
        )
    with console.step("starting the Docker Engine"):
        if Path("/run/systemd/system").is_dir():
            check(run([*root(), "systemctl", "start", "docker"], timeout=ENGINE_TIMEOUT))
        else:
            _start_engine()
        _wait_for_engine()


def _record() -> Path:
    return paths.machine() / "dockerd.json"


def _start_engine() -> None:
    log = paths.cache() / "dockerd.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # a killed engine leaves its pid file, and the next one refuses to start if another process has that number by now
    pidfile = Path("/run/docker.pid")
    old = read_text(pidfile)
    if old and Path(f"/proc/{old.strip()}/comm").exists() and read_text(f"/proc/{old.strip()}/comm") != "dockerd\n":
        check(run([*root(), "rm", "-f", str(pidfile)]))
    command = [*root(), "dockerd"]
    if os.geteuid() != 0:
        command += ["--group", grp.getgrgid(os.getgid()).gr_name]
    with log.open("ab") as stream:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True)
    deadline = time.monotonic() + ENGINE_TIMEOUT
    while not (pid := (read_text(pidfile) or "").strip()) or not _is_engine(int(pid)):
        if time.monotonic() > deadline:
            raise PifleetError("The Docker Engine does not start.", f"Its log: {log}")
        time.sleep(0.2)
    write_atomic(_record(), json.dumps({"pid": int(pid)}))


def _wait_for_engine() -> None:
    deadline = time.monotonic() + ENGINE_TIMEOUT
    while not docker.docker_tried("version", timeout=30).ok:
        if time.monotonic() > deadline:
            raise PifleetError("The Docker Engine does not answer.", f"Its log: {paths.cache() / 'dockerd.log'}, or journalctl -u docker.")
        time.sleep(0.2)


def _is_engine(pid: int) -> bool:
    return read_text(f"/proc/{pid}/comm") == "dockerd\n"


def stop_own_engine(console: Console) -> None:
    """End the Docker Engine if the lab started it and nothing runs on it any more."""
    kept = read_text(_record())
    if kept is None:
        return
    pid = int(json.loads(kept)["pid"])
    if _is_engine(pid):
        if docker.docker("ps", "-q").strip():
            console.line("the Docker Engine stays: other containers run on it")
            return
        with console.step("stopping the Docker Engine"):
            if os.geteuid() == 0:
                os.kill(pid, signal.SIGTERM)
            else:
                check(run([*root(), "kill", str(pid)]))
            deadline = time.monotonic() + ENGINE_TIMEOUT
            while _is_engine(pid) and time.monotonic() < deadline:
                time.sleep(0.1)
    _record().unlink()
