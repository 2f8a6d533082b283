# SPDX-License-Identifier: GPL-3.0-or-later
"""What testinfra sees after the rebuild of one node. Nothing of the collection takes part."""

from __future__ import annotations

import json
import subprocess

from tests.support.fleet import ROOT, Fleet

FLEET = Fleet(ROOT / "inventory/lab")
NODE = "pi-cluster-4.local"


def name_of(host):
    return host.backend.name.removeprefix("pifleet-lab-")


def test_k3s_runs_on_every_node(host):
    assert host.service("k3s" if name_of(host) in FLEET.servers else "k3s-agent").is_running


def test_the_api_has_every_node_ready_with_a_pod(host):
    if name_of(host) not in FLEET.servers:
        return
    nodes = json.loads(host.check_output("k3s kubectl get nodes -o json"))["items"]
    ready = {n["metadata"]["name"] for n in nodes for c in n["status"]["conditions"] if c["type"] == "Ready" and c["status"] == "True"}
    assert ready == set(FLEET.hosts)
    rebuilt = next(n for n in nodes if n["metadata"]["name"] == NODE)
    assert rebuilt["metadata"]["labels"]["node-role.kubernetes.io/worker"] == "true"
    pods = json.loads(host.check_output("k3s kubectl get pods -n default -l app=everywhere -o json"))["items"]
    running = {p["spec"]["nodeName"] for p in pods if all(s["ready"] for s in p["status"]["containerStatuses"])}
    assert running == set(FLEET.hosts)


def test_the_host_key_that_is_known_is_the_one_it_has(host):
    # names may be hashed: ssh-keygen finds them
    key = host.file("/etc/ssh/ssh_host_ed25519_key.pub").content_string.split()[1]
    argv = ["ssh-keygen", "-F", FLEET.address(name_of(host)), "-f", ROOT / ".pifleet/lab/lab/known_hosts"]
    found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in found.splitlines() if not line.startswith("#")] == [key]


def test_the_report_is_there():
    reports = sorted((ROOT / "docs/governance/reviews").glob(f"rebuild-{NODE}-*.md"))
    assert reports
    assert "The record is whole" in reports[-1].read_text()
