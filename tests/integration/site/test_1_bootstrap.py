# SPDX-License-Identifier: GPL-3.0-or-later
"""Bare nodes to a verified cluster, and what --check promises on the way."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import yaml
from kubernetes import client, config

from lab.artifacts import WEB
from tests.support.fleet import ROOT, Fleet

# everything that a run could write to, but what systemd and the clock write by themselves
FINGERPRINT = (
    "find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /dev -o -path /var/log -o -path /var/tmp"
    " -o -path /var/lib/systemd -o -path /home/*/.ansible -o -path /root/.ansible -o -name '*.pyc' -o -name __pycache__ \\) -prune"
    " -o -type f -printf '%p %s %T@ %m\\n' | grep -v '/.ansible' | sort | sha256sum;"
    " systemctl list-units --type service --state=active --no-legend | wc -l"
)


def test_check_on_fresh_nodes_predicts_the_real_run_and_touches_nothing(whole: Fleet) -> None:
    fleet = whole
    fleet.wipe()
    fleet.first_run_after("1d")  # the timer of a node that waits for others would reconcile its stacks before the run does
    fleet.play("--check").require()  # the first login of a user writes to its home
    before = {h: fleet.sh(h, FINGERPRINT) for h in fleet.hosts}
    check = fleet.play("--check", "--diff").require()
    assert {h: fleet.sh(h, FINGERPRINT) for h in fleet.hosts} == before
    assert check.changed, "a fresh node has everything to do"

    real = fleet.play("--diff").require()
    assert real.changed == check.changed


def test_a_run_after_it_predicts_changes_and_restarts_nothing(whole: Fleet) -> None:
    fleet = whole
    units = fleet.invocations()
    assert fleet.play("--check").require().changed == set()
    again = fleet.play().require()
    assert again.changed == set()
    assert "changed=0" in again.output and not any(f"changed={n}" in again.output for n in range(1, 10))
    assert fleet.invocations() == units
    # few module invocations a node, counted as executions over ssh, with pipelining one for each: 12 for the bootstrap, 2 for each
    # capability that site.yml imports besides (the others are the bootstrap itself and the two ends of the record)
    imported = (ROOT / "playbooks/site.yml").read_text().count("import_playbook:")
    by_host = {h: again.ssh_calls[fleet.address(h)] for h in fleet.hosts}
    assert all(0 < n <= 12 + 2 * (imported - 3) for n in by_host.values()), by_host


def test_the_cluster_is_what_the_inventory_says(fleet: Fleet) -> None:
    """Asked with the fetched kubeconfig through the kubernetes client: from outside, as a user would."""
    variables = fleet.vars_of(fleet.hosts[0])
    path = ROOT / ".pifleet/lab" / fleet.inventory.name / "kubeconfig"
    assert path.stat().st_mode & 0o777 == 0o600
    api = client.CoreV1Api(
        config.new_client_from_config(str(path), context=variables.get("k3s_kubeconfig_context") or variables["fleet_name"])
    )
    nodes = {n.metadata.name: n for n in api.list_node().items}
    assert set(nodes) == set(fleet.hosts)
    for name, node in nodes.items():
        ready = {c.type: c.status for c in node.status.conditions}
        assert ready["Ready"] == "True"
        assert ("node-role.kubernetes.io/control-plane" in node.metadata.labels) == (name in fleet.servers)
        assert node.status.node_info.kubelet_version == variables["k3s_version"]
        assert any(a.type == "InternalIP" and a.address == fleet.address(name) for a in node.status.addresses)
    assert {"monitoring", "operations"} <= {n.metadata.name for n in api.list_namespace().items}
    storage = client.StorageV1Api(api.api_client)
    defaults = [
        s.metadata.name
        for s in storage.list_storage_class().items
        if (s.metadata.annotations or {}).get("storageclass.kubernetes.io/is-default-class") == "true"
    ]
    assert defaults == ["local-path"]


def test_units_and_files_on_the_nodes(fleet: Fleet) -> None:
    for host in fleet.hosts:
        unit = "k3s" if host in fleet.servers else "k3s-agent"
        show = fleet.sh(host, f"systemctl show {unit} -p Type,KillMode,Delegate,Restart,ActiveState,UnitFileState")
        assert Counter(show.split()) == Counter(
            ["Type=notify", "KillMode=process", "Delegate=yes", "Restart=always", "ActiveState=active", "UnitFileState=enabled"]
        )
        modes = fleet.sh(host, "find /etc/rancher/k3s -type f -printf '%m\\n'; stat -c %a /etc/systemd/system/k3s*.env").split()
        assert set(modes) == {"600"}


def test_the_run_is_on_record(fleet: Fleet) -> None:
    began = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    fleet.play("--limit", fleet.servers[0]).require()
    with sqlite3.connect(f"file:{ROOT / '.pifleet/ledger.db'}?mode=ro", uri=True, timeout=60) as ledger:
        ledger.row_factory = sqlite3.Row
        # other fleets, with hosts of the same names, use this ledger at the same time
        query = (
            "SELECT r.*, h.host FROM runs r JOIN run_hosts h ON h.run_id = r.id WHERE started_at > ? AND host_limit = ? AND inventory = ?"
        )
        place = json.dumps([str(fleet.inventory.relative_to(ROOT))])
        rows = ledger.execute(query, (began, fleet.servers[0], place)).fetchall()
    assert [r["host"] for r in rows] == [fleet.servers[0]]
    assert rows[0]["ended_at"] > rows[0]["started_at"]


def test_drift_of_the_baseline_is_reported_then_repaired(fleet: Fleet) -> None:
    fleet.kubectl("label", "namespace", "monitoring", "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    check = fleet.play("--check", "--diff").require()
    assert any("baseline" in task for _, task in check.changed)
    assert "had been edited by hand" in check.output
    assert fleet.play().require().changed == check.changed
    assert "restricted" not in fleet.kubectl("get", "namespace", "monitoring", "-o", "jsonpath={.metadata.labels}")


def test_labels_and_taints_follow_the_inventory_without_a_restart(fleet: Fleet, tmp_path: Path) -> None:
    units = fleet.invocations()
    wanted = tmp_path / "vars.yml"
    wanted.write_text(
        yaml.safe_dump({"k3s_node_labels": {"pifleet.test/disk": "ssd"}, "k3s_node_taints": ["pifleet.test/only=x:NoSchedule"]})
    )
    worker = fleet.workers[-1]
    fleet.play("--limit", worker, "-e", f"@{wanted}").require()
    node = fleet.nodes()[worker]
    assert node["metadata"]["labels"]["pifleet.test/disk"] == "ssd"
    assert {"key": "pifleet.test/only", "value": "x", "effect": "NoSchedule"} in node["spec"]["taints"]
    fleet.play("--limit", worker).require()
    node = fleet.nodes()[worker]
    assert "pifleet.test/disk" not in node["metadata"]["labels"]
    assert not any(t["key"] == "pifleet.test/only" for t in node["spec"].get("taints", []))
    assert fleet.invocations() == units


def test_a_workload_runs_on_every_node(fleet: Fleet) -> None:
    """The cluster is one that schedules, pulls from the airgap images, and routes between nodes."""
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "hello"}},
            "template": {
                "metadata": {"labels": {"app": "hello"}},
                "spec": {
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "hello", "image": WEB, "imagePullPolicy": "Never"}],
                },
            },
        },
    }
    fleet.kubectl("apply", "-f", "-", f"<<'E'\n{json.dumps(manifest)}\nE")
    fleet.kubectl("rollout", "status", "daemonset/hello", "--timeout=150s")
    pods = json.loads(fleet.kubectl("get", "pods", "-l", "app=hello", "-o", "json"))["items"]
    assert {p["spec"]["nodeName"] for p in pods} == set(fleet.hosts)
    other = next(p for p in pods if p["spec"]["nodeName"] != fleet.servers[0])
    assert "pod=" in fleet.sh(fleet.servers[0], f"curl -fsS --max-time 5 http://{other['status']['podIP']}:8080/")
    fleet.kubectl("delete", "daemonset", "hello", "--wait=false")


def test_the_checkout_and_the_installed_collection_run_the_same(fleet: Fleet, tmp_path: Path) -> None:
    """`ansible-galaxy collection build` and install, then pifleet.ops.site from an empty folder, against the converged lab."""
    galaxy = str(Path(sys.executable).parent / "ansible-galaxy")
    built = subprocess.run(
        [galaxy, "collection", "build", "--output-path", tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stderr
    tarball = next(tmp_path.glob("pifleet-ops-*.tar.gz"))
    install = [galaxy, "collection", "install", "--force", "--offline", "--no-deps", "-p", str(tmp_path / "collections"), str(tarball)]
    done = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    units = fleet.invocations()
    env = {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")}
    run = fleet.play(playbook="pifleet.ops.site", env=env).require()
    assert run.changed == set(), run.changed
    assert fleet.invocations() == units
