# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller with a real systemd: a container of the node image, in which this checkout and its Python stand (read-only), and a hub."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import ApiTokens
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Settings, load
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.received import Received
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from lab import docker, image, nodes, paths, sysctls, system
from lab.console import Console
from tests.support.controller import INVENTORY, ROOT, Played
from tests.support.hub import certificates

PORT = 8470
SOURCE = "team-a/fleet-1"
UNIT = "/root/.config/systemd/user/pifleet-sync.service"


@dataclass
class Controller:
    """*name*: of the container; *folder*: the fleet's, at the same path inside and outside."""

    name: str
    folder: Path

    @property
    def store(self) -> Store:
        return Store(self.folder / ".pifleet/ledger.db")

    @property
    def settings(self) -> Settings:
        return load(self.folder)

    def received(self) -> list[str]:
        """The ids of the events that the hub has, looked up in its database."""
        return [key for key, _sha256 in Received(Store(self.folder.parent / "hub/hub.db")).list_events(SOURCE, "", 10**6)]

    def sh(self, script: str, *, detach: bool = False, timeout: float = 600) -> Played:
        """Run a line of shell as the user does who is logged in there."""
        settings = {
            "HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0", "LC_ALL": "C.UTF-8",
            "PATH": f"{ROOT}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(ROOT / ".collections"), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CACHE_PLUGIN": "memory", "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        words = [word for key, value in settings.items() for word in ("--env", f"{key}={value}")]
        command = ["docker", "exec", *(["--detach"] if detach else []), "--workdir", str(ROOT), *words, self.name, "sh", "-c", script]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False)
        return Played(done.returncode, done.stdout)

    def sync(self, *words: str) -> Played:
        """Run playbooks/sync.yml. *words*: such as ``mode=status``."""
        return self.play("sync", *words)

    def play(self, playbook: str, *words: str, hosts: str = "hosts.yml") -> Played:
        """Run a playbook of the checkout. *words*: such as ``mode=status``; *hosts*: the inventory in the fleet's folder."""
        more = " ".join(f"-e {shlex.quote(word)}" for word in words if not word.startswith("--"))
        options = " ".join(word for word in words if word.startswith("--"))
        place = self.folder / hosts
        return self.sh(f"ansible-playbook -i {place} --limit one -e fleet_root={self.folder} {more} {options} playbooks/{playbook}.yml")

    def json(self) -> dict[str, Any]:
        """The status as a program reads it."""
        played = self.sync("mode=status", "output=json")
        (line,) = [line for line in played.out.splitlines() if line.startswith("{")]
        found: dict[str, Any] = json.loads(line)
        return found

    def user(self, command: str) -> str:
        """Run ``systemctl --user COMMAND``, and return what it says."""
        return self.sh(f"systemctl --user {command}").out.strip()

    def eventually(self, holds: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.sh("journalctl -b --no-pager -n 50; systemctl --user status pifleet-sync").out
            time.sleep(0.2)


def python_mounts() -> list[str]:
    """The folders of the Python that the environment is made from."""
    base = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [str(base)] if base != Path("/usr") else [f"/usr/bin/{version}", f"/usr/lib/{version}"]


@pytest.fixture(scope="session")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    top = tmp_path_factory.mktemp("service")
    with paths.machine_in_use():
        sysctls.save()
        with paths.locked(paths.cache() / "system.lock"):
            system.ensure_engine(Console())
        tag = image.ensure(image.node(), Console())
        name = f"pifleet-sync-service-{uuid.uuid4().hex[:8]}"
        docker.docker(*_arguments(name, tag, top))
    try:
        yield _set_up(Controller(name, top / "fleet"), top)
    finally:
        nodes.remove([name])


def _arguments(name: str, tag: str, top: Path) -> list[str]:
    """As the lab starts a node, but without a network."""
    arguments = ["run", "--detach", "--name", name, "--hostname", "raspberrypi", "--network", "none", "--stop-signal", "SIGRTMIN+3"]
    arguments += nodes.rights()
    for option in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"):
        arguments += ["--security-opt", option]
    arguments += ["--device-cgroup-rule", "a *:* rwm", "--cgroupns", "private", "--tmpfs", "/run:exec", "--tmpfs", "/tmp:exec"]
    arguments += ["--label", f"{docker.LABEL}=sync-service", "--label", f"{docker.LABEL}.node=controller"]
    for place in [str(ROOT), *python_mounts()]:
        arguments += ["--volume", f"{place}:{place}:ro"]
    return [*arguments, "--volume", f"{top}:{top}", tag]


def _set_up(controller: Controller, top: Path) -> Controller:
    folder, hub = controller.folder, top / "hub"
    for made in (folder, hub):
        made.mkdir()
    authority = certificates(hub)
    (folder / "token").write_text(ApiTokens(Store(hub / "hub.db")).add("controller", "sync", SOURCE, timedelta(days=1)))
    (folder / "token").chmod(0o600)
    values = {
        "hub_url": f"https://127.0.0.1:{PORT}",
        "owner": "team-a",
        "fleet": "fleet-1",
        "token_file": "token",
        "ca_file": str(authority),
    }
    (folder / "evidence.yml").write_text(json.dumps(values))
    (folder / "hosts.yml").write_text(INVENTORY)
    controller.eventually(lambda: controller.sh("systemctl is-active dbus.service").rc == 0)
    # what libpam-systemd does at a login
    drop_in = "/etc/systemd/system/user@.service.d/runtime.conf"
    runtime = "[Service]\\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\\n"
    assert controller.sh(f"mkdir -p $(dirname {drop_in}) && printf '{runtime}' > {drop_in} && systemctl daemon-reload").rc == 0
    started = controller.sh("systemctl start user@0.service")
    assert started.rc == 0, started.out + controller.sh("systemctl status user@0.service; journalctl -b -n 30 --no-pager").out
    # a test does not wait for half a minute
    assert controller.sh(f"mkdir -p {UNIT}.d && printf '[Service]\\nRestartSec=1\\n' > {UNIT}.d/soon.conf").rc == 0
    hub_words = f"--database {hub}/hub.db serve --port {PORT} --port-file {hub}/port --tls-cert {hub}/hub.pem --tls-key {hub}/hub.key"
    controller.sh(f"python -m ansible_collections.pifleet.ops.hub {hub_words} > {hub}/log 2>&1", detach=True)
    controller.eventually((hub / "port").exists)
    return controller
