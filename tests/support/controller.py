# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs real playbooks with the checkout's settings, on hosts that are this machine: nothing of the lab is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: three hosts that are this machine, and one that nobody answers for
INVENTORY = f"""
all:
  vars:
    ansible_connection: local
    ansible_python_interpreter: {sys.executable}
  hosts:
    gone:
      ansible_connection: ssh
      ansible_host: 127.0.0.1
      ansible_port: 1
    one: {{}}
    two: {{}}
    three: {{}}
"""


@dataclass(frozen=True)
class Played:
    """A finished ansible-playbook. *recap*: counts by host, as ``{"one": {"ok": 2, ...}}``."""

    rc: int
    out: str

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        lines = re.findall(r"^(\S+) +: +(ok=.*)$", self.out.split("PLAY RECAP")[-1], re.M)
        return {host: {k: int(v) for k, v in (part.split("=") for part in counts.split())} for host, counts in lines}

    @property
    def changed(self) -> int:
        return sum(counts["changed"] for counts in self.recap.values())

    def assert_clear(self) -> None:
        """A failure is told to a person: no traceback, no internals."""
        assert "Traceback" not in self.out, self.out
        assert "Unexpected" not in self.out, self.out
        assert 'File "' not in self.out, self.out


@dataclass
class Controller:
    """*folder*: the fleet's folder of one test."""

    folder: Path

    def command(self, playbook: str, *args: str, inventory: str | Path | None = None) -> list[str]:
        path = self.folder / f"play-{abs(hash(playbook)) % 10**8}.yml"
        path.write_text(playbook)
        hosts = Path(inventory) if inventory else self.folder / "hosts.yml"
        if not hosts.exists():
            hosts.write_text(INVENTORY)
        return [sys.executable, "-m", "ansible", "playbook", "-i", str(hosts), "-e", f"fleet_root={self.folder}", *args, str(path)]

    def play(self, playbook: str, *args: str, inventory: str | Path | None = None, env: dict[str, str] | None = None) -> Played:
        """Run *playbook*, its text, to its end. *args*: as for ansible-playbook."""
        return self.run(self.command(playbook, *args, inventory=inventory), env=env)

    def run(self, command: list[str], *, env: dict[str, str] | None = None, cwd: Path = ROOT) -> Played:
        done = subprocess.run(
            command, cwd=cwd, env=self.env(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
        )
        return Played(done.returncode, done.stdout)

    def env(self, more: dict[str, str] | None = None) -> dict[str, str]:
        settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CACHE_PLUGIN": "memory", "COLUMNS": "200"}
        return {**os.environ, **settings, "PYTHONUNBUFFERED": "1", **(more or {})}


def wait_for_file(path: Path) -> None:
    """Return once a task has made *path*: Ansible waits for that task then. (An interrupt in the moment of a fork is lost in Python.)"""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"no task has made {path}"
        time.sleep(0.05)


def with_callback(folder: Path, text: str, name: str = "evidence") -> dict[str, str]:
    """Make the collection in *folder* with *text* at the end of its callback *name*, and return the environment in which it is used."""
    ops = folder / "collections" / "ansible_collections" / "pifleet" / "ops"
    (ops / "plugins" / "callback").mkdir(parents=True)
    for source in [*(ROOT / "plugins").iterdir(), *(ROOT / other for other in ("galaxy.yml", "meta", "roles"))]:
        target = ops / source.relative_to(ROOT)
        if not target.exists():
            target.symlink_to(source)
    (ops / "plugins" / "callback" / f"{name}.py").write_text((ROOT / f"plugins/callback/{name}.py").read_text() + text)
    for other in (ROOT / "plugins/callback").glob("*.py"):
        if other.stem != name:
            (ops / "plugins" / "callback" / other.name).symlink_to(other)
    return {"ANSIBLE_COLLECTIONS_PATH": str(folder / "collections")}
