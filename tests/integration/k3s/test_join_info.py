# SPDX-License-Identifier: GPL-3.0-or-later
"""k3s_join_info on the lab's nodes, in situations that are made for real.

Those that need a run of site.yml (token, CA, unreachable server, crash loop, a taken port) are in tests/integration/site.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.integration.k3s.conftest import Module
from tests.support.fleet import Fleet

CONFIG = "/etc/rancher/k3s/config.yaml"
TLS = "/var/lib/rancher/k3s/server/tls"


@contextmanager
def harmed(fleet: Fleet, module: Module, worker: str) -> Iterator[str]:
    """A worker whose agent a test may harm: it is back, and ready, afterwards."""
    fleet.sh(worker, "rm -rf /run/kept && cp -a /etc/rancher/k3s /run/kept")
    yield worker
    fleet.sh(
        worker, "rm -rf /etc/rancher/k3s && cp -a /run/kept /etc/rancher/k3s && rm -rf /run/kept && systemctl restart --no-block k3s-agent"
    )
    assert look(module, worker, timeout=180)["state"] == "ready"


@pytest.fixture
def agent(fleet: Fleet, module: Module, worker: str) -> Iterator[str]:
    with harmed(fleet, module, worker):
        yield worker


def look(module: Module, host: str, role: str = "agent", **options: Any) -> dict[str, Any]:
    found = module(host, "k3s_join_info", {"role": role, **options})
    assert "state" in found, found
    assert found["changed"] is False
    assert found["state"] in found["msg"]
    return found


def test_nodes_of_a_converged_cluster_are_ready_at_once(fleet: Fleet, module: Module, server: str, worker: str) -> None:
    for host, role in ((server, "server"), (worker, "agent")):
        found = look(module, host, role, timeout=300)
        assert (found["state"], found["hint"], found["log"]) == ("ready", "", [])
        assert found["waited"] < 10
        assert found["unit"]["active"] == "active"


def test_a_role_that_is_not_installed_says_so(module: Module, worker: str) -> None:
    found = look(module, worker, "server", timeout=0)
    assert (found["state"], found["unit"]["name"]) == ("unknown", "k3s.service")
    assert "not installed" in found["hint"]


def test_a_restart_that_is_only_queued_is_not_the_old_ready(fleet: Fleet, module: Module, agent: str) -> None:
    """The unit is held in its restart by an ExecStartPre that waits for a file."""
    folder = "/run/systemd/system/k3s-agent.service.d"
    hold = '[Service]\\nExecStartPre=/bin/sh -c "until [ -e /run/go ]; do sleep 0.2; done"\\n'
    fleet.sh(agent, f"rm -f /run/go && mkdir -p {folder} && printf '{hold}' >{folder}/hold.conf && systemctl daemon-reload")
    try:
        fleet.sh(agent, "systemctl restart --no-block k3s-agent")
        assert look(module, agent)["state"] == "starting"
        fleet.sh(agent, "touch /run/go")
        assert look(module, agent, timeout=180)["state"] == "ready"
    finally:
        fleet.sh(agent, f"rm -rf {folder} /run/go && systemctl daemon-reload")


PASSWORD = "/etc/rancher/node/password"
DATA = "/var/lib/rancher/k3s/agent"


@dataclass(frozen=True)
class Fault:
    """*harm* and *mend*: shell scripts on the worker; *options* of the module; *says*: part of hint and evidence."""

    state: str
    harm: str
    mend: str
    says: str
    options: dict[str, Any] = field(default_factory=dict)


FAULTS = (
    # site.yml would see it before and rebuild the node: this is what k3s says where a node is started by hand
    Fault(
        "node_password_rejected",
        f"cp -p {PASSWORD} /run/password && echo 0123456789abcdef >{PASSWORD} && systemctl restart --no-block k3s-agent",
        f"mv /run/password {PASSWORD}",
        "rejected",
    ),
    Fault(
        "no_default_route",
        f"sed -i /^node-ip/d {CONFIG} && ip route save default >/run/route && ip route del default && "
        "systemctl restart --no-block k3s-agent",
        "ip route restore </run/route",
        "gateway",
    ),
    # the data folder is a file system of one megabyte, full
    Fault(
        "disk_pressure",
        f"systemctl stop k3s-agent && mount -t tmpfs -o size=1m tmpfs {DATA} && (head -c 2M /dev/zero >{DATA}/ballast || true) && "
        "systemctl start --no-block k3s-agent",
        f"systemctl stop k3s-agent && umount {DATA}",
        DATA,
        {"data_dir": DATA},
    ),
)


def found_with(fleet: Fleet, module: Module, worker: str, fault: Fault) -> dict[str, Any]:
    """What the module says of the worker with this fault; the worker is ready again afterwards."""
    with harmed(fleet, module, worker):
        fleet.sh(worker, fault.harm)
        try:
            return look(module, worker, timeout=240, **fault.options)
        finally:
            fleet.sh(worker, fault.mend)


def test_causes_are_told_before_the_time_is_over(fleet: Fleet, module: Module) -> None:
    """One fault on each worker, side by side."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda pair: found_with(fleet, module, *pair), zip(fleet.workers, FAULTS, strict=True)))
    assert [seen["state"] for seen in found] == [fault.state for fault in FAULTS], found
    for fault, seen in zip(FAULTS, found, strict=True):
        assert seen["waited"] < 180, fault.state
        assert fault.says in f"{seen['hint']} {seen['evidence']}".lower(), seen
    assert "0123456789abcdef" not in str(found)


def test_a_failure_of_an_earlier_start_is_history(fleet: Fleet, module: Module, agent: str) -> None:
    wrong = "this-is-not-the-token"
    fleet.sh(
        agent, f"cp /etc/rancher/k3s/token /run/token && echo {wrong} >/etc/rancher/k3s/token && systemctl restart --no-block k3s-agent"
    )
    failed = look(module, agent, timeout=240)
    assert failed["state"] == "token_rejected"
    assert 10 <= failed["waited"] < 120  # long before the timeout: it never heals
    assert "401" in failed["evidence"]
    assert len(failed["log"]) <= 20
    assert wrong not in str({key: value for key, value in failed.items() if key != "invocation"})

    fleet.sh(agent, "mv /run/token /etc/rancher/k3s/token && systemctl restart --no-block k3s-agent")
    seen = set()
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and "ready" not in seen:
        seen.add(look(module, agent)["state"])
    assert seen <= {"starting", "ready"}
    assert "ready" in seen


#: Answers /cacerts as a k3s server does, with a certificate of the cluster's own CA that is valid from tomorrow.
YOUNG_SERVER = f"""
set -e
mkdir -p /run/young && cd /run/young && cp {TLS}/server-ca.crt cacerts
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out csr -subj /CN=k3s 2>/dev/null
openssl x509 -req -in csr -CA cacerts -CAkey {TLS}/server-ca.key -not_before $(date -u -d tomorrow +%Y%m%d%H%M%SZ) -days 3 \
  -extfile <(echo subjectAltName=IP:ADDRESS,IP:127.0.0.1) -out certificate 2>/dev/null
cat >serve.py <<'END'
import http.server, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("certificate", "key")
server = http.server.ThreadingHTTPServer(("", 7443), http.server.SimpleHTTPRequestHandler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
END
systemd-run --quiet --collect --unit young-server --working-directory /run/young python3 serve.py
"""


def test_clock_skew(fleet: Fleet, module: Module, server: str, agent: str) -> None:
    """A lab node cannot have a clock of its own, so the server's certificate lies in the future: the same to an agent that is behind."""
    fleet.sh(server, YOUNG_SERVER.replace("ADDRESS", fleet.address(server)))
    try:
        fleet.sh(agent, f"sed -i s/:6443/:7443/ {CONFIG}.d/10-join.yaml && systemctl restart --no-block k3s-agent")
        # it may heal for more than a minute, so it is told at the end of the time; before, the agent has to have asked
        deadline = time.monotonic() + 120
        while (found := look(module, agent, timeout=5))["state"] != "clock_skew":
            assert time.monotonic() < deadline, found
        assert "is before" in found["evidence"]
        assert "timedatectl" in found["hint"]
    finally:
        fleet.sh(server, "systemctl stop young-server; rm -rf /run/young")
