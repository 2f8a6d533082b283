# SPDX-License-Identifier: GPL-3.0-or-later
"""What testinfra sees of the repair on the node, beside git, PostgreSQL and RabbitMQ. Nothing of the collection takes part."""

from __future__ import annotations

import json
import subprocess

import psycopg
import pytest
from kombu import Connection
from psycopg.rows import dict_row

from tests.support.fleet import ROOT

FOLDER = ROOT / ".pifleet/lab/molecule-fix-queue"
FLEET = FOLDER / "fleet"
HUB = json.loads((FOLDER / "hub.json").read_text())


@pytest.fixture(scope="module")
def rows():
    with psycopg.connect(HUB["ledger"], row_factory=dict_row) as db:
        names = ("fix_runs", "fix_run_steps", "fix_run_approvals")
        return {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in names}


def test_the_service_answers(host):
    (container,) = json.loads(host.check_output("docker inspect shop-web-1"))
    (network,) = container["NetworkSettings"]["Networks"].values()
    assert host.check_output(f"curl -sS http://{network['IPAddress']}:8080/") == "1.0 good"


def test_the_ledger_in_postgresql_says_who_asked_and_who_approved(rows):
    (found,) = rows["fix_runs"]
    assert (found["status"], found["requester"], found["priority"]) == ("succeeded", "alice", "high")
    (approval,) = rows["fix_run_approvals"]
    assert (approval["decision"], approval["approver"], bool(approval["used_at"])) == ("approved", "bob", True)
    steps = sorted(rows["fix_run_steps"], key=lambda step: step["number"])
    assert [step["state"] for step in steps] == [*["succeeded"] * 5, "skipped"]
    # analysed for one message, and done for another: none waited for the approval
    messages = [step["detail"]["task_id"] for step in steps[:5]]
    assert len({messages[0], messages[1]}) == 2
    assert len(set(messages[1:])) == 1


def test_two_workers_are_there_and_no_message_is_left():
    with Connection(HUB["broker"], connect_timeout=5) as connection, connection.channel() as channel:
        queue = channel.queue_declare(HUB["queue"], passive=True)
    assert queue.message_count == 0
    # of RabbitMQ: each worker takes messages of the queue for itself
    assert queue.consumer_count == 2


def test_the_patch_is_what_is_desired(host, rows):
    shown = subprocess.run(["git", "-C", FLEET, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert shown == rows["fix_runs"][0]["candidate"]
    assert host.file("/var/lib/pifleet/desired-state/stacks/shop/web/requirements.txt").content_string == "greeting==1.0\n"
