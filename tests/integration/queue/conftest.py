# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet whose one node takes connections and never says a word, so that its fix runs are in their first step for seconds."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fix_queue import QUEUE, QueueOffice, servers  # noqa: F401
from tests.support.fix_runs import COMPOSE, PROFILE, REQUIREMENTS
from tests.support.postgres import Server
from tests.support.rabbitmq import Broker
from tests.support.redis import RedisBroker
from tests.support.release_fleet import Repository

#: ssh gives up on such a node after ansible.cfg's ConnectTimeout
INVENTORY = """
all:
  children:
    k3s_cluster:
      children:
        control_plane:
          hosts:
            pi-1: {{ansible_host: 127.0.0.1, ansible_port: {port}}}
      vars: {{fleet_name: silent, k3s_version: v1.34.4+k3s1, ansible_user: pi, evidence_anchor: false}}
"""


@pytest.fixture
def office(tmp_path: Path, kind: str, servers: Callable[..., tuple[Broker | RedisBroker, Server]]) -> Iterator[QueueOffice]:  # noqa: F811
    """Of the queue *kind*, and nobody works yet."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        repository = Repository(tmp_path / "fleet")
        repository.write(".gitignore", ".pifleet/\nvar/\n")
        repository.write("hosts.yml", INVENTORY.format(port=silent.getsockname()[1]))
        repository.write_yaml("fix_profiles/web.yml", PROFILE)
        repository.write("stacks/shop/compose.yaml", COMPOSE)
        repository.write("stacks/shop/web/requirements.txt", REQUIREMENTS)
        broker = None
        if kind != "embedded":
            broker, server = servers(RedisBroker if kind == "redis" else Broker)
            broker.purge(QUEUE)
            repository.write("evidence.yml", f"ledger_url: {server.fresh()}\n")
        repository.commit()
        made = QueueOffice(tmp_path / "fleet", tmp_path / "fleet/hosts.yml", broker)
        yield made
        made.stop()
