# SPDX-License-Identifier: GPL-3.0-or-later
"""The service pifleet-hub as the role hub installs it, under a real systemd: in the order in which a controller lives."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import ApiTokens

from tests.integration.sync_service.conftest import Controller
from tests.support.controller import Played
from tests.support.fix_runs import COMPOSE, PROFILE, REQUIREMENTS
from tests.support.release_fleet import Repository

UNIT = "/root/.config/systemd/user/pifleet-hub.service"
PORT = 8471
#: the controller is its own node here, on which no Docker runs
INVENTORY = f"""
all:
  children:
    k3s_cluster:
      children:
        control_plane:
          hosts:
            one: {{}}
      vars:
        ansible_connection: local
        ansible_python_interpreter: {sys.executable}
        fleet_name: fleet-1
        k3s_version: v1.34.4+k3s1
        evidence_anchor: false
"""
ASKS = """
import json, sys, urllib.error, urllib.request
method, path, token, content = sys.argv[1:]
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:PORT" + path, content.encode() or None, headers, method=method)
try:
    print(urllib.request.urlopen(request, timeout=30).read().decode())
except urllib.error.HTTPError as error:
    sys.exit(error.read().decode())
"""


@pytest.fixture(scope="module")
def fleet(controller: Controller) -> Iterator[Controller]:
    """With a repository, in which there is a service to repair."""
    repository = Repository(controller.folder)
    repository.write(".gitignore", ".pifleet/\nvar/\ntoken\nhosts.yml\nevidence.yml\n")
    repository.write("nodes.yml", INVENTORY)
    repository.write("asks.py", ASKS.replace("PORT", str(PORT)))
    repository.write_yaml("fix_profiles/web.yml", {**PROFILE, "node": "one"})
    repository.write("stacks/shop/compose.yaml", COMPOSE)
    repository.write("stacks/shop/web/requirements.txt", REQUIREMENTS)
    repository.commit()
    yield controller
    controller.play("hub", "mode=uninstall", hosts="nodes.yml")


@pytest.fixture(scope="module")
def token(fleet: Controller) -> str:
    return ApiTokens(fleet.store).add("alice", "operator", "alice", timedelta(days=1))


def hub(fleet: Controller, *words: str) -> Played:
    return fleet.play("hub", f"hub_port={PORT}", *words, hosts="nodes.yml")


def pid(fleet: Controller) -> int:
    return int(fleet.user("show --property MainPID --value pifleet-hub.service"))


def is_well(fleet: Controller) -> bool:
    asked = fleet.sh(f"python {fleet.folder}/asks.py GET /healthz '' ''")
    return asked.rc == 0 and json.loads(asked.out) == {"status": "ok"}


def ask(fleet: Controller, token: str, method: str, path: str, content: str = "") -> Any:
    asked = fleet.sh(f"python {fleet.folder}/asks.py {method} '{path}' {token} '{content}'")
    assert asked.rc == 0, asked.out
    return json.loads(asked.out)


def test_check_predicts_the_installation_and_does_nothing(fleet: Controller) -> None:
    played = hub(fleet, "mode=install", "--check")
    assert (played.rc, played.changed > 0) == (0, True), played.out
    assert fleet.sh(f"test -e {UNIT}").rc != 0


def test_installed_it_answers_and_is_confined(fleet: Controller) -> None:
    played = hub(fleet, "mode=install")
    assert (played.rc, played.changed > 0) == (0, True), played.out
    assert fleet.user("is-enabled pifleet-hub.service") == "enabled"
    fleet.eventually(lambda: is_well(fleet))
    assert fleet.user("show --property NoNewPrivileges --value pifleet-hub.service") == "yes"
    assert "NoNewPrivs:\t1" in fleet.sh(f"cat /proc/{pid(fleet)}/status").out
    before = pid(fleet)
    for words in (["--check"], []):
        played = hub(fleet, "mode=install", *words)
        assert (played.rc, played.changed) == (0, 0), played.out
    assert pid(fleet) == before


def test_confined_it_runs_playbooks_and_fix_runs(fleet: Controller, token: str) -> None:
    ask(fleet, token, "POST", "/api/refresh")
    fleet.eventually(lambda: ask(fleet, token, "GET", "/api/refresh-status")["ended_at"])
    (node,) = ask(fleet, token, "GET", "/api/nodes")["items"]
    assert node["node"] == "one"
    run = ask(fleet, token, "POST", "/orchestrator/runs", json.dumps({"target_service": "web", "instruction": "bump flask to 3.0.1"}))
    assert (run["status"], run["requester"]) == ("pending", "alice")
    path = f"/orchestrator/runs/{run['id']}"
    fleet.eventually(lambda: ask(fleet, token, "GET", path)["ended_at"])
    ended = ask(fleet, token, "GET", path)
    assert (ended["status"], ended["interrupted"], ended["reason"].partition(":")[0]) == ("failed", False, "analyze"), json.dumps(ended)


def test_killed_and_restarted_it_is_back_with_its_tokens(fleet: Controller, token: str) -> None:
    before = pid(fleet)
    fleet.sh(f"kill -9 {before}")
    fleet.eventually(lambda: pid(fleet) not in (0, before) and is_well(fleet))
    before = pid(fleet)
    assert fleet.sh("systemctl --user restart pifleet-hub.service").rc == 0
    assert pid(fleet) != before
    fleet.eventually(lambda: is_well(fleet))
    assert ask(fleet, token, "GET", "/api/queue")["ok"]
    assert token not in fleet.sh(f"journalctl -b --no-pager; ps -ef; cat {UNIT}").out


def test_removed_it_is_gone_and_the_ledger_stays(fleet: Controller) -> None:
    played = hub(fleet, "mode=uninstall")
    assert (played.rc, played.changed > 0) == (0, True), played.out
    assert fleet.sh(f"test -e {UNIT}").rc != 0
    assert fleet.user("is-active pifleet-hub.service") == "inactive"
    assert (fleet.folder / ".pifleet/ledger.db").exists()
    played = hub(fleet, "mode=uninstall")
    assert (played.rc, played.changed) == (0, 0), played.out
