# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference fleet's own stacks on a node: read by Compose, with stand-ins for the images that only a registry has."""

from __future__ import annotations

import json
import os
import subprocess

import yaml

from tests.support.fleet import BIN, ROOT

from .conftest import TWO, Stacks

#: the ports that the stand-ins serve on
PORTS = {"pihole": "80", "proxy": "8080", "home-assistant": "8123"}


def test_they_come_up_healthy_and_stay_so(stacks: Stacks) -> None:
    images = {
        service["image"]: PORTS[folder]
        for folder in PORTS
        for service in yaml.safe_load((ROOT / "stacks" / folder / "compose.yaml").read_text())["services"].values()
    }
    named = [word for image, port in images.items() for word in ("--as", f"{image}={port}")]
    stacks.fleet.lab("load-images", "-i", str(stacks.fleet.inventory), *named, TWO)
    stacks.copy(ROOT / "stacks", "/srv/reference", TWO)
    where = {"path": "/srv/reference", "state_dir": "/srv/reference-state"}
    options = {**where, "node_name": "pi-cluster-4.local", "owner": "release/reference"}
    env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    folder = stacks.state.path.parent / "answers"
    for changed in (True, False):
        argv = [BIN / "ansible", TWO, "-i", stacks.fleet.inventory, "-b", "-m", "pifleet.ops.stack_reconcile", "-a", json.dumps(options)]
        subprocess.run([*argv, "-t", folder], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=False)
        done = json.loads((folder / TWO).read_text())
        found = {s["name"]: (s["status"], s["last_error"]) for s in done.get("stacks", [])}
        assert found == dict.fromkeys(PORTS, ("synced", "")), done
        assert done["changed"] is changed
    health = stacks.sh("docker ps --format '{{.Label \"com.docker.compose.project\"}} {{.Status}}'", TWO)
    assert all(any(line.startswith(name) and "(healthy)" in line for line in health.splitlines()) for name in PORTS), health
    for name in PORTS:
        stacks.sh(f"docker compose -p {name} down --volumes", TWO, timeout=120)
