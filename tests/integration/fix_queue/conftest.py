# SPDX-License-Identifier: GPL-3.0-or-later
"""The shop of the tests of fix runs, on two nodes of this folder's own, with a real hub and both queues: embedded with a file as its
ledger, and two Celery workers with RabbitMQ and PostgreSQL."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import FixRuns

from tests.integration.fix_runs.conftest import NODE, Shop, prepared
from tests.support.debian import base_image
from tests.support.fix_queue import QUEUE, QueueOffice, servers  # noqa: F401
from tests.support.fleet import ROOT, Fleet
from tests.support.postgres import Server
from tests.support.rabbitmq import Broker
from tests.support.redis import RedisBroker

HERE = Path(__file__).resolve().parent
BASE, IMAGE = "pifleet-test/hub-base:local", "pifleet-test/hub:local"


class Queued(Shop):
    """The shop, with a hub. *broker* and *ledger_url*: of workers; without them the queue is embedded."""

    def __init__(self, fleet: Fleet, root: Path, broker: Broker | RedisBroker | None, ledger_url: str) -> None:
        self.office = QueueOffice(root, fleet.inventory, broker)
        super().__init__(fleet, root)
        if ledger_url:
            self.repository.write("evidence.yml", f"ledger_url: {ledger_url}\n")
            self.repository.commit()

    @property
    def fix_runs(self) -> FixRuns:
        return self.office.fix_runs


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    lab = Fleet(HERE / "lab-fix-queue")
    prepared(lab)
    yield lab
    lab.lab("down", "-i", str(lab.inventory))


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    base_image(BASE, tmp_path_factory.mktemp("hub") / "base")
    words = ["docker", "build", "--network=host", "--file=hub/deploy/Containerfile", f"--build-arg=DEBIAN={BASE}", f"--tag={IMAGE}", "."]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stdout[-6000:]
    yield IMAGE
    subprocess.run(["docker", "image", "rm", IMAGE, BASE], check=False, capture_output=True, timeout=120)


@pytest.fixture(params=["embedded", "celery"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def well(fleet: Fleet, tmp_path: Path, kind: str, servers: Callable[..., tuple[Broker | RedisBroker, Server]]) -> Iterator[Queued]:  # noqa: F811
    """Deployed and well, with a repository, ledger, hub and queue of the test's own, none of which works yet."""
    fleet.sh(
        NODE,
        "docker ps -aq | xargs -r docker rm -fv >/dev/null; docker image rm -f shop-web >/dev/null 2>&1; "
        "docker image prune -f >/dev/null; rm -rf /var/lib/pifleet/*",
    )
    broker, url = None, ""
    if kind != "embedded":
        broker, server = servers(RedisBroker if kind == "redis" else Broker)
        broker.purge(QUEUE)
        url = server.fresh()
    shop = Queued(fleet, tmp_path / "fleet", broker, url)
    shop.change("web/requirements.txt", "greeting==1.0\n")
    shop.deploy()
    yield shop
    shop.office.stop()
    shutil.rmtree(tmp_path / "fleet", ignore_errors=True)
