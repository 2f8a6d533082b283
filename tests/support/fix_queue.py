# SPDX-License-Identifier: GPL-3.0-or-later
"""A real hub with its queue of fix runs: embedded, or with two Celery workers. Any of them can be killed; what is asked for and decided
goes over HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import ApiTokens, Role
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.ledgers import ledger_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import FixRuns
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from sqlalchemy import select

from tests.support.fleet import ROOT, descendants
from tests.support.ports import free_port
from tests.support.postgres import Server
from tests.support.rabbitmq import Broker
from tests.support.redis import RedisBroker

QUEUE = "pifleet.tests"
OVER = ("succeeded", "failed", "rolled_back", "rollback_failed", "rejected", "expired", "cancelled")


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[..., tuple[Broker | RedisBroker, Server]]]:
    """RabbitMQ, or another broker, and PostgreSQL, each started by the first who needs it."""
    with ExitStack() as stack:
        started: dict[type, Any] = {}

        def both(broker: type[Broker] | type[RedisBroker] = Broker) -> tuple[Broker | RedisBroker, Server]:
            for kind in (broker, Server):
                if kind not in started:
                    started[kind] = stack.enter_context(kind())
            return started[broker], started[Server]

        yield both


def until(true: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


def is_python(pid: int) -> bool:
    """Whether it is one of ours: an ssh ends when its command on the node does."""
    try:
        return "python" in os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False


def ended(pid: int) -> bool:
    """Whether a process is gone, or has ended and nobody has asked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


class QueueOffice:
    """Of the fleet at *root*. *broker*: of the workers; without one the queue is embedded."""

    def __init__(self, root: Path, inventory: Path, broker: Broker | RedisBroker | None) -> None:
        self.root, self.broker = root, broker
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port = free_port()
        self._tokens: dict[str, str] = {}
        self.environment = {
            "FIX_RUNS_FLEET_ROOT": str(root),
            "FIX_RUNS_INVENTORY": str(inventory),
            "FIX_RUNS_QUEUE": QUEUE,
            **({"FIX_RUNS_BROKER_URL": broker.url} if broker else {}),
        }

    @property
    def store(self) -> Store:
        return ledger_of(identity.load(self.root))

    @property
    def fix_runs(self) -> FixRuns:
        return FixRuns(self.store)

    # -- who works ----------------------------------------------------------------------------------------------------------
    @property
    def names(self) -> tuple[str, ...]:
        return ("hub", "one", "two") if self.broker else ("hub",)

    def start_workers(self, *names: str) -> None:
        """Start the hub, and the workers where there is a broker, and wait until they answer."""
        for name in names or self.names:
            words = [
                *("-m", "ansible_collections.pifleet.ops.hub", "--fleet-root", str(self.root)),
                *("serve", "--port", str(self.port)),
            ]
            if name != "hub":
                words = [
                    *("-m", "celery", "-A", "ansible_collections.pifleet.ops.hub.worker", "worker", "--concurrency", "1"),
                    *("--hostname", f"{name}@tests", "--loglevel", "INFO", "--without-gossip", "--without-mingle"),
                ]
            with self.log(name).open("ab") as log:
                self.processes[name] = self._start(name, words, log)
        until(lambda: self.health()["workers"] == max(1, len(self.processes) - 1), "the hub or its workers do not answer")

    def _start(self, _name: str, words: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(ROOT / ".collections")}
        return subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )  # fmt: skip

    def health(self) -> dict[str, Any]:
        """What the hub says of its queue."""
        try:
            return dict(self.ask("viewer", "GET", "/api/queue"))
        except httpx.TransportError:
            assert self.processes["hub"].poll() is None, self.logs()
            return {"workers": -1}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self, role: Role) -> str:
        """Of somebody who has *role*."""
        if role not in self._tokens:
            login = {"operator": "alice", "approver": "bob"}.get(role, "vera")
            self._tokens[role] = ApiTokens(self.store).add(role, role, login, timedelta(days=1))
        return self._tokens[role]

    def answer(self, role: Role, method: str, path: str, **content: Any) -> httpx.Response:
        """What the hub answers to somebody who has *role*."""
        headers = {"Authorization": f"Bearer {self.token(role)}"}
        return httpx.request(method, f"{self.url}{path}", headers=headers, json=content or None, timeout=60)

    def ask(self, role: Role, method: str, path: str, **content: Any) -> Any:
        """Ask the hub for what it has to give, as somebody who has *role*."""
        answer = self.answer(role, method, path, **content)
        assert answer.is_success, answer.text
        return answer.json()

    def log(self, name: str) -> Path:
        return self.root.with_name(f"{name}.log")

    def logs(self) -> str:
        return "\n".join(self.log(name).read_text(errors="replace")[-4000:] for name in self.processes)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(30)

    def end(self) -> None:
        """Let all of them end what they are at, and go."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(60)

    def child_of(self, run: FixRun) -> tuple[str, int]:
        """Name of who is at a fix run, and the process of its ansible-runner."""

        def found() -> tuple[str, int] | None:
            for name, process in self.processes.items():
                for pid in descendants(process.pid):
                    with suppress(OSError):  # it has ended
                        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                        if any(word.endswith(f"/queue/{run.id}".encode()) for word in words):
                            return name, pid
            return None

        at: tuple[str, int] = until(found, "nobody is at it", 30)
        return at

    def kill_worker(self, run: FixRun) -> list[int]:
        """Kill who is at the fix run, and it alone. Return the programs that it had started on this machine."""
        name, _pid = self.child_of(run)
        process = self.processes.pop(name)
        started = [pid for pid in descendants(process.pid) if is_python(pid)]
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        return started

    # -- fix runs -----------------------------------------------------------------------------------------------------------
    def enqueue(self, instruction: str, priority: str = "normal") -> FixRun:
        wanted = {"target_service": "web", "instruction": instruction, "priority": priority}
        return self.fix_runs.get(self.ask("operator", "POST", "/orchestrator/runs", **wanted)["id"])

    def retry(self, run: FixRun) -> None:
        self.ask("operator", "POST", f"/orchestrator/runs/{run.id}/retry", from_step="")

    def decide(self, run: FixRun, decision: str) -> None:
        self.ask("approver", "POST", f"/orchestrator/runs/{run.id}/approvals", decision=decision, plan_digest=run.plan_digest)

    def reached(self, run: FixRun, *statuses: str) -> FixRun:
        """Wait until the fix run has one of *statuses*; another end is an error."""

        def found() -> FixRun | None:
            now = self.fix_runs.get(run.id)
            # that of a worker that is gone is interrupted only until its message is delivered again
            goes_on = self.broker is not None and now.interrupted
            assert now.status in statuses or now.status not in OVER or goes_on, f"{now.status}: {now.reason}\n{self.logs()}"
            return now if now.status in statuses else None

        return until(found, f"{run.id} does not become {statuses}")

    def at(self, run: FixRun, step: str) -> FixRun:
        """Wait until *step* is in progress."""

        def found() -> FixRun | None:
            now = self.fix_runs.get(run.id)
            assert now.status in ("pending", "running"), f"{now.status}: {now.reason}\n{self.logs()}"
            return now if now.step(step).state == "in_progress" else None

        return until(found, f"{run.id} does not come to {step}")


class Machines(QueueOffice):
    """Hub and workers in containers of the *image*: each a machine of its own by its name, its file system and its processes.

    They have the network of this machine, and share the fleet's folder, as machines do by a file system of a network. *shared*: what else
    they need: the keys of the nodes, the socket of the ledger.
    """

    def __init__(self, root: Path, inventory: Path, broker: Broker | RedisBroker, image: str, shared: Sequence[Path]) -> None:
        super().__init__(root, inventory, broker)
        self._image, self._shared = image, (root, inventory, *shared)

    def _start(self, name: str, words: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        volumes = [f"--volume={path}:{path}" for path in self._shared]
        environment = [f"--env={key}={value}" for key, value in self.environment.items()]
        # a worker is begun as the image itself does
        command = ["python", *words] if name == "hub" else []
        where = ["--rm", "--init", "--network=host", f"--hostname={name}", f"--name={self._container(name)}"]
        return subprocess.Popen(
            ["docker", "run", *where, *volumes, *environment, self._image, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )

    def _container(self, name: str) -> str:
        return f"pifleet-test-{self.port}-{name}"

    def machine_of(self, run: FixRun) -> str:
        """Name of the machine whose ansible-playbook is, or was, at a fix run."""
        with self.store.read() as db:
            controller = db.execute(select(runs.c.controller).where(runs.c.id == self.fix_runs.get(run.id).run_id)).scalar_one()
        return str(controller).partition("/")[0]  # what follows is the container's id

    def lose(self, name: str) -> None:
        """Lose a machine with all that it has."""
        process = self.processes.pop(name)
        subprocess.run(["docker", "kill", self._container(name)], check=True, capture_output=True, timeout=60)
        process.wait(60)

    def stop(self) -> None:
        for name in list(self.processes):
            self.lose(name)
