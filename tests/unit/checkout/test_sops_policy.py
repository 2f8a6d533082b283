# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy of .sops.yaml covers the files that hold secrets, no others, and names nobody who could read them unnoticed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
RULES = yaml.safe_load((ROOT / ".sops.yaml").read_text())["creation_rules"]


@pytest.mark.parametrize(
    ("path", "secret"),
    [
        ("inventory/pi-cluster/group_vars/all/secrets.sops.yml", True),
        ("inventory/pi-cluster/host_vars/pi-cluster-1.local/secrets-tailscale.sops.yaml", True),
        ("stacks/web/secrets.sops.env", True),
        ("stacks/web/config/secrets-db.sops.json", True),
        ("inventory/pi-cluster/hosts.yml", False),
        ("inventory/pi-cluster/group_vars/all/secrets.yml", False),
        ("stacks/web/compose.yml", False),
        ("docs/secrets.sops.yml", False),
    ],
)
def test_rules_match_secrets_only(path: str, secret: bool) -> None:
    assert any(re.search(rule["path_regex"], path) for rule in RULES) is secret


def test_placeholders_are_no_keys() -> None:
    bech32 = re.compile(r"age1[02-9ac-hj-np-z]{58}")
    keys = [key.strip() for rule in RULES for key in rule["age"].split(",")]
    assert keys
    assert not [key for key in keys if bech32.fullmatch(key)]


def test_no_tracked_secret_file_is_in_clear_text() -> None:
    paths = [p for folder in ("inventory", "stacks") for p in (ROOT / folder).rglob("secrets*.sops.*")]
    assert [p for p in paths if "ENC[" not in p.read_text() and "sops" not in p.read_text()] == []
