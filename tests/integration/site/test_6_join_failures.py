# SPDX-License-Identifier: GPL-3.0-or-later
"""Each way a join fails, produced for real on a node: reported with its cause and what to do, within the timeout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.support.fleet import Fleet

TIMEOUT = 60


@dataclass(frozen=True)
class Case:
    """*given* prepares the wiped worker (or the server) and returns further arguments; *after* takes it back."""

    state: str
    given: Callable[[Fleet, str], list[str]]
    after: Callable[[Fleet, str], None] = lambda fleet, worker: None


def wrong_token(fleet: Fleet, worker: str) -> list[str]:
    return ["-e", "k3s_agent_token=this-is-not-the-token"]


def other_ca(fleet: Fleet, worker: str) -> list[str]:
    secret = fleet.sh(fleet.servers[0], "cat /var/lib/rancher/k3s/server/agent-token").strip().rsplit(":", 1)[1]
    return ["-e", f"k3s_agent_token=K10{'ab' * 32}::node:{secret}"]


def silent_server(fleet: Fleet, worker: str) -> list[str]:
    fleet.sh(fleet.servers[0], f"iptables -I INPUT -p tcp --dport 6443 -s {fleet.address(worker)} -j DROP")
    return []


def hear_again(fleet: Fleet, worker: str) -> None:
    fleet.sh(fleet.servers[0], f"iptables -D INPUT -p tcp --dport 6443 -s {fleet.address(worker)} -j DROP")


def crashing_kubelet(fleet: Fleet, worker: str) -> list[str]:
    return ["-e", '{"k3s_agent_config": {"kubelet-arg": ["no-such-flag=1"]}}']


def taken_port(fleet: Fleet, worker: str) -> list[str]:
    fleet.sh(worker, "systemd-run --unit squatter python3 -m http.server 10250")
    return []


CASES = [
    Case("token_rejected", wrong_token),
    Case("ca_mismatch", other_ca),
    Case("server_unreachable", silent_server, hear_again),
    Case("crash_loop", crashing_kubelet),
    Case("port_in_use", taken_port),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.state)
def test_reported_with_cause_and_hint_and_never_a_hang(fleet: Fleet, fresh_worker: str, case: Case) -> None:
    arguments = case.given(fleet, fresh_worker)
    try:
        run = fleet.play("--limit", fresh_worker, "-e", f"k3s_join_timeout={TIMEOUT}", *arguments, timeout=TIMEOUT + 90)
    finally:
        case.after(fleet, fresh_worker)
    assert run.rc == 2
    (failed,) = run.failures
    assert failed["state"] == case.state, failed
    assert failed["hint"] and failed["evidence"]
    assert "this-is-not-the-token" not in run.output


def test_the_fleet_converges_once_the_causes_are_gone(fleet: Fleet) -> None:
    fleet.play().require()
    assert fleet.ready() == set(fleet.hosts)
