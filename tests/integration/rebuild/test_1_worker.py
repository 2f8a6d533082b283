# SPDX-License-Identifier: GPL-3.0-or-later
"""One wiped worker, back by one command; a healthy or a stopped one is left alone."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._rebuild_report import STEPS, verify

from tests.integration.rebuild.conftest import ACCEPT, LEDGER, ROOT, Rebuilt, rows, steps_of


def fingerprint(fleet: Rebuilt, node: str) -> str:
    """Everything on the disk of a node that a run could change."""
    places = "/etc /usr/local /var/lib/pifleet /var/lib/rancher/k3s/agent/etc /root /home"
    return fleet.sh(node, f"find {places} -xdev -type f -printf '%p %s %T@\\n' 2>/dev/null | grep -v /var/lib/systemd | sort | sha256sum")


def test_a_healthy_node_is_left_alone(fleet: Rebuilt) -> None:
    units, pods, begun = fleet.invocations(), fleet.settled(), begun_in(fleet)
    assert fleet.rebuild().require().changed == set()
    assert fleet.rebuild("--tags", "rebuild").require().changed == set()
    assert fleet.invocations() == units
    assert fleet.pods() == pods
    assert begun_in(fleet) == begun


def begun_in(fleet: Rebuilt) -> list[dict[str, object]]:
    """The rebuilds that runs of this inventory began. Other fleets use the same ledger meanwhile, and have nodes of the same names."""
    place = json.dumps([str(fleet.inventory.relative_to(ROOT))])
    attempts = "SELECT DISTINCT rebuild_id, run_id FROM rebuild_steps JOIN runs ON runs.id = run_id"
    return rows(f"{attempts} WHERE runs.inventory = ? ORDER BY run_id", place)


def test_a_stopped_node_is_started_and_nothing_is_deleted(fleet: Rebuilt) -> None:
    uid, begun = fleet.nodes()[fleet.node]["metadata"]["uid"], rows("SELECT id FROM rebuilds WHERE host = ?", fleet.node)
    fleet.sh(fleet.node, "systemctl stop k3s-agent")
    check = fleet.rebuild("--check").require()
    run = fleet.rebuild().require()
    assert run.changed == check.changed
    assert {task.rsplit(" : ")[-1] for _host, task in run.changed} == {"Install the agent and start it"}
    assert "is down and still holds what it joined with" in run.output
    assert fleet.nodes()[fleet.node]["metadata"]["uid"] == uid
    assert rows("SELECT id FROM rebuilds WHERE host = ?", fleet.node) == begun
    fleet.settled()


def test_without_permission_for_the_new_host_key_nothing_is_touched(fleet: Rebuilt, known_hosts: Callable[[], str]) -> None:
    before, entries = fleet.nodes()[fleet.node]["metadata"]["uid"], known_hosts()
    old = fleet.sh(fleet.node, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    fleet.swap()
    new = fleet.sh(fleet.node, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    disk = fingerprint(fleet, fleet.node)
    run = fleet.play("--limit", fleet.node)
    assert run.rc != 0
    assert run.changed == set()
    (failure,) = run.failures[-1:]
    assert old in failure["msg"] and new in failure["msg"]
    assert "rebuild_accept_new_host_key=true" in failure["msg"]
    assert f"--limit {fleet.node}" in failure["msg"]
    # a permission that names no node is none: it would be one for every node of the fleet. And it holds up nobody else
    whole = fleet.play(*ACCEPT)
    assert whole.rc != 0
    assert {t["host"] for t in whole.failures if not t.get("ignored")} == {fleet.node}
    assert {t["host"] for t in whole.of("Prepare the") + whole.of("Bring the operating system")} == set(fleet.others)
    assert fleet.nodes()[fleet.node]["metadata"]["uid"] == before
    assert known_hosts() == entries
    assert fingerprint(fleet, fleet.node) == disk


def test_a_bound_volume_stops_it_and_is_named(fleet: Rebuilt, known_hosts: Callable[[], str]) -> None:
    """The node is the swapped one of the test before."""
    entries, uid = known_hosts(), fleet.nodes()[fleet.node]["metadata"]["uid"]
    path = "/var/lib/rancher/k3s/storage/pvc-keepsake"
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [fleet.node]}]}]
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "pvc-keepsake"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "local-path",
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": path, "type": "DirectoryOrCreate"},
            "claimRef": {"namespace": "default", "name": "keepsake"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "keepsake", "namespace": "default"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "local-path",
            "volumeName": "pvc-keepsake",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    fleet.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [volume, claim]}))
    fleet.sh(fleet.servers[0], "until k3s kubectl get pv pvc-keepsake | grep -q Bound; do sleep 0.5; done")
    try:
        for args in ((), ("--check",)):
            run = fleet.rebuild(*args)
            assert run.rc != 0
            assert run.changed == set()
            assert "pvc-keepsake (claim default/keepsake, 1Gi" in run.failures[-1]["msg"]
            assert "rebuild_allow_data_loss=true" in run.failures[-1]["msg"]
        assert fleet.nodes()[fleet.node]["metadata"]["uid"] == uid
        assert known_hosts() == entries
    finally:
        fleet.kubectl("delete", "pvc/keepsake", "-n", "default")
        fleet.kubectl("delete", "pv/pvc-keepsake")


def test_a_swapped_node_is_back_by_one_command(fleet: Rebuilt, known_hosts: Callable[[], str]) -> None:
    """Still the swapped node. What others had put on its Node is put back too."""
    fleet.kubectl("label", "node", fleet.node, "shelf=attic", "--overwrite")
    fleet.kubectl("taint", "node", fleet.node, "shelf=attic:PreferNoSchedule", "--overwrite")
    fleet.kubectl("cordon", fleet.node)
    # what an earlier run applied, and the inventory does not say any more, is no operator's
    applied = {"node-role.kubernetes.io/worker": "true", "shelf.inventory": "cellar"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": fleet.node, "labels": applied}}
    fleet.apply(json.dumps(node), "--server-side", "--field-manager=pifleet")
    fleet_label = {"node-role.kubernetes.io/worker": "true", "shelf": "attic"}
    units, pods, entries = fleet.invocations(fleet.others), fleet.pods(), known_hosts().splitlines()
    old = fleet.nodes()[fleet.node]
    check = fleet.rebuild("--check").require()
    assert fleet.nodes()[fleet.node]["metadata"]["uid"] == old["metadata"]["uid"]
    assert known_hosts().splitlines() == entries

    run = fleet.rebuild().require()

    assert run.changed == check.changed
    assert {host for host, _task in run.changed} == {fleet.node}
    assert fleet.ready() == set(fleet.hosts)
    new = fleet.nodes()[fleet.node]
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["status"]["nodeInfo"]["machineID"] != old["status"]["nodeInfo"]["machineID"]
    assert fleet_label.items() <= new["metadata"]["labels"].items()
    assert {"key": "shelf", "value": "attic", "effect": "PreferNoSchedule"} in new["spec"]["taints"]
    assert "shelf.inventory" not in new["metadata"]["labels"]
    assert new["spec"]["unschedulable"], "an operator's cordon is an operator's to lift"
    # workloads on it again; elsewhere no unit and no pod was restarted
    now = fleet.settled()
    mine = {name.split("/")[1].split("-")[0] for name, (_uid, node, _ready, _restarts) in now.items() if node == fleet.node}
    assert {"pinned", "everywhere"} <= mine
    untouched = {name: pod for name, pod in pods.items() if pod[1] != fleet.node}
    assert {name: now.get(name) for name in untouched} == untouched
    assert fleet.invocations(fleet.others) == units
    # the entry of this node was replaced, under both of its names, and no other one
    key = fleet.sh(fleet.node, "cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub").strip()
    added = [line for line in known_hosts().splitlines() if line not in entries]
    assert {line.split()[-1] for line in added} == {key}
    foreign = [line for line in entries if any(other in line for other in fleet.others)]
    assert [line for line in known_hosts().splitlines() if any(other in line for other in fleet.others)] == foreign
    assert len(foreign) == len(fleet.others)
    again = fleet.play().require()
    assert again.changed == set()
    fleet.kubectl("uncordon", fleet.node)
    fleet.kubectl("taint", "node", fleet.node, "shelf-")
    fleet.kubectl("label", "node", fleet.node, "shelf-")


def test_the_evidence_is_whole_and_adds_up(fleet: Rebuilt, tmp_path: Path) -> None:
    """Of the rebuild in the test before."""
    steps = steps_of(fleet.node)
    assert tuple(s["step"] for s in steps) == STEPS
    moments = [(datetime.fromisoformat(s["started_at"]), datetime.fromisoformat(s["ended_at"])) for s in steps]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(moments))
    (run,) = rows("SELECT * FROM runs WHERE id = ?", steps[0]["run_id"])
    assert steps[0]["started_at"] == run["started_at"]
    (report,) = (ROOT / "docs/governance/reviews").glob(f"rebuild-{fleet.node}-{run['id']}.md")
    text = report.read_text()
    for step in STEPS:
        assert re.search(rf"^\| {step} \|", text, re.M), step
    detail = json.loads(steps[0]["detail"])
    assert any(pod["name"] in text for pod in detail["pods_before"]) and detail["pods_before"]
    assert detail["host_key"]["offered"][0]["fingerprint"] in text
    record = Rebuilds(Store(LEDGER)).get(steps[0]["rebuild_id"])
    assert verify(record) == []
    whole = (moments[-1][1] - moments[0][0]).total_seconds()
    assert record.seconds == whole
    names = {row["name"] for row in rows("SELECT name FROM artifacts WHERE run_id = ?", run["id"])}
    assert {f"rebuild-{fleet.node}.json", report.name} <= names


def test_evidence_without_one_step_is_noticed(fleet: Rebuilt, tmp_path: Path) -> None:
    steps = steps_of(fleet.node)
    for step in steps:
        copy = tmp_path / "ledger.db"
        copy.unlink(missing_ok=True)
        with closing(sqlite3.connect(LEDGER, timeout=60)) as kept, closing(sqlite3.connect(copy)) as db, db:
            kept.backup(db)  # of one moment, though others write
            db.execute("DELETE FROM rebuild_steps WHERE rebuild_id = ? AND number = ?", (step["rebuild_id"], step["number"]))
        assert any(step["step"] in finding for finding in verify(Rebuilds(Store(copy)).get(step["rebuild_id"])))
