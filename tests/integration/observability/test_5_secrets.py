# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of receivers in a SOPS file of the inventory, which the vars plugin of community.sops decrypts in the run, and nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.observability.conftest import HOST, RECEIVERS, TOKEN, Watch
from tests.support.fleet import Run
from tests.support.secrets import Keys, SecretsFleet

pytestmark = pytest.mark.full

WHERE = "inventory/f/group_vars/k3s_cluster/secrets.sops.yml"


@pytest.fixture(scope="module")
def secrets(observed: Watch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecretsFleet]:
    """A second inventory of the fleet, with nothing but the encrypted file."""
    keys = Keys(Path(f"/dev/shm/pifleet-test-{os.getpid()}"))
    found = SecretsFleet(tmp_path_factory.mktemp("secrets") / "fleet", keys)
    found.write("inventory/f/hosts.yml", "k3s_cluster: {}\n")
    found.policy(keys.age())
    receivers = {name: f"{observed.receiver.base}/{name}?by=sops" for name in RECEIVERS}
    found.encrypt(WHERE, yaml.safe_dump({"observability_receivers": receivers}))
    yield found
    subprocess.run(["rm", "-rf", keys.home], check=True)


def run(observed: Watch, secrets: SecretsFleet, playbook: str, key: Path) -> Run:
    decrypting = secrets.decrypting
    wanted = ("ANSIBLE_COLLECTIONS_PATH", "ANSIBLE_VARS_ENABLED", "PATH")
    env = {**{name: decrypting[name] for name in wanted}, "SOPS_AGE_KEY_FILE": str(key)}
    settings = ("-i", str(secrets.folder / "inventory/f"), "-e", f"fleet_root={observed.folder}")
    return observed.play(*settings, playbook=f"playbooks/{playbook}.yml", env=env)


def test_without_the_key_nothing_is_touched(observed: Watch, secrets: SecretsFleet) -> None:
    done = run(observed, secrets, "observability", secrets.keys.home / "none")
    assert done.rc != 0 and "sops" in done.output
    assert done.tasks == [] or not done.changed


def test_receivers_are_decrypted_and_alerts_come_to_them(observed: Watch, secrets: SecretsFleet) -> None:
    assert TOKEN not in (secrets.folder / WHERE).read_text()
    brought = run(observed, secrets, "observability", secrets.keys.home / "keys.txt").require()
    assert {host for host, _task in brought.changed} == {HOST}
    files = {name: observed.sh(HOST, f"cat /etc/alertmanager/secrets/alertmanager-receivers/{name}").strip() for name in RECEIVERS}
    assert files == {name: f"{observed.receiver.base}/{name}?by=sops" for name in RECEIVERS}
    before = len(observed.receiver.messages["critical?by=sops"])
    tested = run(observed, secrets, "alert_test", secrets.keys.home / "keys.txt").require()
    assert len(observed.receiver.messages["critical?by=sops"]) > before
    assert TOKEN not in brought.output + tested.output
    # the ledger with its bodies, facts, and what else runs leave on the controller
    assert subprocess.run(["grep", "-rl", TOKEN, observed.folder, secrets.folder], capture_output=True, text=True, check=False).stdout == ""
    assert run(observed, secrets, "observability", secrets.keys.home / "keys.txt").require().changed == set()
