# SPDX-License-Identifier: GPL-3.0-or-later
"""A real RabbitMQ of the tests' own: Debian's program, its data in a folder of its own, on loopback ports. It can be killed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from amqp.exceptions import ChannelError
from kombu import Connection

from tests.support.fleet import descendants
from tests.support.ports import free_port

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class Broker:
    """A running broker; what it was given to keep it has again after it was killed and started."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pifleet-rabbitmq-"))
        self.port, self._distribution, self._names = free_port(), free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def __enter__(self) -> Broker:
        assert PROGRAM.exists(), f"{PROGRAM} is missing: scripts/setup-brokers installs it"
        (self.folder / "plugins").write_text("[].\n")
        if os.geteuid() == 0:
            account = pwd.getpwnam("rabbitmq")
            for path in (self.folder, self.folder / "plugins"):
                os.chown(path, account.pw_uid, account.pw_gid)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        # the daemon that knows names of Erlang's nodes outlives them; it is this broker's own
        for stat in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"ERL_EPMD_PORT={self._names}".encode() in stat.read_bytes().split(b"\0"):
                    os.kill(int(stat.parent.name), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        as_user = ["setpriv", "--reuid=rabbitmq", "--regid=rabbitmq", "--clear-groups"] if os.geteuid() == 0 else []
        with (self.folder.with_name(f"{self.folder.name}.log")).open("ab") as log:
            self._process = subprocess.Popen(
                [*as_user, str(PROGRAM)], cwd=self.folder, env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 180
        while True:
            with suppress(OSError), Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
                return
            assert self._process.poll() is None, "the broker does not start"
            assert time.monotonic() < deadline, "the broker does not answer"
            time.sleep(0.2)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            for pid in [*descendants(self._process.pid), self._process.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def waiting(self, queue: str) -> int:
        """How many messages wait in *queue*, beside those that a worker holds."""
        with Connection(self.url, connect_timeout=5) as connection, connection.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)

    def purge(self, queue: str) -> None:
        """Take every message out of *queue*, if there is one of that name."""
        with Connection(self.url, connect_timeout=5) as connection, connection.channel() as channel, suppress(ChannelError):
            channel.queue_purge(queue)

    def _environment(self) -> dict[str, str]:
        here = str(self.folder)
        return {
            "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": here, "RABBITMQ_NODENAME": f"tests{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": f"{here}/db", "RABBITMQ_LOG_BASE": f"{here}/log", "RABBITMQ_LOGS": "-",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_NODE_PORT": str(self.port), "RABBITMQ_DIST_PORT": str(self._distribution),
            "ERL_EPMD_PORT": str(self._names), "ERL_EPMD_ADDRESS": "127.0.0.1", "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/plugins",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null", "RABBITMQ_CONFIG_FILE": f"{here}/none",
        }  # fmt: skip
