# SPDX-License-Identifier: GPL-3.0-or-later
"""Drives a fleet of lab nodes as a user does (ansible-playbook, `python -m lab`), and looks at its nodes by another way (docker exec)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: for tests of the bootstrap alone: what site.yml does besides takes time in each of their many runs
NO_STACKS = ("-e", "stacks_enabled=false")
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Run:
    """One finished ansible-playbook: its exit code, output, per-host task results, and ssh executions by host address."""

    rc: int
    output: str
    tasks: list[dict[str, Any]]
    ssh_calls: Counter[str]
    seconds: float

    @property
    def changed(self) -> set[tuple[str, str]]:
        """(host, task) of everything that reported a change."""
        return {(t["host"], t["task"]) for t in self.tasks if t["changed"]}

    def of(self, task: str, host: str | None = None) -> list[dict[str, Any]]:
        """Results of the tasks whose name contains *task*."""
        return [t for t in self.tasks if task in t["task"] and (host is None or t["host"] == host)]

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [t for t in self.tasks if t["outcome"] in ("failed", "unreachable")]

    def require(self, rc: int = 0) -> Run:
        assert self.rc == rc, f"exit code {self.rc}, not {rc}:\n{self.output[-6000:]}"
        return self


@dataclass
class Fleet:
    """The nodes of one lab inventory. *settings*: arguments that every playbook gets."""

    inventory: Path
    settings: tuple[str, ...] = ()

    @cached_property
    def _listing(self) -> dict[str, Any]:
        done = subprocess.run(
            [BIN / "ansible-inventory", "-i", self.inventory, "--list"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        )
        return dict(json.loads(done.stdout))

    @property
    def hosts(self) -> list[str]:
        return sorted(self._listing["_meta"]["hostvars"])

    @property
    def servers(self) -> list[str]:
        return list(self._listing["control_plane"]["hosts"])

    @property
    def workers(self) -> list[str]:
        return list(self._listing.get("workers", {}).get("hosts", []))

    def vars_of(self, host: str) -> dict[str, Any]:
        return dict(self._listing["_meta"]["hostvars"][host])

    def address(self, host: str) -> str:
        return str(self.vars_of(host)["ansible_host"])

    # -- the lab ---------------------------------------------------------------------------------------------------------
    def lab(self, *args: str, timeout: float = 1800) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "lab", *args], cwd=ROOT, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"lab {' '.join(args)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def up(self) -> None:
        self.lab("up", "-i", str(self.inventory))

    def wipe(self, *nodes: str, stale_host_key: bool = False) -> None:
        """Destroy and recreate nodes: new disk, host key, machine id. *stale_host_key*: the controller knows the old host key only."""
        flags = ["--stale-host-key"] if stale_host_key else []
        self.lab("wipe", "-i", str(self.inventory), *flags, *(nodes or tuple(self.hosts)))

    def sh(self, host: str, script: str, *, check: bool = True, timeout: float = 180) -> str:
        """Run a shell script on a node, past Ansible and past ssh: what a test sees does not depend on what it tests."""
        done = subprocess.run(
            [sys.executable, "-m", "lab", "exec", "-i", str(self.inventory), host, "--", "bash", "-c", script],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{host}: {script}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
        return done.stdout

    def kubectl(self, *args: str, server: str | None = None, check: bool = True) -> str:
        return self.sh(server or self.servers[0], "k3s kubectl " + " ".join(args), check=check)

    def forget(self, node: str) -> None:
        """Take a wiped node out of the cluster, with the password it was known by. A living one would register again at once."""
        self.kubectl("delete", "node", node, "--ignore-not-found")
        self.kubectl("-n", "kube-system", "delete", "secret", f"{node}.node-password.k3s", "--ignore-not-found")

    def nodes(self, server: str | None = None) -> dict[str, dict[str, Any]]:
        """The API's nodes by name."""
        return {n["metadata"]["name"]: n for n in json.loads(self.kubectl("get", "nodes", "-o", "json", server=server))["items"]}

    def ready(self) -> set[str]:
        """Names of the nodes that the API calls Ready."""
        return {
            name
            for name, n in self.nodes().items()
            if any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"]["conditions"])
        }

    def is_up(self) -> bool:
        """Whether every k3s unit runs and the API calls every node Ready (which it does of a wiped one for some time)."""
        units = (self.sh(host, "systemctl is-active k3s k3s-agent || true").split() for host in self.hosts)
        return all("active" in states for states in units) and self.ready() == set(self.hosts)

    def invocations(self, hosts: Iterable[str] = ()) -> dict[str, str]:
        """systemd's invocation id and start time of the k3s unit on each node: another one means that it was restarted."""
        show = "systemctl show k3s k3s-agent -p InvocationID -p ExecMainStartTimestampMonotonic"
        return {h: self.sh(h, show) for h in hosts or self.hosts}

    def first_run_after(self, time_span: str, *hosts: str) -> None:
        """When the run of the stacks' timer comes once it was started, as every change of its settings does; there is no second one.

        By itself it comes 15 to 27 seconds later: in the middle of whatever a test looks at by then.
        """
        folder = "/run/systemd/system/pifleet-stacks.timer.d"
        timer = f"[Timer]\\nOnActiveSec=\\nOnActiveSec={time_span}\\nRandomizedDelaySec=0\\n"
        for host in hosts or self.hosts:
            self.sh(host, f"mkdir -p {folder} && printf '{timer}' >{folder}/tests.conf && systemctl daemon-reload")

    # -- ansible ---------------------------------------------------------------------------------------------------------
    def start(self, playbook: str, *args: str, env: dict[str, str] | None = None) -> Process:
        return Process(self, playbook, args, env or {})

    def play(
        self,
        *args: str,
        playbook: str = "site.yml",
        env: dict[str, str] | None = None,
        timeout: float = 1800,
        user_input: str | None = None,
    ) -> Run:
        return self.start(playbook, *args, env=env).wait(timeout)


class Process:
    """A running ansible-playbook, which a test may kill."""

    def __init__(self, fleet: Fleet, playbook: str, args: Sequence[str], env: dict[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pifleet-test-"))
        self.record, self.calls, self.log = self.folder / "tasks.jsonl", self.folder / "ssh.log", self.folder / "output.log"
        # the real ssh behind a counter: with pipelining each execution on a node is one ssh call
        counter = self.folder / "ssh"
        # one write for each line: several hosts are called at once
        counter.write_text(f'#!/bin/sh\nprintf "%s\\n" "$(echo "$*" | tr "\\n" " ")" >>{self.calls}\nexec ssh "$@"\n')
        counter.chmod(0o755)
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/support/callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "pifleet.ops.evidence,record_tasks",
            "PIFLEET_TEST_RECORD": str(self.record),
            "ANSIBLE_SSH_EXECUTABLE": str(counter),
            "ANSIBLE_NOCOLOR": "1",
            **env,
        }
        self.started = time.monotonic()
        self._out = self.log.open("wb")
        self.process = subprocess.Popen(
            [BIN / "ansible-playbook", playbook, "-i", str(fleet.inventory), *fleet.settings, *args],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def results(self) -> list[dict[str, Any]]:
        if not self.record.exists():
            return []
        whole, _, _being_written = self.record.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def kill(self) -> None:
        """End ansible-playbook and its workers at once, as a lost laptop does."""
        if self.process.poll() is None:
            workers = descendants(self.process.pid)  # which have sessions of their own
            os.killpg(self.process.pid, signal.SIGKILL)
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(60)
        self._out.close()

    def wait(self, timeout: float) -> Run:
        try:
            rc = self.process.wait(timeout)
        except subprocess.TimeoutExpired as late:
            self.kill()
            raise AssertionError(f"still running after {timeout:g} seconds:\n{self.log.read_text()[-6000:]}") from late
        self._out.close()
        calls: Counter[str] = Counter()
        if self.calls.exists():
            for line in self.calls.read_text().splitlines():
                # the command is the last argument; a control command (-O) and a bare master execute nothing on the node
                if "/bin/sh -c" in line and (address := re.search(r" (\d+\.\d+\.\d+\.\d+) ", line)):
                    calls[address[1]] += 1
        return Run(rc, self.log.read_text(errors="replace"), self.results(), calls, time.monotonic() - self.started)


def descendants(pid: int) -> list[int]:
    """The processes that *pid* started, and those that they did."""
    found = [pid]
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found[1:]
