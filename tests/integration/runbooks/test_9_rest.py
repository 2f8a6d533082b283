# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups, another version, the way out, and the README at the end: its last command stops the lab."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import paths
from tests.integration.runbooks.conftest import NODE
from tests.support.checkout import Checkout
from tests.support.fleet import Fleet
from tests.support.pages import Story

OLD, NEW = "v1.34.4+k3s1", "v1.34.5+k3s1"


def versions(fleet: Fleet) -> set[str]:
    return {node["status"]["nodeInfo"]["kubeletVersion"] for node in fleet.nodes().values()}


def configmaps(fleet: Fleet) -> set[str]:
    return {item["metadata"]["name"] for item in json.loads(fleet.kubectl("get", "configmaps", "-o", "json"))["items"]}


@pytest.mark.full
def test_snapshot_and_restore(tell: Callable[..., Story], checkout: Checkout, fleet: Fleet, tmp_path: Path) -> None:
    disk = tmp_path / "before-the-move.tar.gz"
    with tell("docs/runbooks/snapshot-restore.md", **{"/mnt/usb/before-the-move.tar.gz": str(disk)}) as page:
        page.run("before-the-move")
        page.run("ansible-playbook playbooks/snapshot.yml")
        fleet.kubectl("create", "configmap", "made-later")
        page.run("--check")
        assert "made-later" in configmaps(fleet)
        page.run("snapshot=latest -e confirm=lab")
        assert "made-later" not in configmaps(fleet)
        page.run("snapshot=before-the-move")
        (kept,) = (checkout.folder / ".pifleet/snapshots/lab").glob("before-the-move*.tar.gz")
        disk.write_bytes(kept.read_bytes())
        page.run("/mnt/usb")
        page.run("k3s_version=")
        page.run("ansible-playbook site.yml --limit NODE")
        page.run("ansible-playbook site.yml")
    assert fleet.ready() == set(fleet.hosts)


@pytest.mark.full
def test_upgrade(tell: Callable[..., Story], checkout: Checkout, fleet: Fleet) -> None:
    fleet.lab("prepare", "-i", "inventory/lab-second")  # a fleet with the newer version
    with tell("docs/runbooks/upgrade.md") as page:
        page.run("--check --diff")
        assert versions(fleet) == {OLD}
        page.run("upgrade.yml")
        assert versions(fleet) == {NEW}
    settings = checkout.inventory / "group_vars/k3s_cluster.yml"
    settings.write_text(settings.read_text().replace(f"k3s_version: {OLD}", f"k3s_version: {NEW}"))
    checkout.commit("The version that runs")


@pytest.mark.full
def test_reset(tell: Callable[..., Story], checkout: Checkout, fleet: Fleet) -> None:
    with tell("docs/runbooks/reset.md") as page:
        page.run("--check --diff")
        assert fleet.ready() == set(fleet.hosts)
        page.run("--limit")
        assert fleet.ready() == set(fleet.hosts) - {NODE}
        page.run("confirm=lab")
        assert fleet.sh(fleet.servers[0], "command -v k3s", check=False) == ""
    assert checkout.shell("ansible-playbook site.yml")[0] == 0


@pytest.mark.full
def test_readme(tell: Callable[..., Story], fleet: Fleet) -> None:
    kubectl = next((paths.cache() / "components").glob(f"*/{OLD}/kubectl")).parent
    with tell("README.md", env={"PATH": f"{kubectl}:{Path(fleet.inventory).parents[3] / '.venv/bin'}:{os.environ['PATH']}"}) as page:
        # the same stand in the runbook of the bootstrap, whose story executes them
        page.take("make site INVENTORY=inventory/my-fleet")
        page.take("make site INVENTORY=inventory/my-fleet ARGS=")
        # what CI runs, and this test is part of
        page.take("make test")
        page.run("make site")
        page.run("ansible-playbook site.yml")
        nodes = page.run("kubectl")
        assert all(host in nodes for host in fleet.hosts)
        page.run("collection build")
        page.run("make down")
    left = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"name=pifleet-{fleet.inventory.name}-"], capture_output=True, text=True, check=True
    )
    assert left.stdout == ""
