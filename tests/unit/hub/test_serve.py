# SPDX-License-Identifier: GPL-3.0-or-later
"""The hub of a fleet as a program of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from ansible_collections.pifleet.ops.hub import cli

from tests.support.hub import COLLECTIONS
from tests.support.hub_office import SECRET, HubFleet
from tests.unit.hub.test_stacks import signed


@contextmanager
def serving(fleet: HubFleet, inventory: str, **environment: str) -> Iterator[httpx.Client]:
    folder = fleet.root.parent
    (folder / "secret").write_bytes(SECRET + b"\n")
    (folder / "hosts.yml").write_text(inventory)
    words = ["--fleet-root", str(fleet.root), "serve", "--port", "0", "--port-file", str(folder / "port")]
    words += ["--inventory", str(folder / "hosts.yml"), "--webhook-secret-file", str(folder / "secret")]
    with (folder / "log").open("wb") as log:
        hub = subprocess.Popen(
            [sys.executable, "-m", "ansible_collections.pifleet.ops.hub", *words],
            env={**os.environ, **environment, "PYTHONPATH": str(COLLECTIONS)},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while not (folder / "port").exists():
            assert hub.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with httpx.Client(base_url=f"http://127.0.0.1:{(folder / 'port').read_text().strip()}", timeout=30) as client:
            yield client
    finally:
        hub.terminate()
        hub.wait(30)


@pytest.fixture
def served(fleet: HubFleet) -> Iterator[httpx.Client]:
    with serving(fleet, "k3s_cluster:\n  hosts: {}\n") as client:
        yield client


def test_it_serves_page_and_interface_and_works_for_its_queue(fleet: HubFleet, served: httpx.Client) -> None:
    page = served.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
        assert served.get(f"/page/{name}").headers["content-type"].startswith(kind)
        assert f"/page/{name}" in page.text
    assert served.get("/page/__init__.py").status_code == 404
    queue = served.get("/api/queue", headers={"Authorization": f"Bearer {fleet.tokens['viewer']}"}).json()
    assert (queue["kind"], queue["ok"]) == ("embedded", True)
    assert served.post("/api/webhook", content=b"{}", headers=signed(b"{}")).status_code == 202


def test_it_knows_the_inventorys_secrets_and_tells_statsd_what_it_ends(fleet: HubFleet) -> None:
    run = fleet.world.analysed("pre-run")
    fleet.world.fix_runs.begin(fleet.world.mine, run.id, "patch")
    inventory = "all:\n  hosts:\n    pi-1: {shop_password: Winter in Bern}\n"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(30)
        told = {"FIX_RUNS_STATSD_HOST": "127.0.0.1", "FIX_RUNS_STATSD_PORT": str(statsd.getsockname()[1])}
        with serving(fleet, inventory, **told) as hub:
            as_operator, as_approver = ({"Authorization": f"Bearer {fleet.tokens[role]}"} for role in ("operator", "approver"))
            asked = {"target_service": "web", "instruction": "set env GREETING=Winter in Bern"}
            refused = hub.post("/orchestrator/runs", headers=as_operator, json=asked, timeout=90)
            assert (refused.status_code, refused.json()["type"]) == (400, "invalid_instruction")
            decision = {"decision": "rejected", "plan_digest": run.plan_digest}
            path = f"/orchestrator/runs/{run.id}/approvals"
            assert hub.post(path, headers=as_approver, json=decision).json()["status"] == "rejected"
            assert "pifleet.fix_runs.web.rejected:1|c" in statsd.recv(2000).decode().split("\n")


def test_secret_that_could_be_guessed_is_refused(fleet: HubFleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "short").write_text("123\n")
    for name in ("short", "none"):
        words = ["--fleet-root", str(fleet.root), "serve", "--webhook-secret-file", str(tmp_path / name)]
        assert cli.main(words) == 2
        assert "has no secret of 16 characters" in capsys.readouterr().err
