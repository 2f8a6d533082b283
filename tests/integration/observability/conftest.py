# SPDX-License-Identifier: GPL-3.0-or-later
"""Two nodes of their own, with Debian's Prometheus, Alertmanager and node-exporter, and a receiver. Tests run in the order of the files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import BIN, ROOT, Fleet, Run

HERE = Path(__file__).resolve().parent
HOST, OTHER = "watch-1.local", "watch-2.local"
RECEIVERS = ("critical", "warning", "watchdog")
#: part of each receiver's address, as a token is
TOKEN = "tr0ub4dor-and-3"


class Receiver:
    """Takes what Alertmanager sends, and keeps it by the last part of its address. *refusing*: answers with an error instead."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.messages: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.refusing = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not outer.refusing:
                    outer.messages[self.path.rpartition("/")[2]].append(json.loads(body))
                self.send_response(400 if outer.refusing else 200)
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer((address, port), Handler)
        self.base = f"http://{address}:{self._server.server_port}/{TOKEN}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def alerts(self, receiver: str, status: str = "firing") -> list[dict[str, Any]]:
        return [alert for message in self.messages[receiver] for alert in message["alerts"] if alert["status"] == status]

    def close(self) -> None:
        self._server.shutdown()


class Watch(Fleet):
    """The fleet, with a folder of its own: what runs write is not in the checkout."""

    folder: Path
    receiver: Receiver

    def day(self, playbook: str, *args: str) -> Run:
        return self.play(*self.given(), *args, playbook=f"playbooks/{playbook}.yml")

    def ask(self, host: str, module: str) -> str:
        """What a module says of a node, asked by hand."""
        argv = [str(BIN / "ansible"), host, "-i", str(self.inventory), "-b", "-m", module]
        env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180, check=True).stdout

    def given(self) -> tuple[str, ...]:
        receivers = {name: f"{self.receiver.base}/{name}" for name in RECEIVERS}
        return ("-e", f"fleet_root={self.folder}", "-e", json.dumps({"observability_receivers": receivers}))

    def get(self, address: str) -> Any:
        """Ask Prometheus (9090) or Alertmanager (9093), which answer on the node alone."""
        return json.loads(self.sh(HOST, f"curl -sf 'http://127.0.0.1:{address}'"))

    def firing(self) -> dict[str, set[str]]:
        """Names of alerts that Alertmanager has, with the receivers of each."""
        found: dict[str, set[str]] = {}
        for alert in self.get("9093/api/v2/alerts"):
            found.setdefault(alert["labels"]["alertname"], set()).update(receiver["name"] for receiver in alert["receivers"])
        return found

    def targets(self) -> dict[str, str]:
        return {
            f"{target['labels']['job']} {target['labels']['instance']}": target["health"]
            for target in self.get("9090/api/v1/targets")["data"]["activeTargets"]
        }


def until(look: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait for a state."""
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} seconds"
        time.sleep(0.5)


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    lab = Watch(HERE / "lab-observability")
    lab.folder = tmp_path_factory.mktemp("fleet") / "fleet"
    shutil.copytree(ROOT / "charts", lab.folder / "charts")
    lab.up()
    lab.receiver = Receiver(lab.address(HOST).rpartition(".")[0] + ".1")  # the machine, as the nodes see it
    yield lab
    lab.receiver.close()
    lab.lab("down", "-i", str(lab.inventory))


@pytest.fixture(scope="session")
def observed(fleet: Watch) -> Watch:
    """The fleet with the role applied."""
    fleet.day("observability").require()
    return fleet
