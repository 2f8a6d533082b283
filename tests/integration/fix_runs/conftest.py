# SPDX-License-Identifier: GPL-3.0-or-later
"""Two lab nodes, on one of which a stack has a service written in real Python that is built on the node, and neighbours of it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import FixRuns
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from lab import workload
from lab.console import Console
from tests.support.fleet import Fleet, Process, Run
from tests.support.release_fleet import Repository
from tests.support.stack_node import APP

HERE = Path(__file__).resolve().parent
NODE, OTHER = "fix-1.local", "fix-2.local"
BASE = "pifleet/lab-python:1"
SHIM, CALLS = "/usr/local/bin/docker", "/run/pifleet-test-calls"

#: puts the wheels that requirements.txt names into site-packages, as pip does, without a network
INSTALL = """\
import pathlib, re, sys, time, zipfile
for line in pathlib.Path("/build/requirements.txt").read_text().split("\\n"):
    found = re.match(r"([\\w.-]+)==([\\w.]+)", line)
    if not found:
        continue
    if found[1] == "endless":
        for _line in range(1_000_000):
            print("x" * 99)
        print("and now for ever", flush=True)
        time.sleep(3600)
    wheel = pathlib.Path(f"/build/wheels/{found[1]}-{found[2]}-py3-none-any.whl")
    if not wheel.exists():
        sys.exit(f"ERROR: No matching distribution found for {line}")
    print("Successfully installed", line)
    zipfile.ZipFile(wheel).extractall("/site")
"""
SERVER = """\
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *words: sys.exit(0))
sys.path.insert(0, "/site")
import greeting
MODE = os.environ["MODE"]
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        ok = greeting.WELL and MODE != "bad" and not (MODE == "flap" and Handler.asked % 2)
        self.send_response(200 if ok else 503)
        self.end_headers()
        self.wfile.write(f"{greeting.VERSION} {MODE}".encode())
    def log_message(self, *words):
        pass
print("DB_PASSWORD=" + os.environ.get("DB_PASSWORD", ""), flush=True)
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""
DOCKERFILE = f"""\
FROM {BASE}
COPY . /build
RUN ["/usr/bin/python3", "/build/install.py"]
CMD ["/usr/bin/python3", "/build/server.py"]
"""
COMPOSE = f"""\
x-pifleet: {{nodes: [{NODE}]}}
services:
  web:            # the front of the shop
    build: ./web
    environment:
      MODE: good  # or bad
      DB_PASSWORD: hunter2-planted
    restart: unless-stopped
  other:
    image: {APP}
    pull_policy: never
    restart: unless-stopped
"""
NEIGHBOUR = f"""\
x-pifleet: {{nodes: [{NODE}]}}
services:
  app: {{image: "{APP}", pull_policy: never, restart: unless-stopped}}
"""
PROFILE: dict[str, Any] = {
    "stack": "shop",
    "service": "web",
    "node": NODE,
    "files": ["compose.yaml", "web/*.txt", "web/Dockerfile"],
    "commands": {
        "module": {"argv": ["/usr/bin/python3", "-c", "import sys; sys.path.insert(0, '/site'); import greeting"]},
        "wrong": {"argv": ["/usr/bin/python3", "-c", "raise SystemExit(3)"]},
    },
    "health": {"url": "http://{address}:8080/", "interval": 0.5, "timeout": 15, "samples": 3, "checks": ["module"]},
    # what takes that long on a busy machine is not what a test is about
    "timeouts": {"build": 120, "restart": 180},
}


def wheel(version: str, *, well: bool) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("greeting.py", f"VERSION, WELL = {version!r}, {well}\n")
    return buffer.getvalue()


class Shop:
    """The fleet with a repository of its own."""

    def __init__(self, fleet: Fleet, root: Path) -> None:
        self.fleet, self.repository = fleet, Repository(root)
        write = self.repository.write
        write(".gitignore", ".pifleet/\nvar/\n")
        write("stacks/shop/compose.yaml", COMPOSE)
        write("stacks/neighbour/compose.yaml", NEIGHBOUR)
        for name, text in (("Dockerfile", DOCKERFILE), ("install.py", INSTALL), ("server.py", SERVER), ("requirements.txt", "")):
            write(f"stacks/shop/web/{name}", text)
        wheels = root / "stacks/shop/web/wheels"
        wheels.mkdir()
        for version, well in (("1.0", True), ("1.1", True), ("2.0", False)):
            (wheels / f"greeting-{version}-py3-none-any.whl").write_bytes(wheel(version, well=well))
        self.profile()
        self.repository.commit("Begin")

    def profile(self, **changed: Any) -> None:
        self.repository.write_yaml("fix_profiles/web.yml", {**PROFILE, **changed})

    def change(self, path: str, text: str) -> None:
        """Commit another text of a file of the service."""
        self.repository.write(f"stacks/shop/{path}", text)
        self.repository.commit()

    # -- runs -------------------------------------------------------------------------------------------------------------
    def start(self, playbook: str, *args: str, **variables: Any) -> Process:
        given = json.dumps({"fleet_root": str(self.repository.root), **variables})
        return self.fleet.start(f"playbooks/{playbook}.yml", "-e", given, *args)

    def play(self, playbook: str, *args: str, rc: int = 0, **variables: Any) -> Run:
        return self.start(playbook, *args, **variables).wait(300).require(rc)

    def at(self, process: Process, step: str, seconds: float = 120) -> FixRun:
        """Wait until *step* of the fix run that *process* does is in progress, and return the fix run."""
        deadline = time.monotonic() + seconds
        while not (found := self.fix_runs.listed(limit=1)[0]) or found[0].step(step).state != "in_progress":
            assert time.monotonic() < deadline
            assert process.process.poll() is None, process.log.read_text()
            time.sleep(0.01)
        return found[0]

    def fix(self, instruction: str, *args: str, rc: int = 0, **variables: Any) -> Run:
        return self.play("fix", *args, rc=rc, service="web", instruction=instruction, **variables)

    def told(self, run: Run) -> str:
        return " ".join(run.output.split())

    def deploy(self, rc: int = 0) -> Run:
        return self.play("stacks", rc=rc)

    @property
    def fix_runs(self) -> FixRuns:
        """The ledger, read by this process."""
        return FixRuns(Store(self.repository.root / ".pifleet/ledger.db"))

    def last(self) -> FixRun:
        return self.fix_runs.listed(limit=1)[0][0]

    def states(self) -> str:
        return " ".join(step.state for step in self.last().steps)

    def artifact(self, name: str) -> str:
        return (self.repository.root / "var/artifacts" / self.last().id / name).read_text()

    def commits(self) -> int:
        return int(self.repository.git("rev-list", "--count", "HEAD"))

    def head(self) -> str:
        return self.repository.git("rev-parse", "HEAD")

    # -- the oracle: docker on the node -----------------------------------------------------------------------------------
    def sh(self, script: str, *, check: bool = True) -> str:
        return self.fleet.sh(NODE, script, check=check)

    def watch(self) -> None:
        """Count from now on what is done to the service: by a docker that notes each call, and by Docker itself."""
        script = f'#!/bin/sh\\necho "$*" >>{CALLS}\\nexec /usr/bin/docker "$@"\\n'
        self.sh(f"rm -f {CALLS}; printf '{script}' >{SHIM}; chmod 755 {SHIM}; date +%s.%N >{CALLS}.since")

    def builds(self) -> int:
        """How often the service's image was built."""
        return int(self.sh(f"cat {CALLS} 2>/dev/null | grep -cE 'compose .* build web$' || true"))

    def made(self) -> int:
        """How many containers of the service were made."""
        words = "--filter label=com.docker.compose.service=web --filter event=create --format '{{.Action}}'"
        return len(self.sh(f"/usr/bin/docker events --since $(cat {CALLS}.since) --until $(date +%s.%N) {words}").split())

    def others(self) -> str:
        """Id, start and restarts of every container but the service's own."""
        form = "{{.Id}} {{.Name}} {{.State.StartedAt}} {{.RestartCount}}"
        listed = self.sh(f"docker ps -aq --no-trunc | xargs -r docker inspect -f '{form}'")
        found = sorted(line for line in listed.splitlines() if "/shop-web-1" not in line)
        assert len(found) == 2, listed
        return "\n".join(found)

    def web(self) -> dict[str, Any]:
        return dict(json.loads(self.sh("docker inspect shop-web-1"))[0])

    def images(self) -> set[str]:
        return set(self.sh("docker images -aq --no-trunc").split())

    def says(self) -> str:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.sh(f"curl -sS --max-time 5 http://$(docker inspect -f '{form}' shop-web-1):8080/", check=False)

    def files(self) -> str:
        return self.sh("cd /var/lib/pifleet/desired-state/stacks/shop && find . -type f | sort | xargs sha256sum")

    def everything(self) -> str:
        """All that a fix run may touch on the node. For "before equals after"."""
        # a container that fails is started again and again by Docker
        form = '{{.Id}} {{.Name}} {{if eq (printf "%v" .RestartCount) "0"}}{{.State.StartedAt}}{{end}} {{json .Config.Labels}}'
        return self.sh(
            f"docker ps -aq --no-trunc | sort | xargs -r docker inspect -f '{form}'; docker images -aq --no-trunc | sort; "
            # every run leaves the anchor of its record there
            "find /var/lib/pifleet -xdev -type f -not -path '*/evidence/*' | sort | xargs sha256sum"
        )


def python_image(fleet: Fleet) -> None:
    """Make an image of the node's own Python: nothing is fetched."""
    places = "usr/bin/python3* usr/lib/python3* usr/lib/x86_64-linux-gnu/l*.so* usr/lib64 lib64 lib bin tmp"
    fleet.sh(
        NODE,
        f"docker image inspect {BASE} >/dev/null 2>&1 || tar -C / -c --ignore-failed-read {places} 2>/dev/null | docker import - {BASE}",
        timeout=300,
    )


def prepared(lab: Fleet) -> None:
    """Start the nodes, and load the images there."""
    lab.up()
    lab.sh(NODE, "systemctl start docker")
    archive = workload.archive("app", Console())
    with archive.open("rb") as stream:
        command = ["docker", "exec", "--interactive", f"pifleet-{lab.inventory.name}-{NODE}", "docker", "load", "--quiet"]
        subprocess.run(command, stdin=stream, check=True, capture_output=True, timeout=120)
    python_image(lab)


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    lab = Fleet(HERE / "lab-fixes")
    prepared(lab)
    yield lab
    lab.lab("down", "-i", str(lab.inventory))


@pytest.fixture
def shop(fleet: Fleet, tmp_path: Path) -> Iterator[Shop]:
    """A repository and ledger of the test's own, on a clean node."""
    fleet.sh(
        NODE,
        "systemctl start docker; docker ps -aq | xargs -r docker rm -fv >/dev/null; docker image rm -f shop-web >/dev/null 2>&1; "
        "docker image prune -f >/dev/null; rm -rf /var/lib/pifleet/*; "
        f"rm -f {SHIM}",
    )
    yield Shop(fleet, tmp_path / "fleet")
    shutil.rmtree(tmp_path / "fleet", ignore_errors=True)


@pytest.fixture
def broken(shop: Shop) -> Shop:
    """Deployed, and failing for a missing dependency."""
    shop.deploy(rc=2)
    return shop


@pytest.fixture
def well(shop: Shop) -> Shop:
    """Deployed, and well."""
    shop.change("web/requirements.txt", "greeting==1.0\n")
    shop.deploy()
    return shop
