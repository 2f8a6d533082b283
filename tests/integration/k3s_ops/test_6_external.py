# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers on an external datastore: brought up, left alone by a second run, upgraded, and back after one lost its card."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.k3s_ops.conftest import HERE, NEW, OLD, Ops

pytestmark = pytest.mark.full

ETCD = (
    "systemd-run --quiet --unit=datastore $(find /opt/k3s-standin -name etcd -type f | head -1) --data-dir=/var/lib/datastore"
    " --listen-client-urls=http://0.0.0.0:12379 --advertise-client-urls=http://127.0.0.1:12379 --listen-peer-urls=http://127.0.0.1:12380"
)


@pytest.fixture(scope="module")
def external() -> Iterator[Ops]:
    lab = Ops(HERE / "lab-ops-external")
    lab.lab("prepare", "-i", "inventory/lab-second")
    lab.up()
    lab.sh(lab.workers[0], ETCD)
    lab.play().require()
    yield lab
    lab.lab("down", "-i", str(lab.inventory))


def ca(fleet: Ops, server: str) -> str:
    return fleet.sh(server, "sha256sum </var/lib/rancher/k3s/server/tls/server-ca.crt")


def test_a_second_run_finds_the_cluster_and_changes_nothing(external: Ops) -> None:
    assert external.ready() == set(external.hosts)
    for server in external.servers:
        assert not {"etcd", "state.db"} & set(external.sh(server, "ls /var/lib/rancher/k3s/server/db").split())
    units = external.invocations()
    assert external.play("--check").require().changed == set()
    assert external.play().require().changed == set()
    assert external.invocations() == units


def test_a_snapshot_of_it_is_refused(external: Ops) -> None:
    run = external.snapshot().require(2)
    assert "An external datastore (k3s_datastore_endpoint) is backed up with its own tools" in " ".join(run.output.split())


def test_an_upgrade_says_that_it_takes_no_snapshot(external: Ops) -> None:
    kept = set(external.kept.glob("*"))
    check = external.upgrade(NEW, "--check").require()
    run = external.upgrade(NEW).require()
    assert run.changed == check.changed
    assert "No snapshot is taken, because the datastore is external" in " ".join(run.output.split())
    assert set(external.versions().values()) == {NEW} != {OLD}
    assert set(external.kept.glob("*")) == kept
    assert external.ready() == set(external.hosts) and not external.cordoned()


def test_a_wiped_server_comes_back_into_the_same_cluster(external: Ops) -> None:
    first, second = external.servers
    before = ca(external, second)
    external.kubectl("create", "configmap", "before", "--from-literal=a=b")
    external.wipe(first)
    external.kubectl("wait", "node", first, "--for=condition=Ready=Unknown", "--timeout=120s", server=second)
    external.play("-e", f"k3s_version={NEW}").require()
    assert ca(external, first) == ca(external, second) == before
    assert "before" in external.configmaps() and external.ready() == set(external.hosts)
    assert external.play("-e", f"k3s_version={NEW}").require().changed == set()
