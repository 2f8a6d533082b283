# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/secrets_check.yml on files that sops itself has encrypted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.secrets.conftest import SAMPLES, VALUE
from tests.support.controller import ROOT
from tests.support.secrets import Keys, SecretsFleet

ENV, YML = "stacks/web/app.sops.env", "inventory/f/group_vars/all/secrets.sops.yml"


def test_what_sops_encrypted_by_the_policy_is_as_the_policy_says(fleet: SecretsFleet) -> None:
    rc, found = fleet.check()
    assert (rc, found["findings"]) == (0, [])
    late = "Not rotated within 90 days, says the ledger: data_keys (never), k3s_token (never), k3s_agent_token (never)."
    assert found["notes"] == [late]
    assert found["encrypted"] == sorted(SAMPLES)
    assert all(VALUE in (fleet.decrypt(path) or "") for path in SAMPLES)
    played = fleet.play("secrets_check", "--check", "--diff")
    assert (played.rc, played.changed) == (0, 0)
    assert f"{len(SAMPLES)} encrypted and" in played.out and "all is as the policy says" in played.out


def test_all_ways_to_differ_at_once_each_by_file_and_rule(fleet: SecretsFleet, ram: Path) -> None:
    other = Keys(ram / "other")
    stranger, gnupg = other.age(), other.gnupg("somebody")
    # in clear text; one value, one comment beside encrypted ones; for somebody else; for nobody's rule
    fleet.write("stacks/web/plain.sops.env", f"PASSWORD={VALUE}\n")
    app = fleet.folder / ENV
    app.write_text(re.sub(r"^PASSWORD=.*$", f"PASSWORD={VALUE}", app.read_text(), flags=re.M))
    secrets = fleet.folder / YML
    secrets.write_text(f"# {VALUE}\n{secrets.read_text()}")
    fleet.keys.trust(other, gnupg)
    for option, who, path in (("--add-age", stranger, "stacks/web/app.sops.json"), ("--add-pgp", gnupg, "secrets/hub.sops.yml")):
        done = fleet.sops("rotate", "--in-place", option, who, path)
        assert done.returncode == 0, done.stderr
    fleet.write("docs/stray.sops.md", (fleet.folder / "docs/governance/access.sops.md").read_text())
    fleet.write("cluster/base/plain.yaml", f"kind: Secret\nstringData:\n  a: {VALUE}\n")
    fleet.write("stacks/db/compose.yaml", f"services:\n  db:\n    environment:\n      POSTGRES_PASSWORD: {VALUE}\n")
    fleet.write("stacks/web/app.json", "{}")
    assert sorted(fleet.rules()) == [
        ("cluster/base/plain.yaml", "kubernetes_secret"),
        ("docs/stray.sops.md", "no_rule"),
        (YML, "partly_encrypted"),
        ("secrets/hub.sops.yml", "wrong_recipient"),
        ("stacks/db/compose.yaml", "detected_secret"),
        ("stacks/web/app.json", "plain_copy"),
        (ENV, "partly_encrypted"),
        ("stacks/web/app.sops.json", "wrong_recipient"),
        ("stacks/web/plain.sops.env", "not_encrypted"),
    ]
    played = fleet.play("secrets_check", "-vvv")
    assert played.rc == 2
    played.assert_clear()
    assert VALUE not in played.out
    assert f"can be read by {stranger}, whom rule 2 of .sops.yaml does not name" in played.out
    assert gnupg in played.out
    assert "9 findings" in played.out


@pytest.mark.full
def test_policies_that_cannot_work_are_refused(fleet: SecretsFleet) -> None:
    whole = (fleet.folder / ".sops.yaml").read_text()
    for text in ("creation_rules: []\n", "creation_rules:\n  - path_regex: ^stacks/\n", whole.replace("age: age1", "agee: age1")):
        fleet.write(".sops.yaml", text)
        assert fleet.rules() == [(".sops.yaml", "policy")]
    (fleet.folder / ".sops.yaml").unlink()
    assert fleet.rules() == [(".sops.yaml", "policy")]
    fleet.write(".sops.yaml", (ROOT / ".sops.yaml").read_text())
    assert {rule for _path, rule in fleet.rules()} == {"policy"}


def test_what_git_ignores_is_nobodys_secret(fleet: SecretsFleet) -> None:
    fleet.write(".pifleet/x.sops.yml", "a: b\n")
    fleet.write(".gitignore", ".pifleet/\n*.env\n")
    fleet.write("stacks/web/app.env", f"PASSWORD={VALUE}\n")
    assert fleet.rules() == []
