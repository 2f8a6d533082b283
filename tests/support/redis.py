# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Redis of the tests' own: Debian's program, its data in a folder of its own, on a loopback port. It can be killed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as NotThereError

from tests.support.ports import free_port

PROGRAM = Path("/usr/bin/redis-server")


class RedisBroker:
    """A running broker, as ``tests.support.rabbitmq.Broker`` is one. Each write is on the disk before it is answered."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pifleet-redis-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> RedisBroker:
        assert PROGRAM.exists(), f"{PROGRAM} is missing: scripts/setup-brokers installs it"
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self.folder), "appendonly": "yes", "appendfsync": "always"}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([str(PROGRAM), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            with suppress(NotThereError):
                self._client().ping()
                return
            assert self._process.poll() is None, "the broker does not start"
            assert time.monotonic() < deadline, "the broker does not answer"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def waiting(self, queue: str) -> int:
        """How many messages wait in *queue*, beside those that a worker holds. Each priority has a list of its own."""
        client = self._client()
        return sum(int(client.llen(key)) for key in client.scan_iter(f"{queue}*") if client.type(key) == b"list")

    def held(self) -> int:
        """How many messages workers hold, or held when they were killed."""
        return int(self._client().hlen("unacked"))

    def purge(self, _queue: str) -> None:
        """Forget every message."""
        self._client().flushall()

    def _client(self) -> Redis:
        return Redis(port=self.port, socket_timeout=5)
