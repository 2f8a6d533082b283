# SPDX-License-Identifier: GPL-3.0-or-later
"""The drill on a fleet that is observed, from bare nodes, and once more where nothing can give a node another disk; and the test of the
alerts through the API of its cluster, as `observability_backend: chart` has it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._observability.alert_test import NAME

from tests.integration.observability.conftest import HERE, Receiver, until
from tests.support.checkout import Checkout
from tests.support.fleet import Fleet

pytestmark = pytest.mark.full

SERVER, NODE = "drill-1.local", "drill-2.local"
ADDRESS = "172.30.138.11"
REPORT = "docs/governance/reviews/end-to-end-validation.md"
PHASES = ["bootstrap", "stacks", "wipe", "rebuild", "observability", "alert", "evidence"]


@pytest.fixture(scope="module")
def drilled() -> Iterator[Fleet]:
    lab = Fleet(HERE / "lab-drill")
    lab.up()
    # what the nodes do by themselves comes in no drill
    lab.first_run_after("1d")
    yield lab
    lab.lab("down", "-i", str(lab.inventory))


@pytest.fixture(scope="module")
def receiver(drilled: Fleet) -> Iterator[Receiver]:
    """At the address that the inventory has."""
    listens = Receiver("172.30.138.1", 9138)
    yield listens
    listens.close()


@pytest.fixture(scope="module")
def checkout(drilled: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("person") / "checkout", drilled)


def synthetic(receiver: Receiver, status: str = "firing") -> list[dict[str, str]]:
    """The labels of the synthetic alerts that came."""
    return [one["labels"] for one in receiver.alerts("critical", status) if one["labels"]["alertname"] == NAME]


def drill(checkout: Checkout, *args: str) -> tuple[str, list[str]]:
    """Carry it out. Return its report, and the names of the transcripts it kept, in their order."""
    code, output = checkout.shell(f"ansible-playbook playbooks/drill.yml -e node={NODE} -e confirm={NODE} {' '.join(args)}")
    assert code == 0, output[-6000:]
    with closing(sqlite3.connect(f"file:{checkout.folder}/.pifleet/ledger.db?mode=ro", uri=True)) as db:
        (run,) = db.execute("SELECT id FROM runs WHERE playbook LIKE '%drill.yml' ORDER BY id DESC LIMIT 1").fetchone()
        kept = [name for (name,) in db.execute("SELECT name FROM artifacts WHERE run_id = ? ORDER BY number", (run,))]
    return (checkout.folder / REPORT).read_text(), [name for name in kept if name.startswith("drill-") and "-wiping-" not in name]


def test_drill_of_a_fleet_that_is_observed(drilled: Fleet, checkout: Checkout, receiver: Receiver) -> None:
    report, kept = drill(checkout)
    assert kept == [f"drill-{phase}.txt" for phase in PHASES]
    assert all(f"| {phase} | " in report for phase in PHASES)
    assert re.search(r"\| \S+ \| playbooks/alert_test.yml \| succeeded \|", report)
    for what in ("Fired", "Routed", "Delivered", "Resolved"):
        assert re.search(rf"(?m)^\| {what} \| \d{{4}}-\d\d-\d\dT", report), what
    assert re.search(r"(?m)^\| Runbook \| \S+runbooks/\S+ \|", report)
    assert drilled.ready() == set(drilled.hosts)
    assert len(synthetic(receiver)) == 1
    assert synthetic(receiver, "resolved") == synthetic(receiver)
    # the node that was wiped is observed again
    assert drilled.sh(NODE, "systemctl is-active prometheus-node-exporter pifleet-metrics.timer").split() == ["active"] * 2


def test_without_a_command_for_another_disk_k3s_is_removed_and_comes_back(drilled: Fleet, checkout: Checkout, receiver: Receiver) -> None:
    before = drilled.nodes()[NODE]["metadata"]["uid"]
    machine = drilled.sh(NODE, "cat /etc/machine-id")
    code, output = checkout.shell(f"""ansible-playbook playbooks/drill.yml -e node={NODE} -e '{{"drill_wipe_command": []}}'""")
    assert code != 0 and f"This drill destroys what is stored on {NODE}: k3s with all its data. Nothing was changed." in " ".join(
        output.split()
    )
    report, kept = drill(checkout, """-e '{"drill_wipe_command": []}'""")
    assert kept == [f"drill-{phase}.txt" for phase in PHASES]
    assert re.search(r"\| wipe \| \S+ \S+ \| \S+ \S+ \| \d:\d\d:\d\d[.]\d+ \|", report)
    assert "| wipe | k3s removed, with all its data and the identity of the node |" in report
    assert drilled.ready() == set(drilled.hosts)
    assert drilled.nodes()[NODE]["metadata"]["uid"] != before
    assert drilled.sh(NODE, "cat /etc/machine-id") == machine


#: what prometheus-operator makes of an Alertmanager: API servers pass a request on to addresses of pods alone, so a pod has the one of the
#: node, where Alertmanager runs; its own container has no image and never begins
OPERATED = f"""
apiVersion: v1
kind: Service
metadata: {{name: alertmanager-operated, namespace: monitoring}}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {{app.kubernetes.io/name: alertmanager}}
  ports: [{{name: http-web, port: 9093, targetPort: http-web}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: alertmanager-0, namespace: monitoring, labels: {{app.kubernetes.io/name: alertmanager}}}}
spec:
  hostNetwork: true
  nodeName: {SERVER}
  containers: [{{name: alertmanager, image: pifleet/none, imagePullPolicy: Never, ports: [{{name: http-web, containerPort: 9093}}]}}]
"""


def test_alerts_are_tested_through_the_api_of_the_cluster(drilled: Fleet, checkout: Checkout, receiver: Receiver) -> None:
    """Alertmanager itself is Debian's: the chart cannot be had. Way, answers and refusals of the API are the real ones."""
    test = "ansible-playbook playbooks/alert_test.yml -e observability_backend=chart"
    code, output = checkout.shell(test)
    assert code != 0 and "Is observability set up (playbooks/observability.yml), and does the cluster answer?" in " ".join(output.split())
    drilled.sh(SERVER, f"k3s kubectl apply -f - <<'END'\n{OPERATED}END\n")
    # it listens for its own node alone
    forward = f"--socket-property=ListenStream={ADDRESS}:9093 /lib/systemd/systemd-socket-proxyd 127.0.0.1:9093"
    drilled.sh(SERVER, f"systemd-run --quiet --unit=test-forward {forward}")
    try:
        until(
            lambda: ADDRESS in drilled.kubectl("-n", "monitoring", "get", "endpointslices", "-o", "yaml"),
            "the pod's address behind its Service",
        )
        before = len(synthetic(receiver))
        code, output = checkout.shell(test)
        assert code == 0, output[-6000:]
        assert len(synthetic(receiver)) == before + 1
        assert synthetic(receiver, "resolved") == synthetic(receiver)
    finally:
        drilled.sh(
            SERVER,
            "systemctl stop test-forward.socket test-forward.service;"
            " k3s kubectl -n monitoring delete service/alertmanager-operated pod/alertmanager-0 --now",
        )
