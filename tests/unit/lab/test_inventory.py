# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet that an inventory describes, and what a bad one gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import inventory

WHERE = Path("inventory/x")


def listing(**hosts: dict[str, Any]) -> dict[str, Any]:
    """Output of ``ansible-inventory --list`` with *hosts* spread over the two groups, the first of them the server."""
    names = [name.replace("_", "-") for name in hosts]
    return {
        "_meta": {"hostvars": dict(zip(names, hosts.values(), strict=True))},
        "k3s_cluster": {"children": ["control_plane", "workers"]},
        "control_plane": {"hosts": names[:1]},
        "workers": {"hosts": names[1:]},
    }


def node(address: str, **more: Any) -> dict[str, Any]:
    return {"ansible_host": address, "k3s_version": "v1.34.4+k3s1", **more}


def test_hosts_of_both_groups_with_their_settings() -> None:
    second = node("10.1.2.12", ansible_user="operator", ansible_become_password="x", k3s_data_dir="/srv/k3s", k3s_version="v1.34.5+k3s1")
    fleet = inventory.from_listing(listing(one=node("10.1.2.11"), two=second), "barn", WHERE)
    assert fleet.name == "barn"
    assert str(fleet.subnet) == "10.1.2.0/24"
    assert fleet.nodes == (
        inventory.Node("one", "10.1.2.11", "root", "", "/var/lib/rancher/k3s", "v1.34.4+k3s1"),
        inventory.Node("two", "10.1.2.12", "operator", "x", "/srv/k3s", "v1.34.5+k3s1"),
    )
    assert fleet.versions == ("v1.34.4+k3s1", "v1.34.5+k3s1")


def test_a_node_is_chosen_by_its_name_or_first_label() -> None:
    fleet = inventory.from_listing(listing(**{"pi_1.local": node("10.1.2.11"), "pi_2.local": node("10.1.2.12")}), "f", WHERE)
    assert [n.name for n in fleet.chosen([])] == ["pi-1.local", "pi-2.local"]
    assert [n.name for n in fleet.chosen(["pi-2"])] == ["pi-2.local"]
    with pytest.raises(PifleetError, match="no node pi-9"):
        fleet.chosen(["pi-9"])


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ({}, "k3s_cluster has no host"),
        ({"a": {"k3s_version": "v1.34.4+k3s1"}}, "a has no IPv4 address in ansible_host"),
        ({"a": node("pi.local")}, r"it is 'pi\.local'"),
        ({"a": node("10.1.2.11"), "b": node("10.1.2.11")}, "more than one host has the address 10.1.2.11"),
        ({"a": node("10.1.2.11"), "b": node("10.1.3.12")}, "b has the address 10.1.3.12, outside"),
        ({"a": {"ansible_host": "10.1.2.11"}}, "a has no k3s_version"),
        ({"a": node("10.1.2.11", ansible_become_password="{{ lookup('file', 'x') }}")}, "ansible_become_password of a is a template"),
    ],
)
def test_bad_inventory_gets_one_clear_error(hosts: dict[str, Any], said: str) -> None:
    with pytest.raises(PifleetError, match=said):
        inventory.from_listing(listing(**hosts), "f", WHERE)


def test_a_missing_inventory_is_named(tmp_path: Path) -> None:
    with pytest.raises(PifleetError, match="no such inventory"):
        inventory.load(tmp_path / "none")
