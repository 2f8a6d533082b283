# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-playbook killed at every step of an upgrade and of a restore: one re-run always ends well. Only in the whole suite."""

from __future__ import annotations

import pytest

from tests.integration.k3s_ops.conftest import NEW, Ops, kill_after

pytestmark = pytest.mark.full
UPGRADE = [
    "Take a snapshot",
    "Copy the release",
    "Take the node out of service",
    "Install the server and start it",
    "Wait until the server is up",
    "Install the agent and start it",
    "Verify the version that runs",
]
RESTORE = [
    "Copy the snapshot to the server",
    "Stop the agents",
    "Put the datastore of the snapshot in place",
    "Install the server and start it",
    "Let the nodes register",
    "Install the agent and start it",
]


@pytest.mark.parametrize("task", UPGRADE)
def test_one_run_after_a_kill_finishes_the_upgrade(old: Ops, task: str) -> None:
    kill_after(old, task, "playbooks/upgrade.yml", "-e", f"k3s_version={NEW}")
    old.upgrade(NEW).require()
    assert set(old.versions().values()) == {NEW}
    assert old.ready() == set(old.hosts) and not old.cordoned()
    assert old.upgrade(NEW).require().changed == set()


@pytest.mark.parametrize("task", RESTORE)
def test_one_run_after_a_kill_finishes_the_restore(old: Ops, task: str) -> None:
    old.snapshot().require()
    old.kubectl("create", "configmap", "after", "--from-literal=a=b")
    kill_after(old, task, "playbooks/restore.yml", "-e", "snapshot=latest", *old.confirmed)
    old.restore("latest", *old.confirmed).require()
    assert "after" not in old.configmaps()
    assert old.ready() == set(old.hosts)
    assert old.play().require().changed == set()
