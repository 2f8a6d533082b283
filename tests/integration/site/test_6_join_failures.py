# SPDX-License-Identifier: GPL-3.0-or-later
"""Each way a join fails, produced for real on nodes: reported with its cause and what to do, within the timeout."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.site.conftest import altered, renew, with_server
from tests.support.fleet import Fleet

TIMEOUT = 40


@dataclass(frozen=True)
class Case:
    """*variables*: of the worker, in the inventory; *given* prepares the wiped worker (or the server), and *after* takes that back."""

    state: str
    variables: Callable[[Fleet], dict[str, Any]] = lambda fleet: {}
    given: Callable[[Fleet, str], object] = lambda fleet, worker: None
    after: Callable[[Fleet, str], object] = lambda fleet, worker: None


def wrong_token(fleet: Fleet) -> dict[str, Any]:
    return {"k3s_agent_token": "this-is-not-the-token"}


def other_ca(fleet: Fleet) -> dict[str, Any]:
    secret = fleet.sh(fleet.servers[0], "cat /var/lib/rancher/k3s/server/agent-token").strip().rsplit(":", 1)[1]
    return {"k3s_agent_token": f"K10{'ab' * 32}::node:{secret}"}


def crashing_kubelet(fleet: Fleet) -> dict[str, Any]:
    return {"k3s_agent_config": {"kubelet-arg": ["no-such-flag=1"]}}


def silent_server(fleet: Fleet, worker: str) -> None:
    fleet.sh(fleet.servers[0], f"iptables -I INPUT -p tcp --dport 6443 -s {fleet.address(worker)} -j DROP")


def hear_again(fleet: Fleet, worker: str) -> None:
    fleet.sh(fleet.servers[0], f"iptables -D INPUT -p tcp --dport 6443 -s {fleet.address(worker)} -j DROP")


def taken_port(fleet: Fleet, worker: str) -> None:
    fleet.sh(worker, "systemd-run --unit squatter python3 -m http.server 10250")


def free_port(fleet: Fleet, worker: str) -> None:
    fleet.sh(worker, "systemctl stop squatter")


# a worker each, side by side; a token is the same for all hosts of a run, so those about one have a run of their own
RUNS = (
    (
        Case("port_in_use", given=taken_port, after=free_port),
        Case("server_unreachable", given=silent_server, after=hear_again),
        Case("crash_loop", crashing_kubelet),
    ),
    (Case("token_rejected", wrong_token),),
    (Case("ca_mismatch", other_ca),),
)


@pytest.mark.parametrize("cases", RUNS, ids=["-".join(case.state for case in cases) for cases in RUNS])
def test_reported_with_cause_and_hint_and_never_a_hang(fleet: Fleet, tmp_path: Path, cases: tuple[Case, ...]) -> None:
    workers = dict(zip(fleet.workers, cases, strict=False))
    with_server(fleet)
    renew(fleet, *workers)
    variables = {worker: case.variables(fleet) for worker, case in workers.items()}

    def faulty(groups: dict[str, Any]) -> None:
        for worker in workers:
            groups["workers"]["hosts"][worker].update(variables[worker])

    broken = altered(fleet, tmp_path, faulty)
    with ExitStack() as undo:
        for worker, case in workers.items():
            undo.callback(case.after, fleet, worker)
            case.given(fleet, worker)
        run = broken.play("--limit", ",".join(workers), "-e", f"k3s_join_timeout={TIMEOUT}", timeout=TIMEOUT + 300)
    assert run.rc == 2
    failed = {failure["host"]: failure for failure in run.failures}
    states = {worker: failure.get("state") for worker, failure in failed.items()}
    assert states == {worker: case.state for worker, case in workers.items()}, failed
    assert all(failure["hint"] and failure["evidence"] for failure in failed.values()), failed
    assert len(run.failures) == len(workers)
    assert "this-is-not-the-token" not in run.output


def test_the_fleet_converges_once_the_causes_are_gone(fleet: Fleet) -> None:
    """From the nodes as the failures left them."""
    fleet.play().require()
    assert fleet.ready() == set(fleet.hosts)
