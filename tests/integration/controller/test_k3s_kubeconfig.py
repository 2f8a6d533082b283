# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetching a kubeconfig through ansible-playbook: check, apply, check, apply; and servers that have none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import credentials

from tests.support.controller import Controller

FETCH = """
- name: Fetch the kubeconfig
  hosts: one
  gather_facts: false
  tasks:
    - name: Merge it
      pifleet.ops.k3s_kubeconfig:
        path: "{{ fleet_root }}/home/.kube/config"
        context: "{{ context | default('fleet') }}"
        server: "{{ server | default('https://192.0.2.10:6443') }}"
        src: "{{ src | default(fleet_root ~ '/k3s.yaml') }}"
        credentials_sha256: "{{ digest | default('') }}"
        ca_sha256: "{{ ca | default('') }}"
      delegate_to: two
"""
KEY = "VGhlIHNlY3JldCBrZXk="
K3S = f"""
apiVersion: v1
kind: Config
clusters: [{{name: default, cluster: {{certificate-authority-data: Q0E=, server: "https://127.0.0.1:6443"}}}}]
contexts: [{{name: default, context: {{cluster: default, user: default}}}}]
users: [{{name: default, user: {{client-certificate-data: Q0VSVA==, client-key-data: {KEY}}}}}]
current-context: default
"""


@pytest.fixture
def config(controller: Controller) -> Path:
    (controller.folder / "k3s.yaml").write_text(K3S)
    return controller.folder / "home" / ".kube" / "config"


def test_check_apply_check_apply(controller: Controller, config: Path) -> None:
    seen, diffs = [], []
    for check in ("--check", "", "--check", ""):
        played = controller.play(FETCH, "--diff", *filter(None, [check]))
        assert played.rc == 0, played.out
        assert KEY not in played.out
        diffs.append(played.out.split("TASK")[1].split("PLAY RECAP")[0])
        seen.append((played.changed, config.exists()))
    assert seen == [(1, False), (1, True), (0, True), (0, True)]
    assert diffs[0] == diffs[1], "predicted as it was done"
    data = yaml.safe_load(config.read_text())
    assert (data["current-context"], data["clusters"][0]["cluster"]["server"]) == ("fleet", "https://192.0.2.10:6443")
    assert data["users"][0]["user"]["client-key-data"] == KEY
    assert config.stat().st_mode & 0o777 == 0o600


def test_credentials_that_are_there_already_are_not_asked_for(controller: Controller, config: Path) -> None:
    controller.play(FETCH)
    digest = credentials.digest(dict(zip(credentials.KEYS, ("Q0E=", "Q0VSVA==", KEY), strict=True)))
    known = controller.play(FETCH, "-e", f"digest={digest}", "-e", "src=/nonexistent/k3s.yaml")
    assert (known.rc, known.changed) == (0, 0), known.out
    moved = controller.play(FETCH, "-e", f"digest={digest}", "-e", "src=/nonexistent/k3s.yaml", "-e", "server=https://192.0.2.20:6443")
    assert (moved.rc, moved.changed) == (0, 1), moved.out
    other = controller.play(FETCH, "-e", f"digest={'0' * 64}", "-e", "src=/nonexistent/k3s.yaml")
    assert other.rc == 2


def test_another_authority_that_is_about_to_come_is_predicted(controller: Controller, config: Path) -> None:
    controller.play(FETCH)
    same, other = hashlib.sha256(b"CA").hexdigest(), "0" * 64
    seen = [controller.play(FETCH, *check, "-e", f"ca={ca}").changed for ca in (same, other) for check in (("--check",), ())]
    assert seen == [0, 0, 1, 0], "without --check what the server has is what it has"


def test_second_fleet_beside_the_first(controller: Controller, config: Path) -> None:
    controller.play(FETCH)
    controller.play(FETCH, "-e", "context=other", "-e", "server=https://192.0.2.20:6443")
    data = yaml.safe_load(config.read_text())
    assert [c["name"] for c in data["contexts"]] == ["fleet", "other"]
    assert data["current-context"] == "fleet"


def test_server_without_k3s(controller: Controller, config: Path) -> None:
    predicted = controller.play(FETCH, "--check", "-e", "src=/nonexistent/k3s.yaml")
    assert (predicted.rc, predicted.changed) == (0, 1)
    played = controller.play(FETCH, "-e", "src=/nonexistent/k3s.yaml")
    assert played.rc == 2
    assert "/nonexistent/k3s.yaml of two does not exist" in " ".join(played.out.split())
    played.assert_clear()
    assert not config.exists()


def test_file_that_cannot_be_merged_into_is_left_alone(controller: Controller, config: Path) -> None:
    config.parent.mkdir(parents=True)
    config.write_text("a: [")
    for check in (["--check"], []):
        played = controller.play(FETCH, *check)
        assert played.rc == 2
        assert "is no valid YAML" in played.out
        played.assert_clear()
    assert config.read_text() == "a: ["


def test_address_that_is_none(controller: Controller, config: Path) -> None:
    played = controller.play(FETCH, "-e", "server=192.0.2.1")
    assert played.rc == 2
    assert "is no address of an API" in played.out
    assert not config.exists()
