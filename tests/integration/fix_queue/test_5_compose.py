# SPDX-License-Identifier: GPL-3.0-or-later
"""The Compose stack of hub, workers, RabbitMQ and PostgreSQL, as hub/deploy/compose.yaml has it: a fix run that is asked for over HTTP."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.fix_queue.conftest import BASE, Queued
from tests.integration.fix_runs.conftest import NODE
from tests.support.fix_queue import QueueOffice, until
from tests.support.fleet import ROOT, Fleet
from tests.support.ports import free_port

COMPOSE = "/usr/libexec/docker/cli-plugins/docker-compose"
#: what the images of Docker Hub do, on Debian's packages: those cannot be reached from the lab
RABBITMQ = f"""\
FROM {BASE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends rabbitmq-server && rm -rf /var/lib/apt/lists/*
CMD ["rabbitmq-server"]
"""
POSTGRES = f"""\
FROM {BASE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/*
COPY start /start
CMD ["sh", "/start"]
"""
START = """\
set -e
data=/var/lib/postgresql/data programs=$(echo /usr/lib/postgresql/*/bin)
chown postgres $data
as_owner() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
if [ ! -e $data/PG_VERSION ]; then
  printf %s "$POSTGRES_PASSWORD" | as_owner sh -c "umask 077; cat >/tmp/password"
  as_owner $programs/initdb --pgdata $data --username "$POSTGRES_USER" --pwfile /tmp/password --auth scram-sha-256 >/dev/null
  echo "host all all all scram-sha-256" >>$data/pg_hba.conf
  echo "CREATE DATABASE $POSTGRES_DB" | as_owner $programs/postgres --single -D $data postgres
fi
exec setpriv --reuid=postgres --regid=postgres --clear-groups $programs/postgres -D $data -c "listen_addresses=*"
"""
#: which images, and ports that are free on this machine; all else is as it is shipped
OVERRIDE = """\
services:
  hub:
    image: pifleet-test/hub:local
    command: [python, -m, ansible_collections.pifleet.ops.hub, --fleet-root, /fleet, serve, --port, "{hub}"]
  worker: {{image: "pifleet-test/hub:local"}}
  rabbitmq: {{image: "pifleet-test/rabbitmq:local", ports: !override ["127.0.0.1:{broker}:5672"]}}
  postgres: {{image: "pifleet-test/postgres:local", ports: !override ["127.0.0.1:{ledger}:5432"]}}
"""


@pytest.fixture(scope="module")
def images(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    made = []
    for name, text in (("rabbitmq", RABBITMQ), ("postgres", POSTGRES)):
        folder = tmp_path_factory.mktemp(name)
        (folder / "Dockerfile").write_text(text)
        (folder / "start").write_text(START)
        made.append(f"pifleet-test/{name}:local")
        words = ["docker", "build", "--network=host", f"--tag={made[-1]}", str(folder)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stdout[-6000:]
    yield
    subprocess.run(["docker", "image", "rm", *made], check=False, capture_output=True, timeout=120)


class Stack:
    """hub/deploy/compose.yaml for the fleet at *root*, with secrets of its own. Compose itself is that of the nodes."""

    def __init__(self, fleet: Fleet, root: Path) -> None:
        self.root, self.secrets, self._settings = root, root.with_name("secrets"), root.with_name("docker")
        self.ports = {name: free_port() for name in ("hub", "broker", "ledger")}
        plugins = self._settings / "cli-plugins"
        plugins.mkdir(parents=True)
        subprocess.run(
            ["docker", "cp", f"pifleet-{fleet.inventory.name}-{NODE}:{COMPOSE}", str(plugins)], check=True, capture_output=True, timeout=120
        )
        (self._settings / "override.yaml").write_text(OVERRIDE.format(**self.ports))
        self._give_secrets(fleet)

    @property
    def ledger_url(self) -> str:
        return f"postgresql://pifleet@127.0.0.1:{self.ports['ledger']}/ledger"

    def _give_secrets(self, fleet: Fleet) -> None:
        user, password = "hub", secrets.token_hex(16)
        (self.secrets / "ssh").mkdir(parents=True, mode=0o700)
        for name in ("id_ed25519", "known_hosts"):
            shutil.copy(ROOT / ".pifleet/lab" / fleet.inventory.name / name, self.secrets / "ssh")
        for name, text in {
            "broker.env": f"RABBITMQ_DEFAULT_USER={user}\nRABBITMQ_DEFAULT_PASS={password}\n",
            "worker.env": f"FIX_RUNS_BROKER_URL=amqp://{user}:{password}@127.0.0.1:{self.ports['broker']}//\n",
            "postgres.env": f"POSTGRES_PASSWORD={password}\n",
            "pgpass": f"127.0.0.1:{self.ports['ledger']}:ledger:pifleet:{password}\n",
        }.items():
            (self.secrets / name).touch(0o600)
            (self.secrets / name).write_text(text)

    def __call__(self, *words: str, check: bool = True) -> str:
        """Run Compose, and return what it said."""
        done = subprocess.run(
            ["docker", "compose", "-f", "hub/deploy/compose.yaml", "-f", str(self._settings / "override.yaml"), *words],
            cwd=ROOT,
            env={**os.environ, "DOCKER_CONFIG": str(self._settings), "FLEET": str(self.root), "SECRETS": str(self.secrets)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0 or not check, done.stdout[-6000:]
        return done.stdout

    def containers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self("ps", "--all", "--format", "json").splitlines()]


@pytest.fixture
def stack(fleet: Fleet, tmp_path: Path, images: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    made = Stack(fleet, tmp_path / "fleet")
    monkeypatch.setenv("PGPASSFILE", str(made.secrets / "pgpass"))
    yield made
    made("down", "--volumes", "--timeout", "5", check=False)


def test_the_compose_stack(fleet: Fleet, stack: Stack) -> None:
    fleet.sh(
        NODE, "docker ps -aq | xargs -r docker rm -fv >/dev/null; docker image rm -f shop-web >/dev/null 2>&1; rm -rf /var/lib/pifleet/*"
    )
    shop = Queued(fleet, stack.root, None, stack.ledger_url)
    # the fleet's own inventory, with the key and the hosts that are known to the stack
    known = fleet.vars_of(NODE)
    mine = {
        name: known[name] for name in ("ansible_user", "ansible_python_interpreter", "fleet_name", "k3s_version", "stacks_stable_seconds")
    }
    cluster = {"vars": mine, "children": {"control_plane": {"hosts": {NODE: {"ansible_host": fleet.address(NODE)}}}}}
    shop.repository.write_yaml("inventory/pi-cluster/hosts.yml", {"all": {"children": {"k3s_cluster": cluster}}})
    shop.change("web/requirements.txt", "greeting==1.0\n")
    stack("up", "--no-build", "--pull", "never", "--detach")
    office = shop.office = QueueOffice(stack.root, fleet.inventory, None)
    office.port = stack.ports["hub"]

    def workers() -> int:
        try:
            return int(office.ask("viewer", "GET", "/api/queue")["workers"])
        except httpx.TransportError:
            return -1

    until(lambda: workers() == 2, "the hub or its workers do not answer")
    shop.deploy()
    others = shop.others()
    run = office.enqueue("bump greeting to 1.1")
    done = until(lambda: (now := office.fix_runs.get(run.id)).status not in ("pending", "running") and now, "it does not end", 120)
    assert (done.status, shop.says(), shop.others()) == ("succeeded", "1.1 good", others), f"{done.reason}\n{stack('logs')[-4000:]}"
    # each ends when it is told to, none had to be killed; uvicorn ends by the signal itself, when all is done
    stack("stop")
    ended = {(entry["Service"], entry["ExitCode"]) for entry in stack.containers() if entry["Service"] in ("hub", "worker")}
    assert ended == {("hub", 128 + signal.SIGTERM), ("worker", 0)}
