# SPDX-License-Identifier: GPL-3.0-or-later
"""What the molecule scenario `releases` needs beside the nodes: `python -m tests.support.release_scenario up|down FOLDER`.

A registry that runs until `down`, the nodes' trust in it, and below FOLDER/fleet a repository with something to release.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

from lab import tools
from lab.console import Console
from tests.support.fleet import ROOT, Fleet
from tests.support.registry import PASSWORD, Registry
from tests.support.release_fleet import BASE, Repository, environment

GATEWAY = "172.30.77.1"


def up(folder: Path) -> None:
    down(folder)
    registry = Registry(GATEWAY, folder=folder / "registry")
    (folder / "pid").write_text(str(registry.set_up()))
    fleet = Fleet(ROOT / "inventory/lab")
    for host in fleet.hosts:
        fleet.sh(host, "systemctl start docker")
    registry.trusted_by(fleet)
    repository = Repository(folder / "fleet")
    repository.write("registry-password", f"{PASSWORD}\n")
    repository.write_yaml("services/compose.yaml", BASE)
    repository.write("services/site.conf", "one\n")
    repository.service(tools.ensure("workload", Console()), "1")
    repository.write_yaml("releases.yml", {"environments": {"prod": environment(registry.name)}})
    repository.commit("1.0.0")


def down(folder: Path) -> None:
    pid = (folder / "pid").read_text() if (folder / "pid").exists() else ""
    with contextlib.suppress(OSError):
        # a number may be another process's by now
        if str(folder) in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(int(pid), signal.SIGTERM)
    Registry(GATEWAY, folder=folder / "registry").forget()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


if __name__ == "__main__":
    {"up": up, "down": down}[sys.argv[1]](Path(sys.argv[2]).resolve())
