# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet's repository with something to release: a git work tree, ``releases.yml``, a base project, and a service of the lab's program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

#: git without the settings of who runs the tests
_GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Tests",
    "GIT_AUTHOR_EMAIL": "tests@fleet.example",
    "GIT_COMMITTER_NAME": "Tests",
    "GIT_COMMITTER_EMAIL": "tests@fleet.example",
    "GIT_AUTHOR_DATE": "2025-01-02T03:04:05Z",
    "GIT_COMMITTER_DATE": "2025-01-02T03:04:05Z",
}

BASE: Mapping[str, Any] = {
    "services": {
        "web": {
            "image": "web",
            "restart": "unless-stopped",
            "environment": {"SETTING": "from the base file"},
            "healthcheck": {"test": ["CMD", "/app", "health"], "interval": "1s", "timeout": "2s", "retries": 2, "start_period": "1s"},
            "volumes": ["./site.conf:/site.conf:ro", "data:/data"],
        },
        "job": {"image": "web", "command": ["serve", "-port", "9090"], "depends_on": ["web"]},
        "unused": {"image": "nobody/asks:1"},
    },
    "volumes": {"data": {}},
}


class Repository:
    """The work tree at *root*."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.write(".gitignore", ".pifleet/\nregistry-password\n")

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", "-C", self.root, *words], env={**os.environ, **_GIT}, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def write_yaml(self, path: str, table: Mapping[str, Any]) -> None:
        self.write(path, yaml.safe_dump(json.loads(json.dumps(table))))

    def commit(self, tag: str = "") -> str:
        """Commit everything, and return the commit's hash."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", tag or "change")
        if tag:
            self.git("tag", tag)
        return self.git("rev-parse", "HEAD")

    def service(self, program: Path, said: str, *command: str) -> None:
        """Make the build context ``apps/web``: the lab's program, whose ``/version`` says *said*, run with *command*."""
        folder = self.root / "apps/web"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "app").exists():
            shutil.copy(program, folder / "app")
            (folder / "app").chmod(0o755)
        self.write("apps/web/version", f"{said}\n")
        words = json.dumps(list(command or ("serve",)))
        self.write("apps/web/Dockerfile", f'FROM scratch\nCOPY app /app\nCOPY version /version\nENTRYPOINT ["/app"]\nCMD {words}\n')


def environment(registry: str, **changed: Any) -> dict[str, Any]:
    """An environment of ``releases.yml``, with *changed* keys."""
    table: dict[str, Any] = {
        "base": "services",
        "registry": f"{registry}/fleet",
        "login": {"user": "deployer", "password_file": "registry-password"},
        "retain": 2,
        "health": {"timeout": 40, "stable": 1},
        "batches": {"canary": 1, "size": 2},
        "services": {
            "web": {"role": "workers", "image": "web", "build": {"context": "apps/web"}},
            "job": {"role": "control_plane", "image": "job", "build": {"context": "apps/web"}},
        },
    }
    return {**table, **changed}
