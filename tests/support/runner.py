# SPDX-License-Identifier: GPL-3.0-or-later
"""A playbook of the checkout, unchanged, as AWX runs it: through ansible-runner, with its events and its way of printing."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from tests.support.fleet import BIN, ROOT, Fleet


def run(fleet: Fleet, folder: Path, playbook: str, *args: str) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit code of ``ansible-runner run``, and the events that AWX would show, in their order."""
    folder.mkdir(exist_ok=True)
    words = ("-i", str(fleet.inventory), *fleet.settings, *args)
    what = ("--project-dir", ROOT, "--playbook", playbook, "--ident", "1", f"--cmdline={shlex.join(words)}")
    done = subprocess.run(
        [BIN / "ansible-runner", "run", folder, *what],
        cwd=folder,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        timeout=600,
    )
    events = [json.loads(file.read_text()) for file in (folder / "artifacts/1/job_events").glob("*.json")]
    return done.returncode, sorted(events, key=lambda event: int(event["counter"]))


def printed(events: list[dict[str, Any]]) -> str:
    """Return what ansible-runner prints of *events*."""
    return "\n".join(event["stdout"] for event in events)
