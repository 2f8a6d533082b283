# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
import time

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import metrics, runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FixRun

BEGAN, ENDED = "2025-01-02T03:04:05.000000Z", "2025-01-02T03:04:07.250000Z"


def run() -> FixRun:
    fresh = FixRun("fix-000001-web", "web", "shop", "pi-1", "auto", "pending", "alice", "run", BEGAN, runner.fresh_steps())
    return runner.finish(runner.begin(fresh, "analyze", BEGAN), "analyze", "", {}, ENDED)


def test_what_is_sent_is_what_is_recorded() -> None:
    assert metrics.of_step(run(), "analyze") == [
        "pifleet.fix_runs.web.analyze.succeeded:1|c",
        "pifleet.fix_runs.web.analyze.seconds:2250|ms",
    ]
    assert metrics.of_step(run(), "patch") == ["pifleet.fix_runs.web.patch.pending:1|c"]
    assert metrics.of_run(run()) == ["pifleet.fix_runs.web.running:1|c"]


def test_it_arrives() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        metrics.send(["a:1|c", "b:2|ms"], "127.0.0.1", server.getsockname()[1])
        assert server.recv(2000) == b"a:1|c\nb:2|ms"
        metrics.send([f"{'x' * 100}{n}:1|c" for n in range(30)], "127.0.0.1", server.getsockname()[1])
        assert len(server.recv(2000)) <= 1400


@pytest.mark.parametrize(("host", "port"), [("", 8125), ("127.0.0.1", 1), ("nobody.invalid", 8125), ("127.0.0.1", 99999999), ("\udcff", 1)])
def test_a_dead_host_costs_nothing(host: str, port: int) -> None:
    began = time.monotonic()
    metrics.send(["a:1|c"] * 100, host, port)
    assert time.monotonic() - began < 2
