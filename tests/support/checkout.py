# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkout of a person's own, with its own git history, ledger and reports, whose commands reach a lab fleet of this one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.support.fleet import ROOT, Fleet, descendants

_LIMIT = 1200  # seconds, after which a command hangs


class Checkout:
    """The copy at *folder*. Its inventory, unless a command names one, is that of *fleet*."""

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        self.folder, self.fleet = folder, fleet
        self.inventory = folder / fleet.inventory.relative_to(ROOT)
        listed = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in filter(None, subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                # with its time, by which make knows that the environment is up to date
                shutil.copy2(ROOT / name, folder / name)
        shutil.copytree(ROOT / ".collections", folder / ".collections", symlinks=True)
        (folder / ".venv").symlink_to(ROOT / ".venv")
        # keys, images and artifacts of the lab are this checkout's; everything else below .pifleet is the copy's
        lab, shared = folder / ".pifleet/lab", ROOT / ".pifleet/lab"
        lab.mkdir(parents=True)
        for name in ("artifacts", "images", fleet.inventory.name):
            (shared / name).mkdir(parents=True, exist_ok=True)
            (lab / name).symlink_to(shared / name)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("As it is")

    def git(self, *words: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        return subprocess.run(["git", "-C", self.folder, *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, what: str) -> str:
        """Commit everything, and return the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", what)
        return self.git("rev-parse", "HEAD")

    def shell(self, line: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Execute a line as a person does who stands in the checkout, and return its exit code and what it says."""
        process = self.start(line, env)
        try:
            output, _none = process.communicate(timeout=_LIMIT)
        except BaseException:
            kill(process)
            raise
        return process.returncode, output

    def start(self, line: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Begin to execute such a line."""
        # on a page, `python -m lab` is about the lab that `make site` starts; here, about the fleet of these tests
        line = re.sub(r"python -m lab (down|exec|status|up|wipe)\b(?! -i)", rf"python -m lab \1 -i {self.inventory}", line)
        settings = {
            "PATH": f"{self.folder / '.venv/bin'}:{os.environ['PATH']}",
            "ANSIBLE_INVENTORY": str(self.inventory),
            "INVENTORY": str(self.inventory),
            "PYTHONPATH": str(self.folder / ".collections"),
            "ANSIBLE_NOCOLOR": "1",
            "NO_COLOR": "1",
            "COLUMNS": "400",
            # a machine that builds and tests at once lets a node wait longer than a person's network does
            "ANSIBLE_TIMEOUT": "60",
        }
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            env={**os.environ, **settings, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[str]) -> None:
    """End a line and all that it started at once, as a lost laptop does."""
    for pid in [process.pid, *descendants(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(60)
