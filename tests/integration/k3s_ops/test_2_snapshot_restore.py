# SPDX-License-Identifier: GPL-3.0-or-later
"""A snapshot of SQLite, taken while k3s runs, brings the cluster back: on the same server, on a wiped one, and to an older k3s."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from tests.integration.k3s_ops.conftest import NEW, OLD, SNAPSHOTS, Ops, kill_after, silent, with_version
from tests.support.fleet import Run


def assert_no_secret(fleet: Ops, run: Run) -> None:
    for secret in fleet.secrets():
        assert secret not in run.output
        assert secret not in json.dumps(run.tasks)


def assert_restored(fleet: Ops, run: Run) -> None:
    assert "before" in fleet.configmaps() and "after" not in fleet.configmaps()
    assert fleet.ready() == set(fleet.hosts)
    assert_no_secret(fleet, run)


def test_back_to_the_older_k3s_onto_a_wiped_server_with_a_worker_made_anew(fleet: Ops) -> None:
    """The way back from an upgrade: the older binary with the snapshot that the upgrade took first, whatever was lost since."""
    server, worker = fleet.servers[0], fleet.workers[0]
    if not fleet.runs(NEW) or "before" not in fleet.configmaps():  # else an upgrade has just been tested
        with_version(fleet, OLD)
        fleet.kubectl("create", "configmap", "before", "--from-literal=a=b")
        fleet.upgrade(NEW).require()
    with tarfile.open(max(fleet.kept.glob("*"), key=lambda path: path.stat().st_mtime)) as tar:
        assert json.loads(tar.extractfile("manifest.json").read())["reason"] == f"before the upgrade to {NEW}"  # type: ignore[union-attr]
    fleet.kubectl("create", "configmap", "after", "--from-literal=a=b")
    fleet.wipe(server, worker)
    refused = fleet.play("-e", f"k3s_version={NEW}").require(2)
    assert "Restore its latest snapshot (playbooks/restore.yml -e snapshot=latest)" in " ".join(refused.output.split())

    check = fleet.restore("latest", "--check").require()
    run = fleet.restore("latest", *fleet.confirmed).require()
    assert run.changed == check.changed
    assert_restored(fleet, run)
    assert set(fleet.versions().values()) == {OLD}
    assert fleet.play().require().changed == set(), "nothing is left to do"


@pytest.fixture(scope="module")
def taken(fleet: Ops) -> Path:
    """A snapshot with one object made before it and one after; the controller's copy."""
    with_version(fleet, OLD)
    fleet.kubectl("create", "configmap", "before", "--from-literal=a=b", check=False)
    for old in fleet.kept.glob("*"):  # of earlier runs of these tests: they would be retired in the middle
        old.unlink()
    known = set(fleet.kept.glob("*"))
    run = fleet.snapshot("-vvv").require()  # which shows what a connection transfers
    assert "H4sI" not in run.output, "how each bundle begins, in base64"
    fleet.kubectl("create", "configmap", "after", "--from-literal=a=b")
    (copy,) = set(fleet.kept.glob("*")) - known
    assert_no_secret(fleet, run)
    return copy


def test_the_bundle_is_whole_and_nobody_else_may_read_it(fleet: Ops, taken: Path) -> None:
    server = fleet.servers[0]
    assert (taken.stat().st_mode & 0o777, taken.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert fleet.sh(server, f"stat -c %a:%U {SNAPSHOTS} {SNAPSHOTS}/{taken.name}").split() == ["700:root", "600:root"]
    assert fleet.sh(server, f"sha256sum < {SNAPSHOTS}/{taken.name}").split()[0] == hashlib.sha256(taken.read_bytes()).hexdigest()
    with tarfile.open(taken) as tar:
        names = tar.getnames()
        manifest = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
    assert names[0] == "manifest.json"
    assert {"db/state.db", "server/token", "server/agent-token", "server/tls/server-ca.key", "node/password"} <= set(names)
    assert (manifest["datastore"], manifest["k3s_version"], manifest["fleet"]) == ("sqlite", OLD, fleet.name)
    assert manifest["node"] == server and manifest["marked"]
    assert fleet.sh(server, f"ls -A {SNAPSHOTS} | grep -v tar.gz || true") == "", "nothing half made is left"
    assert "server/token" not in fleet.sh(server, "journalctl -t python3 --no-pager -o cat || true")


@pytest.mark.full
def test_check_takes_none_and_retention_keeps_the_newest(fleet: Ops, taken: Path) -> None:
    server, known = fleet.servers[0], set(fleet.kept.glob("*"))
    assert [t["changed"] for t in fleet.snapshot("--check").require().of("Take a snapshot")] == [True]
    assert set(fleet.kept.glob("*")) == known
    for name in ("one", "two"):
        fleet.snapshot("-e", f"k3s_snapshot_name={name}", "-e", "k3s_snapshot_retention=2").require()
    assert set(fleet.sh(server, f"ls {SNAPSHOTS}").split()) == {"one.tar.gz", "two.tar.gz"}
    again = fleet.snapshot("-e", "k3s_snapshot_name=two").require()
    assert again.changed == set(), "a snapshot that has that name is kept as it is"
    for name in ("one", "two"):
        (fleet.kept / f"{name}.tar.gz").unlink()
    assert set(fleet.kept.glob("*")) == known


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("confirm", "-e confirm=lab-ops"),
        ("nothing", "Say which snapshot"),
        ("unknown", "There is no snapshot of-yesterday"),
        ("damaged", "damaged"),
        ("version", f"Restore it with -e k3s_version={OLD}"),
        ("limit", "not take part in this run"),
    ],
)
def test_refused_before_anything_is_stopped(fleet: Ops, taken: Path, tmp_path: Path, change: str, says: str) -> None:
    units, damaged = fleet.invocations(), tmp_path / "damaged.tar.gz"
    data = bytearray(taken.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)
    snapshot, args = str(taken), fleet.confirmed
    if change == "confirm":
        args = ()
    elif change in ("nothing", "unknown", "damaged"):
        snapshot = {"nothing": "", "unknown": "of-yesterday", "damaged": str(damaged)}[change]
    elif change == "version":
        args = (*args, "-e", "k3s_version=v1.34.3+k3s1", "-e", f"k3s_artifact_dir={tmp_path}")
    elif change == "limit":
        args = (*args, "--limit", fleet.workers[0])
    run = fleet.restore(snapshot, *args).require(2)
    assert says in " ".join(run.output.split())
    assert run.changed == set()
    assert fleet.invocations() == units
    assert "after" in fleet.configmaps()


@pytest.mark.full
def test_onto_the_same_server(fleet: Ops, taken: Path) -> None:
    check = fleet.restore(str(taken), "--check").require()
    assert "after" in fleet.configmaps()
    run = fleet.restore(str(taken), *fleet.confirmed).require()
    assert run.changed == check.changed
    assert_restored(fleet, run)
    aside = fleet.sh(fleet.servers[0], "ls -d /var/lib/rancher/k3s/server/replaced-*/db/state.db")
    assert aside.count("\n") == 1 and aside.split()[0].rsplit("/", 2)[0] in run.output, "the old state is kept, and it is said where"
    assert fleet.play().require().changed == set()


@pytest.mark.full
def test_killed_on_the_way_the_next_run_restores(fleet: Ops, taken: Path) -> None:
    kill_after(fleet, "Put the datastore of the snapshot in place", "playbooks/restore.yml", "-e", f"snapshot={taken}", *fleet.confirmed)
    assert_restored(fleet, fleet.restore(str(taken), *fleet.confirmed).require())
    assert fleet.play().require().changed == set()


def test_a_wiped_server_is_restored_while_no_worker_answers(fleet: Ops, taken: Path) -> None:
    """That no worker says that it had joined is no proof that none had, where the controller knows a cluster."""
    server = fleet.servers[0]
    fleet.wipe(server)
    with silent(fleet, *fleet.workers) as env:
        for args in ((), ("--limit", server)):
            run = fleet.play(*args, env=env)
            assert run.rc != 0 and run.changed == set()
            said = " ".join(run.output.split())
            assert f"{', '.join(fleet.workers)} did not answer" in said and "playbooks/restore.yml -e snapshot=latest" in said
            assert "k3s_force_init=true" in said
        restored = fleet.play("-e", f"snapshot={taken}", *fleet.confirmed, playbook="playbooks/restore.yml", env=env)
        assert "not reached, and left as they are" in " ".join(restored.output.split())
        assert restored.rc == 4, "two nodes did not take part"
        assert not restored.of("Verify that the node is in the restored cluster", fleet.workers[0])
    assert "before" in fleet.configmaps() and "after" not in fleet.configmaps()
    fleet.play().require()
    assert fleet.ready() == set(fleet.hosts)


def test_a_fresh_fleet_starts_while_a_worker_does_not_answer(fleet: Ops, tmp_path: Path) -> None:
    fleet.wipe()
    with silent(fleet, fleet.workers[0]) as env:
        run = fleet.play("-e", f"k3s_kubeconfig_path={tmp_path}/kubeconfig", env=env)
        assert run.rc != 0, "one node did not take part"
        assert fleet.ready() == {*fleet.hosts} - {fleet.workers[0]}
    fleet.play().require()
    assert fleet.ready() == set(fleet.hosts)
