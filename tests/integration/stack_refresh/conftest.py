# SPDX-License-Identifier: GPL-3.0-or-later
"""Two lab nodes of their own. Tests run in the order of the files; each leaves whole nodes behind."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import BIN, ROOT, Fleet, Run
from tests.support.repository import Repository

HERE = Path(__file__).resolve().parent
FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))
ONE, TWO = "refresh-1.local", "refresh-2.local"
PROGRAM = "/usr/local/lib/pifleet/pifleet-stacks.pyz"
ASK = """
import dataclasses, json
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import places, refresh
print(json.dumps(dataclasses.asdict(refresh.status(places.RefreshPlaces.below()))))
"""
TREE = "/var/lib/pifleet/desired-state/stacks"


def until(what: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def stack(image: str = "pifleet/lab-app:1", *, more: str = "", **options: Any) -> str:
    """A compose file of one service."""
    return (
        f"x-pifleet: {json.dumps(options)}\n"
        f"services:\n  app:\n    image: {image}\n    pull_policy: never\n    restart: unless-stopped\n"
        f"    healthcheck: {{test: [CMD, /app, health], interval: 1s}}\n{more}"
    )


@dataclass
class Stacks:
    """The nodes, and the desired state that they get from here."""

    fleet: Fleet
    state: Repository

    def play(self, *args: str, playbook: str = "playbooks/stacks.yml", **variables: Any) -> Run:
        given = json.dumps({"fleet_root": str(self.state.path), **variables})
        return self.fleet.play("-e", given, *args, playbook=playbook)

    def status(self, node: str = ONE) -> dict[str, Any]:
        """What the status playbook says of a node, from its JSON."""
        shown = self.play("--limit", node, playbook="playbooks/stacks_status.yml", output="json").require().output
        text = shown[shown.index("{", shown.index("TASK [pifleet.ops.stacks : Show")) : shown.rindex("PLAY RECAP")]
        found, _ = json.JSONDecoder().raw_decode("\n".join(line.strip() for line in text.splitlines()))
        return dict(found[node])

    def refreshed(self, node: str = ONE) -> dict[str, Any]:
        """How the node's desired state is, asked there."""
        return dict(json.loads(self.sh(f"PYTHONPATH={PROGRAM} python3 -c '{ASK}'", node)))

    def sh(self, script: str, node: str = ONE, **more: Any) -> str:
        return self.fleet.sh(node, script, **more)

    def copy(self, local: Path, remote: str, node: str = ONE) -> None:
        """Put a file on a node, past ssh."""
        subprocess.run(["docker", "cp", "-q", str(local), f"pifleet-lab-refresh-{node}:{remote}"], check=True, timeout=60)

    def fetch(self, remote: str, local: Path, node: str = ONE) -> None:
        """Take a file from a node, past ssh."""
        subprocess.run(["docker", "cp", "-q", f"pifleet-lab-refresh-{node}:{remote}", str(local)], check=True, timeout=60)

    def unattended(self, node: str = ONE, rc: int = 0) -> list[dict[str, Any]]:
        """Start what the timer starts, to its end; the lines that it wrote."""
        out = self.sh("python3 /usr/local/lib/pifleet/pifleet-stacks.pyz; echo rc=$?", node, timeout=120)
        assert out.rstrip().endswith(f"rc={rc}"), out
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    def containers(self, node: str = ONE) -> dict[str, str]:
        """Ids of the containers that run, by name: Docker's own word."""
        out = self.sh("docker ps --no-trunc --format '{{.Names}} {{.ID}}' 2>/dev/null || true", node)
        return dict(line.split() for line in out.splitlines())

    def host(self, *, check: bool = False, node: str = ONE, **options: Any) -> dict[str, Any]:
        """The module stack_host alone; what it returned, a failure too."""
        folder = self.state.path.parent / "answers"
        argv = [BIN / "ansible", node, "-i", self.fleet.inventory, "-b", "-m", "pifleet.ops.stack_host", "-a", json.dumps(options)]
        argv += ["-t", folder, "-e", f"fleet_root={self.state.path}", *(["--check"] if check else [])]
        env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        done = subprocess.run(argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        assert (folder / node).exists(), done.stdout[-2000:] + done.stderr[-2000:]
        return {"failed": done.returncode != 0, **json.loads((folder / node).read_text())}


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    fleet = Fleet(HERE / "lab-refresh")
    fleet.up()
    fleet.first_run_after("1d")
    yield Stacks(fleet, Repository.make(tmp_path_factory.mktemp("controller") / "state"))
    fleet.lab("down", "-i", str(fleet.inventory))
