# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy of .sops.yaml covers the files that hold secrets, no others, and names nobody who could read them unnoticed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets import check

ROOT = Path(__file__).resolve().parents[3]
RULES = yaml.safe_load((ROOT / ".sops.yaml").read_text())["creation_rules"]


@pytest.mark.parametrize(
    ("path", "secret"),
    [
        ("inventory/pi-cluster/group_vars/all/secrets.sops.yml", True),
        ("inventory/pi-cluster/host_vars/pi-cluster-1.local/tailscale.sops.yaml", True),
        ("stacks/web/app.sops.env", True),
        ("stacks/web/config/db.sops.json", True),
        ("cluster/base/observability/receivers.sops.yaml", True),
        ("docs/governance/reviews/2026-01-01-x/access.sops.md", True),
        ("secrets/hub.sops.yml", True),
        ("cluster/base/system/20-rbac.yaml", False),
        ("docs/governance/rebuild-drill-template.md", False),
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


def test_the_checkout_is_as_its_policy_says() -> None:
    report = check.check(check.files_of(ROOT), (ROOT / ".sops.yaml").read_text())
    assert report.findings == ()
    assert report.scanned > 20
    assert "placeholders" in report.notes[0]
