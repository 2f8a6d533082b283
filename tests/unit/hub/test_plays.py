# SPDX-License-Identifier: GPL-3.0-or-later
"""The hub's playbooks through the real ansible-runner: what a task returned, or why a host did not answer, comes back."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.pifleet.ops.hub.plays import Runner

from tests.support.ports import free_port


def test_host_that_does_not_answer_comes_back_with_its_reason(tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(f"k3s_cluster:\n  hosts:\n    gone: {{ansible_host: 127.0.0.1, ansible_port: {free_port()}}}\n")
    before = set(os.listdir(tmp_path))
    played = Runner(tmp_path, (str(inventory),))("stacks_status.yml", {})
    assert not played.ok
    assert [(one.host, one.action, one.ok) for one in played.results] == [("gone", "pifleet.ops.stack_info", False)]
    assert played.problem().startswith("gone: ")
    assert "refused" in played.problem()
    assert set(os.listdir(tmp_path)) == before, "nothing of it is left in the fleet's folder"


def test_playbook_that_cannot_be_run_is_said(tmp_path: Path) -> None:
    assert (
        Runner(tmp_path, (str(tmp_path / "none"),))("none.yml", {}).problem() == "The playbook could not be run; the hub's log says more."
    )
