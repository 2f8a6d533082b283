# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of its own, one server and two workers. Tests run in the order of the files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.fleet import ROOT, Fleet, Run

HERE = Path(__file__).resolve().parent
FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))
OLD, NEW = "v1.34.4+k3s1", "v1.34.5+k3s1"
SNAPSHOTS = "/var/lib/pifleet/snapshots"


class Ops(Fleet):
    """The fleet, with the playbooks that are tested here."""

    @property
    def name(self) -> str:
        return str(self.vars_of(self.hosts[0])["fleet_name"])

    @property
    def confirmed(self) -> tuple[str, str]:
        return "-e", f"confirm={self.name}"

    @property
    def kept(self) -> Path:
        """Where the controller keeps the fleet's snapshots."""
        return ROOT / ".pifleet/snapshots" / self.name

    def upgrade(self, version: str, *args: str) -> Run:
        return self.play("-e", f"k3s_version={version}", *args, playbook="playbooks/upgrade.yml")

    def snapshot(self, *args: str) -> Run:
        return self.play(*args, playbook="playbooks/snapshot.yml")

    def restore(self, snapshot: str, *args: str) -> Run:
        return self.play("-e", f"snapshot={snapshot}", *args, playbook="playbooks/restore.yml")

    def reset(self, *args: str) -> Run:
        return self.play(*args, playbook="playbooks/reset.yml")

    def versions(self) -> dict[str, str]:
        """The version of each node's running kubelet, as the API has it."""
        return {name: node["status"]["nodeInfo"]["kubeletVersion"] for name, node in self.nodes().items()}

    def runs(self, version: str) -> bool:
        """Whether the server runs, and all nodes run that version."""
        active = self.sh(self.servers[0], "systemctl is-active k3s || true").strip() == "active"
        return active and set(self.versions().values()) == {version}

    def cordoned(self) -> set[str]:
        return {name for name, node in self.nodes().items() if node["spec"].get("unschedulable")}

    def configmaps(self) -> set[str]:
        return {item["metadata"]["name"] for item in json.loads(self.kubectl("get", "configmaps", "-o", "json"))["items"]}

    def apply(self, *objects: dict) -> None:
        """Create objects in the namespace default."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.sh(self.servers[0], f"k3s kubectl apply -f - <<'END'\n{text}\nEND\n")

    def secrets(self) -> set[str]:
        """The cluster's real secrets: passwords of its tokens and of its nodes, and a line of its keys."""
        server = self.servers[0]
        data = self.vars_of(server).get("k3s_data_dir", "/var/lib/rancher/k3s")
        files = (
            f"{data}/server/token {data}/server/agent-token /etc/rancher/k3s/token /etc/rancher/k3s/agent-token /etc/rancher/node/password"
        )
        tokens = self.sh(server, f"cat {files}").split()
        key = self.sh(server, f"sed -n 2p {data}/server/tls/server-ca.key").strip()
        return {t.rsplit("::", 1)[-1].split(":")[-1] for t in tokens} | {key}


def deployment(name: str, replicas: int, node: str = "") -> dict:
    """A deployment of pods that do nothing, for one node or for all."""
    container = {"name": "pause", "image": "rancher/mirrored-pause:3.6", "imagePullPolicy": "IfNotPresent"}
    spec: dict = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": spec}
    body = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"}, "spec": body}


def budget(name: str, **limit: int) -> dict:
    """A PodDisruptionBudget for the pods of the deployment of that name."""
    meta = {"name": name, "namespace": "default"}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta,
        "spec": {**limit, "selector": {"matchLabels": {"app": name}}},
    }


def kill_after(fleet: Ops, task: str, playbook: str, *args: str) -> None:
    """Start a playbook and kill it as soon as *task* has a result, wherever that is in its name."""
    process = fleet.start(playbook, *args)
    deadline = time.monotonic() + 300
    while not any(task in t["task"] for t in process.results()):
        assert process.process.poll() is None and time.monotonic() < deadline, process.log.read_text()[-4000:]
        time.sleep(0.05)
    process.kill()


@contextmanager
def silent(fleet: Ops, *nodes: str) -> Iterator[dict[str, str]]:
    """Nodes that run and do not answer Ansible; yields the environment of the playbooks meanwhile."""
    for node in nodes:
        fleet.sh(node, "systemctl stop ssh.socket ssh.service || systemctl stop ssh; pkill -x sshd || true", check=False)
    try:
        yield {"ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ConnectTimeout=5"}
    finally:
        for node in nodes:
            fleet.sh(node, "systemctl start ssh.socket ssh.service || systemctl start ssh", check=False)


@pytest.fixture(scope="session")
def fleet() -> Iterator[Ops]:
    lab = Ops(HERE / "lab-ops")
    lab.lab("prepare", "-i", "inventory/lab-second")  # a fleet with the newer version
    lab.up()
    yield lab
    lab.lab("down", "-i", str(lab.inventory))


def with_version(fleet: Ops, version: str) -> None:
    """Have a converged cluster with *version*, whatever the test before left."""
    if not fleet.runs(version):
        fleet.reset(*fleet.confirmed, "-e", "k3s_reset_remove_node_identity=true").require()
    fleet.play("-e", f"k3s_version={version}").require()
    assert set(fleet.versions().values()) == {version}


@pytest.fixture
def old(fleet: Ops) -> Ops:
    with_version(fleet, OLD)
    return fleet
