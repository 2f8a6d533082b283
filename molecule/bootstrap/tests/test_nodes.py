# SPDX-License-Identifier: GPL-3.0-or-later
"""What testinfra sees on each node after the bootstrap. Nothing of the collection takes part."""

from __future__ import annotations

import json

import pytest

from tests.support.fleet import ROOT, Fleet

FLEET = Fleet(ROOT / "inventory/lab")


@pytest.fixture
def unit(host):
    """The k3s unit that this node has to have."""
    return "k3s" if host.backend.name.removeprefix("pifleet-lab-") in FLEET.servers else "k3s-agent"


def test_the_unit_runs_and_starts_at_boot(host, unit):
    service = host.service(unit)
    assert service.is_running
    assert service.is_enabled
    other = "k3s-agent" if unit == "k3s" else "k3s"
    assert not host.file(f"/etc/systemd/system/{other}.service").exists


def test_the_binary_is_the_released_one(host):
    assert host.file("/usr/local/bin/k3s").mode == 0o755
    assert host.check_output("k3s --version").split()[2] == FLEET.vars_of(FLEET.hosts[0])["k3s_version"]
    assert not host.file("/usr/local/bin/.k3s.staged").exists


def test_secrets_are_roots_alone(host, unit):
    paths = ["/etc/rancher/k3s/config.yaml", "/etc/rancher/k3s/token", f"/etc/systemd/system/{unit}.service.env"]
    for path in paths:
        file = host.file(path)
        assert (file.user, file.mode) == ("root", 0o600), path


def test_the_fleet_is_in_hosts_by_address(host):
    text = host.file("/etc/hosts").content_string
    for name in FLEET.hosts:
        assert name in text
    # k3s resolves no mDNS: the server to join is named by its address
    server = host.run("sed -n 's/^server: //p' /etc/rancher/k3s/config.yaml.d/10-join.yaml").stdout
    assert ".local" not in server


def test_the_operating_system_is_prepared(host):
    assert host.sysctl("net.ipv4.ip_forward") == 1
    assert "SystemMaxUse" in host.check_output("cat /etc/systemd/journald.conf.d/*.conf")


def test_the_node_is_ready_in_the_api(host, unit):
    if unit == "k3s":
        nodes = json.loads(host.check_output("k3s kubectl get nodes -o json"))["items"]
        ready = {n["metadata"]["name"] for n in nodes for c in n["status"]["conditions"] if c["type"] == "Ready" and c["status"] == "True"}
        assert ready == set(FLEET.hosts)
    else:
        assert host.socket("tcp://0.0.0.0:10250").is_listening or host.socket("tcp://:::10250").is_listening
