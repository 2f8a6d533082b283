# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/rotate_secrets.yml on the tokens of a cluster: it works before and after, and what was cut off is gone on with."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import Queries, Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.integration.k3s_ops.conftest import deployment, kill_after
from tests.integration.operations.conftest import Operations
from tests.support.fleet import Run

DATA = "/var/lib/rancher/k3s/server"


def secret(fleet: Operations, host: str, path: str) -> str:
    return fleet.sh(host, f"cat {path}").strip().rsplit(":", 1)[-1]


def tokens(fleet: Operations) -> dict[str, str]:
    """What servers and agents show, by the server, and what each node is started with."""
    server, worker = fleet.servers[0], fleet.workers[0]
    return {
        "server": secret(fleet, server, f"{DATA}/token"),
        "agents": secret(fleet, server, f"{DATA}/agent-token"),
        "server's file": secret(fleet, server, "/etc/rancher/k3s/token"),
        "server's file for agents": secret(fleet, server, "/etc/rancher/k3s/agent-token"),
        "agent's file": secret(fleet, worker, "/etc/rancher/k3s/token"),
    }


def status(fleet: Operations, user: str, password: str) -> str:
    """What the server says to who shows that token; curl reads it from its standard input."""
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' --cacert {DATA}/tls/server-ca.crt -K - https://127.0.0.1:6443/v1-k3s/readyz"
    return fleet.sh(fleet.servers[0], f"printf 'user = \"%s:%s\"\\n' {user} {password} | {ask}").strip()


def pods(fleet: Operations) -> dict[str, Any]:
    """Id and restarts of each pod of the workload."""
    items = json.loads(fleet.kubectl("get", "pods", "-l", "app=works", "-o", "json"))["items"]
    return {i["metadata"]["uid"]: [c["restartCount"] for c in i["status"].get("containerStatuses", [])] for i in items}


def recorded(fleet: Operations) -> list[dict[str, Any]]:
    items = Queries(Store(fleet.folder / ".pifleet/ledger.db")).events(Wanted(kind="secrets")).items
    return [item["data"] for item in reversed(items)]


def rotate(fleet: Operations, what: str, *args: str) -> Run:
    return fleet.day("rotate_secrets", "-e", f"what={what}", *args)


@pytest.fixture(scope="module")
def working(fleet: Operations) -> Operations:
    """A cluster with something that runs on it."""
    text = json.dumps(deployment("works", 1, fleet.workers[0]))
    fleet.sh(fleet.servers[0], f"k3s kubectl apply -f - <<'END'\n{text}\nEND\n")
    fleet.kubectl("rollout", "status", "deployment/works", "--timeout=120s")
    return fleet


def assert_works(fleet: Operations, before: dict[str, Any]) -> None:
    assert fleet.ready() == set(fleet.hosts)
    assert pods(fleet) == before
    found = tokens(fleet)
    assert found["server"] == found["server's file"] != found["agents"]
    assert found["agents"] == found["server's file for agents"] == found["agent's file"]
    assert (status(fleet, "server", found["server"]), status(fleet, "node", found["agents"])) == ("200", "200")


def test_a_server_token_is_rotated_and_the_old_one_refused(working: Operations) -> None:
    fleet = working
    before, running = tokens(fleet), pods(fleet)
    check = rotate(fleet, "k3s_token", "--check").require()
    assert tokens(fleet) == before
    run = rotate(fleet, "k3s_token", "-vvv", "--diff").require()
    assert (
        check.changed
        == run.changed
        == {(fleet.servers[0], "Let k3s make a new server token"), (fleet.servers[0], "Start the server with it")}
    )
    after = tokens(fleet)
    assert after["server"] != before["server"]
    assert after["agents"] == before["agents"]
    assert_works(fleet, running)
    assert status(fleet, "server", before["server"]) == "401"
    assert not [name for name, value in (*before.items(), *after.items()) if value in run.output + str(run.tasks)]
    assert [(data["what"], data["resumed"]) for data in recorded(fleet)] == [("k3s_token", False)]
    assert fleet.day("bootstrap").require().changed == set()


@pytest.mark.full
def test_a_token_of_agents_is_rotated_and_agents_come_back_with_it(working: Operations) -> None:
    fleet = working
    before, running = tokens(fleet), pods(fleet)
    run = rotate(fleet, "k3s_agent_token", "-vvv", "--diff").require()
    after = tokens(fleet)
    assert (after["server"], after["agents"] != before["agents"]) == (before["server"], True)
    whole = fleet.sh(fleet.servers[0], f"cat {DATA}/agent-token")
    assert fleet.sh(fleet.workers[0], "cat /etc/rancher/k3s/token") == whole, "agents go on knowing the cluster's CA"
    assert_works(fleet, running)
    assert status(fleet, "node", before["agents"]) == "401"
    assert not [name for name, value in (*before.items(), *after.items()) if value in run.output + str(run.tasks)]
    fleet.sh(fleet.workers[0], "systemctl restart k3s-agent", timeout=300)
    assert fleet.day("bootstrap").require().changed == set()
    assert_works(fleet, running)
    assert recorded(fleet)[-1]["what"] == "k3s_agent_token"


@pytest.mark.full
@pytest.mark.parametrize(
    ("what", "task"), [("k3s_token", "Let k3s make a new server token"), ("k3s_agent_token", "Wait until the server is up")]
)
def test_what_was_cut_off_is_completed_by_the_next_run(working: Operations, what: str, task: str) -> None:
    fleet = working
    before, running = tokens(fleet), pods(fleet)
    kill_after(fleet, task, "playbooks/rotate_secrets.yml", "-e", f"what={what}", "-e", f"fleet_root={fleet.folder}")
    half = tokens(fleet)
    assert half != before
    assert fleet.ready() == set(fleet.hosts)
    rotate(fleet, what).require()
    after = tokens(fleet)
    assert_works(fleet, running)
    if what == "k3s_token":
        assert after["server"] == half["server"], "it is not rotated twice"
        assert recorded(fleet)[-1]["resumed"] is True
    else:
        assert after["agents"] not in (before["agents"], half["agent's file"])


def test_what_cannot_work_is_refused_before_anything_is_touched(working: Operations) -> None:
    fleet = working
    before = tokens(fleet)
    for args, says in (
        (("--limit", fleet.servers[0]), "run without --limit"),
        (("-e", "k3s_token=one-of-my-own-choice"), "k3s_token stands in the inventory"),
    ):
        run = rotate(fleet, "k3s_token", *args).require(2)
        assert says in " ".join(run.output.split())
        assert run.changed == set()
    assert tokens(fleet) == before
