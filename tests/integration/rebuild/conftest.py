# SPDX-License-Identifier: GPL-3.0-or-later
"""The shared lab, converged, with workloads on the node that is rebuilt. Each test leaves a converged cluster behind."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import NO_STACKS, ROOT, Fleet, Run

ACCEPT = ("-e", "rebuild_accept_new_host_key=true")
LEDGER = ROOT / ".pifleet" / "ledger.db"
IMAGE = "docker.io/pifleet/lab-web:1"


def workloads(node: str) -> str:
    """A Deployment that only *node* can run, one that any node can, and a DaemonSet."""

    def pods(name: str, **spec: Any) -> dict[str, Any]:
        container = {"name": "web", "image": IMAGE, "imagePullPolicy": "Never"}
        return {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 1, **spec},
            },
        }

    def made(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec}

    pinned = pods("pinned", nodeSelector={"kubernetes.io/hostname": node})
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "List",
            "items": [
                made("Deployment", "pinned", {"replicas": 2, **pinned}),
                made("Deployment", "free", {"replicas": 3, **pods("free")}),
                made("DaemonSet", "everywhere", pods("everywhere")),
            ],
        }
    )


class Rebuilt(Fleet):
    """The fleet, with what a rebuild is about. *node* is the last worker."""

    @property
    def node(self) -> str:
        return self.workers[-1]

    @property
    def others(self) -> list[str]:
        return [h for h in self.hosts if h != self.node]

    def rebuild(self, *args: str, **kwargs: Any) -> Run:
        return self.play("--limit", self.node, *ACCEPT, *args, **kwargs)

    def swap(self, node: str = "") -> None:
        """Another card: new disk, host key, machine id and node password; neither the cluster nor the controller was told."""
        self.wipe(node or self.node, stale_host_key=True)

    def apply(self, text: str, *options: str) -> None:
        self.sh(self.servers[0], f"cat <<'END' | k3s kubectl apply {' '.join(options)} -f - >/dev/null\n{text}\nEND")

    def pods(self, server: str | None = None) -> dict[str, tuple[str, str, bool, int]]:
        """(uid, node, ready, restarts) of each pod, by namespace/name."""
        found = {}
        for pod in json.loads(self.kubectl("get", "pods", "-A", "-o", "json", server=server))["items"]:
            status = pod["status"]
            ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
            restarts = sum(c["restartCount"] for c in status.get("containerStatuses", []))
            name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            found[name] = (
                pod["metadata"]["uid"],
                pod["spec"].get("nodeName", ""),
                ready and not pod["metadata"].get("deletionTimestamp"),
                restarts,
            )
        return found

    def settled(self, timeout: float = 300) -> dict[str, tuple[str, str, bool, int]]:
        """The pods once all are ready."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            pods = self.pods()
            if pods and all(ready for _uid, _node, ready, _restarts in pods.values()):
                return pods
            time.sleep(1)
        raise AssertionError(f"pods are not ready: {pods}")


def rows(query: str, *args: str) -> list[dict[str, Any]]:
    """Rows of the ledger, past the code that writes it."""
    with closing(sqlite3.connect(f"{LEDGER.as_uri()}?mode=ro", uri=True, timeout=60)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(query, args)]


def reports_of(node: str) -> set[Path]:
    """The reports of rebuilds of *node*. Tests of other fleets may write and remove those of their nodes meanwhile."""
    return set((ROOT / "docs" / "governance" / "reviews").glob(f"rebuild-{node}-*.md"))


def steps_of(node: str) -> list[dict[str, Any]]:
    """The steps of the last rebuild of *node*, in order."""
    wanted = "SELECT id FROM rebuilds WHERE host = ? ORDER BY started_at DESC, id DESC LIMIT 1"
    return rows(f"SELECT * FROM rebuild_steps WHERE rebuild_id = ({wanted}) ORDER BY number", node)


@pytest.fixture(scope="session")
def fleet() -> Iterator[Rebuilt]:
    """The four nodes of inventory/lab, with a converged cluster and workloads. The reports that the tests leave are removed."""
    lab = Rebuilt(ROOT / os.environ.get("PIFLEET_TEST_INVENTORY", "inventory/lab"), NO_STACKS)
    before = reports_of(lab.node)
    lab.up()
    lab.play().require()
    lab.apply(workloads(lab.node))
    lab.settled()
    yield lab
    lab.kubectl("delete", "deployment/pinned", "deployment/free", "daemonset/everywhere", "--ignore-not-found", "--wait=false")
    for report in reports_of(lab.node) - before:
        report.unlink()


@pytest.fixture
def known_hosts(fleet: Rebuilt) -> Callable[[], str]:
    path = ROOT / ".pifleet" / "lab" / fleet.inventory.name / "known_hosts"
    return path.read_text
