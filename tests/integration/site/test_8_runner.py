# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml, unchanged, as AWX runs it: through ansible-runner, with its events and its way of printing."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.site.test_7_evidence import newest
from tests.support.fleet import BIN, ROOT, Fleet


def run(fleet: Fleet, folder: Path, *args: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of ``ansible-runner run``, and the events that AWX would show, in their order."""
    words = ("-i", str(fleet.inventory), *fleet.settings, *args)
    what = ("--project-dir", ROOT, "--playbook", "site.yml", "--ident", "1", f"--cmdline={shlex.join(words)}")
    done = subprocess.run(
        [BIN / "ansible-runner", "run", folder, *what],
        cwd=folder,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        timeout=600,
    )
    events = [json.loads(file.read_text()) for file in (folder / "artifacts/1/job_events").glob("*.json")]
    return done.returncode, sorted(events, key=lambda event: int(event["counter"]))


def test_converged_fleet_through_ansible_runner(converged: Fleet, tmp_path: Path) -> None:
    converged.play().require()
    units = converged.invocations()
    rc, events = run(converged, tmp_path)
    stats = next(e["event_data"] for e in events if e["event"] == "playbook_on_stats")
    assert rc == 0, "\n".join(e["stdout"] for e in events)[-3000:]
    assert (stats["changed"], stats["failures"], stats["dark"]) == ({}, {}, {})
    assert set(stats["ok"]) >= set(converged.hosts)
    assert newest(converged)["status"] == "succeeded"
    assert converged.invocations() == units


def test_what_fails_fails_there_too(converged: Fleet, tmp_path: Path) -> None:
    rc, events = run(converged, tmp_path, "-e", "k3s_join_timeout=soon")
    assert rc == 2
    said = [e["event_data"]["res"]["msg"] for e in events if e["event"] == "runner_on_failed"]
    assert "k3s_join_timeout: is refused" in said[-1]
