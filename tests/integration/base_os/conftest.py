# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab node of its own. Tests run in the order of the files; each leaves a converged node behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import BIN, ROOT, Fleet

HERE = Path(__file__).resolve().parent
PLAY = "tests/integration/base_os/play.yml"
NODE = "fresh-pi.local"


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    lab = Fleet(HERE / "lab-base-os")
    lab.up()
    yield lab
    lab.lab("down", "-i", str(lab.inventory))


@pytest.fixture
def fresh(fleet: Fleet) -> Fleet:
    """The node as a newly flashed card."""
    fleet.wipe(NODE)
    return fleet


@pytest.fixture(scope="session")
def converged(fleet: Fleet) -> Fleet:
    fleet.play(playbook=PLAY).require()
    return fleet


@pytest.fixture
def sh(fleet: Fleet) -> Callable[[str], str]:
    """Runs a shell script on the node, past Ansible."""

    def run(script: str) -> str:
        argv = ["docker", "exec", "-i", f"pifleet-{fleet.inventory.name}-{NODE}", "bash", "-c", script]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{script}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
        return done.stdout

    return run


@pytest.fixture
def base_os(fleet: Fleet, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the module alone; what it returned, a failure too."""

    def run(*, check: bool = False, **options: Any) -> dict[str, Any]:
        argv = [BIN / "ansible", NODE, "-i", fleet.inventory, "-b", "-m", "pifleet.ops.base_os", "-a", json.dumps(options), "-t", tmp_path]
        env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        done = subprocess.run(
            [*argv, *(["--check"] if check else [])],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        answer = tmp_path / NODE
        assert answer.exists(), done.stdout[-2000:] + done.stderr[-2000:]
        return dict(json.loads(answer.read_text()))

    return run
