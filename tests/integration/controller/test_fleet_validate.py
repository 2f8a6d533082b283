# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventories as people write them, through ansible-playbook."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.controller import ROOT, Controller

VALIDATE = """
- name: Validate
  hosts: all
  gather_facts: false
  tasks:
    - name: Refuse an inventory that cannot work
      pifleet.ops.fleet_validate:
      run_once: true

    - name: Touch the nodes
      ansible.builtin.raw: "true"
"""
HOSTS = """
all:
  children:
    k3s_cluster:
      children:
        control_plane:
          hosts:
            pi-1.local: {ansible_host: 192.0.2.11}
        workers:
          hosts:
            pi-2.local: {ansible_host: 192.0.2.12, k3s_node_ip: pi-2.local}
            pi-3.local: {ansible_host: 192.0.2.12}
"""
VARS = """
k3s_version: v1.34.4+k3s1
k3s_join_timeout: soon
k3s_token: "sesame open"
k3s_artefact_dir: /srv
k3s_data_dir: "{{ nowhere }}/k3s"
k3s_node_labels:
  arch: "{{ pi_facts_result.pi.arch }}"
k3s_tls_san: ["{{ k3s_kubeconfig_context }}", "{{ k3s_node_labels.arch }}"]
k3s_no_proxy: "{{ groups.k3s_cluster | map('extract', hostvars, 'ansible_host') | list }}"
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    folder = tmp_path / "inventory"
    (folder / "group_vars").mkdir(parents=True)
    (folder / "hosts.yml").write_text(HOSTS)
    (folder / "group_vars" / "k3s_cluster.yml").write_text(VARS)
    return folder


def test_all_is_told_at_once_with_file_and_line_also_outside_of_the_limit(controller: Controller, inventory: Path) -> None:
    played = controller.play(VALIDATE, "--limit", "pi-1.local", inventory=inventory)
    assert played.rc == 2
    said = " ".join(played.out.split())
    place = f"{inventory}/group_vars/k3s_cluster.yml"
    for text in (
        "cannot work, for 6 reasons. Nothing was touched.",
        f"[all 3 hosts] k3s_join_timeout ({place}:3): is refused",
        f"[all 3 hosts] k3s_token ({place}:4): has characters that a token cannot have",
        f"[all 3 hosts] k3s_artefact_dir ({place}:5): is no variable of this collection. Did you mean k3s_artifact_dir?",
        f"[all 3 hosts] k3s_data_dir ({place}:6): cannot be resolved: 'nowhere' is undefined",
        f"[pi-2.local] k3s_node_ip ({inventory}/hosts.yml:11): is 'pi-2.local', which is no address",
        "[pi-2.local, pi-3.local] ansible_host: hosts have the same address 192.0.2.12",
    ):
        assert text in said, text
    assert "sesame" not in played.out
    assert "Touch the nodes" not in played.out
    played.assert_clear()
    assert controller.play(VALIDATE, "--limit", "pi-1.local", inventory=inventory).out == played.out, "deterministic"


@pytest.mark.parametrize("name", ["pi-cluster", "lab"])
def test_inventories_of_the_checkout_are_accepted(controller: Controller, name: str, tmp_path: Path) -> None:
    played = controller.play(
        VALIDATE.split("    - name: Touch")[0], "-e", f"k3s_artifact_dir={tmp_path}", inventory=ROOT / "inventory" / name
    )
    assert played.rc == 0, played.out
    assert played.changed == 0


def test_extra_variables_are_validated_too(controller: Controller) -> None:
    played = controller.play(VALIDATE, "-e", "k3s_version=latest", inventory=ROOT / "inventory" / "pi-cluster")
    assert played.rc == 2
    assert "k3s_version: is 'latest', which is no version of k3s" in " ".join(played.out.split())


@pytest.mark.parametrize("hosts", ["all:\n  hosts:\n    lonely:\n", "all:\n  children:\n    k3s_cluster:\n      hosts: {a: }\n"])
def test_inventory_without_the_groups_is_told(controller: Controller, tmp_path: Path, hosts: str) -> None:
    (tmp_path / "other.yml").write_text(hosts)
    played = controller.play(VALIDATE, inventory=tmp_path / "other.yml")
    assert played.rc == 2
    assert "group control_plane: has no host" in " ".join(played.out.split())
    played.assert_clear()
