# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet's folder of each test's own, with real sops. No node is needed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.secrets import Keys, SecretsFleet

#: files of every form that sops has, by path
SAMPLES = {
    "inventory/f/group_vars/all/secrets.sops.yml": "stacks_age_key: {value}\nnested:\n  - {value}\n",
    "stacks/web/app.sops.env": "PASSWORD={value}\nOTHER=x\n",
    "stacks/web/app.sops.json": '{{"password": "{value}"}}',
    "stacks/web/app.sops.ini": "[a]\npassword = {value}\n",
    "stacks/web/blob.sops.bin": "{value}\x01\x02",
    "cluster/base/receiver.sops.yaml": "apiVersion: v1\nkind: Secret\nmetadata:\n  name: receiver\nstringData:\n  password: {value}\n",
    "docs/governance/access.sops.md": "# Access\n{value}\n",
    "secrets/hub.sops.yml": "hub_token: {value}\n",
}
VALUE = "correct-horse-battery-staple"


@pytest.fixture
def ram() -> Iterator[Path]:
    """A folder in RAM, where a person keeps private keys here."""
    folder = Path(tempfile.mkdtemp(prefix="pifleet-keys-", dir="/dev/shm"))
    yield folder
    for home in folder.glob("*/gnupg"):
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fleet(tmp_path: Path, ram: Path) -> SecretsFleet:
    """A folder with one encrypted file of each form, for one key of age."""
    made = SecretsFleet(tmp_path / "fleet", Keys(ram / "me"))
    made.policy(made.keys.age())
    for path, text in SAMPLES.items():
        made.encrypt(path, text.format(value=VALUE))
    return made
