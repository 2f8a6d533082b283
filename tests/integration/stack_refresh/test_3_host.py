# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker on the node: its settings, and packages from the controller's folder. With the real dockerd and the real apt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import TWO, Stacks

DAEMON = "/etc/docker/daemon.json"
POOL = [{"base": "10.213.0.0/16", "size": 24}]


def test_settings_of_others_stay_and_bad_ones_are_taken_back(stacks: Stacks) -> None:
    before = stacks.containers(TWO)
    stacks.sh(f"""echo '{{"labels": ["of=somebody"], "live-restore": true}}' >{DAEMON}; systemctl restart docker""", TWO)
    done = stacks.host(node=TWO, address_pools=POOL)
    assert [(c["kind"], c["reason"]) for c in done["plan"] if c["target"] in (DAEMON, "docker.service")] == [
        ("file", "differs"),
        ("unit", "config_changed"),
    ]
    kept = {"labels": ["of=somebody"], "live-restore": True, "default-address-pools": POOL}
    assert json.loads(stacks.sh(f"cat {DAEMON}", TWO)) == kept
    assert stacks.sh("docker info -f '{{json .Labels}}'", TWO).strip() == '["of=somebody"]'

    failed = stacks.host(node=TWO, address_pools=POOL, docker_config={"no-such-key": True})
    assert failed["failed"] and "does not start with the new settings" in failed["msg"] and "it runs again" in failed["msg"]
    assert json.loads(stacks.sh(f"cat {DAEMON}", TWO)) == kept
    assert stacks.containers(TWO) == before, "live-restore kept them, and the engine is back"
    again = stacks.host(node=TWO, address_pools=POOL, check=True)
    assert not [c for c in again["plan"] if c["target"] in (DAEMON, "docker.service")]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"address_pools": [{"base": "10.0.0.1/8", "size": 24}]}, "stacks_address_pools"),
        ({"folder": "../etc"}, "stacks_folder"),
        ({"repository": "https://me:secret@host/x"}, "holds a password"),
        ({"checkout": {"revision": "x", "commit_message": ""}}, "cannot be given"),
        ({"artifact_dir": "/nonexistent"}, "no folder of the controller"),
        ({"timer": True, "timer_interval": 1}, "stacks_timer_interval"),
    ],
)
def test_bad_input_is_one_clear_error(stacks: Stacks, options: dict[str, object], says: str) -> None:
    failed = stacks.host(node=TWO, **options)
    assert failed["failed"] and says in failed["msg"] and "secret" not in failed["msg"]
    assert "Traceback" not in str(failed)


def test_a_daemon_json_that_is_none(stacks: Stacks) -> None:
    stacks.sh(f"cp {DAEMON} /tmp/kept; echo '{{' >{DAEMON}", TWO)
    failed = stacks.host(node=TWO, address_pools=POOL)
    assert failed["failed"] and "is no JSON" in failed["msg"]
    stacks.sh(f"cp /tmp/kept {DAEMON}", TWO)


def test_packages_come_from_the_controllers_folder(stacks: Stacks, tmp_path: Path) -> None:
    """Compose is taken from the node and made a package of, as it would lie in the folder; then apt brings it back."""
    plugin = stacks.sh("dpkg -L docker-compose | grep cli-plugins/docker-compose", TWO).strip()
    stacks.sh(
        f"""set -e; rm -rf /srv/deb; mkdir -p /srv/deb/DEBIAN /srv/deb{plugin.rsplit("/", 1)[0]}; cp {plugin} /srv/deb{plugin}
        printf 'Package: docker-compose\\nVersion: 2.26.1-4\\nArchitecture: %s\\nMaintainer: A <a@example.org>\\nDescription: x\\n' \
            $(dpkg --print-architecture) >/srv/deb/DEBIAN/control
        dpkg-deb -Znone -b /srv/deb /srv >/dev/null; dpkg --remove docker-compose >/dev/null""",
        TWO,
        timeout=120,
    )
    name = stacks.sh("cd /srv; ls docker-compose_*.deb", TWO).strip()
    stacks.fetch(f"/srv/{name}", tmp_path / name, TWO)
    predicted = stacks.host(node=TWO, address_pools=POOL, artifact_dir=str(tmp_path), check=True)
    done = stacks.host(node=TWO, address_pools=POOL, artifact_dir=str(tmp_path))
    assert {"kind": "package", "target": "docker-compose", "reason": "missing"} in done["plan"]
    assert done["plan"] == predicted["plan"]
    assert stacks.sh("docker compose version --short", TWO).startswith("2.26.1")
    assert not stacks.host(node=TWO, address_pools=POOL, artifact_dir=str(tmp_path))["changed"]
