# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in on three servers, started by hand: etcd members join, leave, are snapshot and restored."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import ROOT, lab

INVENTORY = ROOT / "inventory/lab-ha"
ARTIFACTS = ROOT / ".pifleet/lab/artifacts/v1.34.4+k3s1"
NODES = {n: f"pi-cluster-{n}.local" for n in (1, 2, 3, 4)}
UNIT = """[Service]
Type=notify
KillMode=process
Delegate=yes
TimeoutStartSec=0
Restart=always
RestartSec=2s
ExecStart=/usr/local/bin/k3s {role}
"""


def on(number: int, command: str, *, rc: int | None = 0) -> str:
    """Run shell words as root on a node; output of both streams."""
    argv = ["docker", "exec", f"pifleet-lab-ha-{NODES[number]}", "sh", "-c", command]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert rc is None or done.returncode == rc, done.stdout + done.stderr
    return done.stdout + done.stderr


def start(number: int, role: str, *settings: str) -> None:
    """Write settings and unit, start it, and wait until it is ready."""
    unit = "k3s" if role == "server" else "k3s-agent"
    lines = "\n".join([f"node-name: {NODES[number]}", *settings])
    on(number, f"mkdir -p /etc/rancher/k3s && printf '%s\\n' {shlex.quote(lines)} > /etc/rancher/k3s/config.yaml")
    on(number, f"printf '%s' {shlex.quote(UNIT.format(role=role))} > /etc/systemd/system/{unit}.service && systemctl daemon-reload")
    on(number, f"timeout 240 systemctl restart {unit}")


def objects(number: int, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(on(number, f"k3s kubectl get {' '.join(words)} -o json"))
    return found


def voters(number: int) -> set[str]:
    conditions = {n["metadata"]["name"]: n["status"]["conditions"] for n in objects(number, "nodes")["items"]}
    return {name for name, found in conditions.items() if any(c["type"] == "EtcdIsVoter" and c["status"] == "True" for c in found)}


def until(what: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(1)


@pytest.fixture(scope="module")
def token() -> Iterator[str]:
    """Three servers and a worker; gives the servers' token."""
    lab("down", inventory=INVENTORY)
    lab("up", inventory=INVENTORY)
    for name in NODES.values():
        target = f"pifleet-lab-ha-{name}:/usr/local/bin/k3s"
        subprocess.run(["docker", "cp", str(Path(ARTIFACTS, "k3s").resolve()), target], check=True, timeout=60, capture_output=True)
    start(1, "server", "cluster-init: true", "agent-token: for-agents", "secrets-encryption: true")
    secret = on(1, "cat /var/lib/rancher/k3s/server/token").strip()
    for number in (2, 3):
        start(number, "server", "server: https://172.30.78.11:6443", f"token: {secret}", "agent-token: for-agents")
    start(4, "agent", "server: https://172.30.78.11:6443", "token: for-agents")
    yield secret
    lab("down", inventory=INVENTORY)


@pytest.mark.usefixtures("token")
class TestServers:
    def test_all_servers_vote(self) -> None:
        until(lambda: voters(2) == {NODES[1], NODES[2], NODES[3]})
        labels = objects(1, "node", NODES[3])["metadata"]["labels"]
        assert labels["node-role.kubernetes.io/etcd"] == labels["node-role.kubernetes.io/control-plane"] == "true"

    def test_an_agent_token_makes_no_server(self) -> None:
        on(4, "systemctl stop k3s-agent")
        on(
            4,
            "timeout 60 k3s server --token for-agents --server https://172.30.78.11:6443 --data-dir /root/k3s 2>&1 | tee /root/said",
            rc=None,
        )
        assert "server-bootstrap: 401 Unauthorized" in on(4, "cat /root/said")
        on(4, "systemctl start k3s-agent")

    def test_secrets_are_encrypted_in_the_datastore(self) -> None:
        on(1, "k3s kubectl create secret generic plain --from-literal=key=visible-value")
        on(1, "k3s etcd-snapshot save --name look")
        assert on(1, "grep -c visible-value /var/lib/rancher/k3s/server/db/snapshots/look-*", rc=1).strip() == "0"

    def test_an_agent_survives_its_server(self) -> None:
        known = "/var/lib/rancher/k3s/agent/etc/k3s-agent-load-balancer.json"
        until(lambda: len(json.loads(on(4, f"cat {known}"))["ServerAddresses"]) == 3)
        on(1, "systemctl stop k3s")
        on(4, "systemctl restart k3s-agent")
        assert on(4, "systemctl is-active k3s-agent").strip() == "active"
        on(1, "systemctl start k3s")

    def test_an_annotation_removes_a_member_which_rejoins(self) -> None:
        before = objects(1, "node", NODES[3])["metadata"]["annotations"]["etcd.k3s.cattle.io/node-name"]
        on(1, f"k3s kubectl annotate node {NODES[3]} etcd.k3s.cattle.io/remove=true")
        until(
            lambda: (
                voters(1) >= {NODES[3]}
                and objects(1, "node", NODES[3])["metadata"]["annotations"].get("etcd.k3s.cattle.io/node-name") != before
            )
        )
        until(lambda: "etcd.k3s.cattle.io/remove" not in objects(1, "node", NODES[3])["metadata"]["annotations"])
        assert "this node has been removed from the cluster" in on(3, "journalctl -u k3s")

    def test_a_snapshot_is_restored_with_the_cluster_s_cas(self) -> None:
        on(1, "k3s kubectl create configmap before && k3s etcd-snapshot save --name kept && k3s kubectl create configmap after")
        ca = on(1, "cat /var/lib/rancher/k3s/server/tls/server-ca.crt")
        for number in (1, 2, 3):
            on(number, "systemctl stop k3s")
        on(1, "rm -r /var/lib/rancher/k3s/server/tls")
        said = on(1, "k3s server --cluster-reset --cluster-reset-restore-path=$(ls /var/lib/rancher/k3s/server/db/snapshots/kept-*)")
        assert "Managed etcd cluster membership has been reset" in said
        assert on(1, "cat /var/lib/rancher/k3s/server/tls/server-ca.crt") == ca
        on(1, "systemctl start k3s")
        on(1, "k3s kubectl get configmap before")
        assert "NotFound" in on(1, "k3s kubectl get configmap after", rc=1)
        for number in (2, 3):
            on(number, "rm -r /var/lib/rancher/k3s/server/db && systemctl start k3s")
        until(lambda: voters(1) == {NODES[1], NODES[2], NODES[3]})
