# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference fleet's own stacks keep to what the documentation advises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
STACKS = sorted(path.parent for folder in ("stacks", "lab/stacks") for path in (ROOT / folder).glob("*/compose.yaml"))
HOSTS = yaml.safe_load((ROOT / "inventory/pi-cluster/hosts.yml").read_text())["all"]["children"]["k3s_cluster"]["children"]
#: a digest, or a version down to its last number
PINNED = re.compile(r"[\w.-]+(:\d+)?(/[\w.-]+)+(@sha256:[0-9a-f]{64}|:v?\d+\.\d+(\.\d+)(-\w+)?|:\d)")


@pytest.fixture(params=STACKS, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def services(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "compose.yaml").read_text())["services"])


def test_there_are_three_for_the_reference_fleet() -> None:
    assert len([path for path in STACKS if path.parent.name == "stacks" and path.parent.parent == ROOT]) == 3


def test_it_says_where_it_runs(folder: Path) -> None:
    """So that another fleet with this checkout runs none of them before somebody chooses."""
    nodes = yaml.safe_load((folder / "compose.yaml").read_text())["x-pifleet"]["nodes"]
    assert set(nodes) <= {name for group in HOSTS.values() for name in group["hosts"]}


def test_images_are_pinned_health_is_checked_and_memory_is_limited(services: dict[str, Any]) -> None:
    for service in services.values():
        assert PINNED.fullmatch(service["image"]), service["image"]
        assert service["healthcheck"]["test"]
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
        assert service["restart"] == "unless-stopped"


def test_what_is_mounted_is_there(folder: Path, services: dict[str, Any]) -> None:
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (folder / source).is_file(), volume
