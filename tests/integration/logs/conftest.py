# SPDX-License-Identifier: GPL-3.0-or-later
"""Two nodes and a store that takes what is pushed to Loki's API: VictoriaLogs, compiled from source, with its data on disk."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import tools
from lab.console import Console
from tests.support.fleet import Fleet, Process, Run
from tests.support.ports import free_port

HERE = Path(__file__).resolve().parent
GATEWAY = "172.30.127.1"
PLAYBOOK = """
- hosts: all
  gather_facts: false
  become: true
  tasks:
    - ansible.builtin.include_role:
        name: pifleet.ops.observability
        tasks_from: logs
"""


class Store:
    """A store that stops and starts with the same data."""

    def __init__(self, folder: Path) -> None:
        self.program = tools.ensure("victoria-logs", Console())
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What the nodes push to: VictoriaLogs has Loki's paths below /insert."""
        return f"http://{GATEWAY}:{self.port}/insert"

    def start(self) -> None:
        words = [self.program, f"-storageDataPath={self.folder}", f"-httpListenAddr={GATEWAY}:{self.port}", "-retentionPeriod=7d"]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: self.asked("*", 1) is not None, "the store answers")

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def asked(self, query: str, limit: int = 100_000) -> list[dict[str, Any]] | None:
        """What is found by a query, None where nothing answers: https://docs.victoriametrics.com/victorialogs/logsql/."""
        words = urllib.parse.urlencode({"query": query, "limit": limit})
        try:
            with urllib.request.urlopen(f"http://{GATEWAY}:{self.port}/select/logsql/query?{words}", timeout=30) as answer:
                return [json.loads(line) for line in answer.read().splitlines()]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def lines(self, word: str) -> list[dict[str, Any]]:
        """The lines that have *word*."""
        return self.asked(f'"{word}"') or []


class Logs(Fleet):
    """The fleet, with what is in front of and behind its shippers."""

    store: Store
    playbook: Path

    def start_shipper(self, *args: str, url: str | None = None) -> Process:
        settings = {"observability_loki_url": self.store.url if url is None else url}
        return self.start(str(self.playbook), "-e", json.dumps(settings), *args)

    def ship(self, *args: str, url: str | None = None) -> Run:
        return self.start_shipper(*args, url=url).wait(600)

    def log(self, host: str, text: str) -> None:
        self.sh(host, f"systemd-cat -t pifleet-test -p warning <<'END'\n{text}\nEND\n")


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logs]:
    lab = Logs(HERE / "lab-logs")
    lab.wipe()
    folder = tmp_path_factory.mktemp("logs")
    lab.playbook = folder / "play.yml"
    lab.playbook.write_text(PLAYBOOK)
    lab.store = Store(folder / "store")
    lab.store.start()
    yield lab
    lab.store.stop()
    lab.lab("down", "-i", str(lab.inventory))


def until(holds: Callable[[], Any], what: str, seconds: float = 60) -> float:
    """Wait until *holds* is true, and return how long it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"never: {what}"
        time.sleep(0.2)
    return time.monotonic() - began
