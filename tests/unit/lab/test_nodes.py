# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node's container is given."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from lab import nodes
from lab.inventory import Fleet, Node

NODE = Node("pi-1.local", "10.1.2.11", "pi", "", "/var/lib/rancher/k3s", "v1.34.4+k3s1")
FLEET = Fleet("barn", Path("inventory/barn"), ipaddress.IPv4Network("10.1.2.0/24"), (NODE,))


def test_folders_of_container_layers_are_volumes() -> None:
    assert nodes.volumes(NODE) == list(nodes.LAYERS)


def test_another_data_folder_can_be_removed_since_its_parent_is_the_volume() -> None:
    elsewhere = Node("pi-1.local", "10.1.2.11", "pi", "", "/srv/k3s/", "v1.34.4+k3s1")
    assert nodes.volumes(elsewhere) == [*nodes.LAYERS, "/srv"]


def test_the_clock_right_is_never_given_and_a_missing_one_not_asked_for() -> None:
    with_all = "CapBnd:\t000001ffffffffff\n"
    without = f"CapBnd:\t{0x1FFFFFFFFFF & ~(1 << nodes.SYS_RESOURCE):016x}\n"
    assert nodes.rights(with_all) == ["--cap-add", "ALL", "--cap-drop", "SYS_TIME"]
    assert nodes.rights(without) == ["--cap-add", "ALL", "--cap-drop", "SYS_TIME", "--cap-drop", "SYS_RESOURCE"]


def test_the_container_has_the_inventory_s_address_and_the_fleet_s_labels() -> None:
    line = nodes.run_arguments(FLEET, NODE, "image:1", "ssh-ed25519 AAAA", "", Path("/cache/components"))
    text = " ".join(line)
    assert "--name pifleet-barn-pi-1.local" in text
    assert "--network pifleet-barn --ip 10.1.2.11" in text
    assert "--label pifleet.lab=barn --label pifleet.lab.node=pi-1.local" in text
    assert "--volume /cache/components:/opt/k3s-standin:ro" in text
    assert line[-1] == "image:1"


def test_a_sudo_password_is_not_among_the_container_s_settings() -> None:
    hashed = nodes.password_hash("lab-only")
    assert hashed.startswith("$6$")
    assert "lab-only" not in hashed
    assert nodes.password_hash("") == ""
