# SPDX-License-Identifier: GPL-3.0-or-later
"""Encrypted variables of an inventory as a run has them: decrypted by community.sops of requirements.yml, and by nothing of ours."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.integration.secrets.conftest import VALUE
from tests.support.controller import ROOT
from tests.support.secrets import Keys, SecretsFleet


def asked(fleet: SecretsFleet, **changed: str) -> subprocess.CompletedProcess[str]:
    """Ask Ansible for the variable."""
    argv = [
        ROOT / ".venv/bin/ansible",
        "one",
        "-i",
        fleet.folder / "inventory/f",
        "-m",
        "ansible.builtin.debug",
        "-a",
        "var=stacks_age_key",
    ]
    return subprocess.run(argv, cwd=ROOT, env={**fleet.decrypting, **changed}, capture_output=True, text=True, timeout=300, check=False)


def test_variables_are_decrypted_with_the_key_alone(fleet: SecretsFleet, ram: Path) -> None:
    fleet.write("inventory/f/hosts.yml", fleet.inventory)
    done = asked(fleet)
    assert done.returncode == 0 and f"stacks_age_key: {VALUE}" in done.stdout
    stranger = Keys(ram / "other")
    stranger.age()
    done = asked(fleet, **stranger.env)
    assert done.returncode != 0 and VALUE not in done.stdout and "secrets.sops.yml" in done.stderr
    # without the plugin a run has what stands in the file
    done = asked(fleet, ANSIBLE_VARS_ENABLED="host_group_vars")
    assert "stacks_age_key: ENC[" in done.stdout
