# SPDX-License-Identifier: GPL-3.0-or-later
"""What testinfra sees of the repair on the node, beside git and the ledger's tables. Nothing of the collection takes part."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess

import pytest

from tests.support.fleet import ROOT

FLEET = ROOT / ".pifleet/lab/molecule-fix-runs/fleet"


def git(*words):
    return subprocess.run(["git", "-C", FLEET, *words], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def rows():
    with sqlite3.connect(FLEET / ".pifleet/ledger.db") as db:
        db.row_factory = sqlite3.Row
        return {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in ("fix_runs", "fix_run_steps", "fix_run_artifacts")}


def test_the_service_answers(host):
    (container,) = json.loads(host.check_output("docker inspect shop-web-1"))
    assert (container["State"]["Status"], container["RestartCount"]) == ("running", 0)
    (network,) = container["NetworkSettings"]["Networks"].values()
    assert host.check_output(f"curl -sS http://{network['IPAddress']}:8080/") == "1.0 good"


def test_one_fix_run_is_on_record(rows):
    (found,) = rows["fix_runs"]
    assert (found["id"], found["status"]) == ("fix-000001-web", "succeeded")
    states = [step["state"] for step in sorted(rows["fix_run_steps"], key=lambda step: step["number"])]
    assert states == [*["succeeded"] * 5, "skipped"]
    types = {artifact["type"] for artifact in rows["fix_run_artifacts"]}
    assert types >= {"plan_snapshot", "patch_diff", "build_log", "verify_log", "metrics"}
    for artifact in rows["fix_run_artifacts"]:
        assert hashlib.sha256((FLEET / artifact["path"]).read_bytes()).hexdigest() == artifact["checksum"]


def test_the_patch_is_what_is_desired(host, rows):
    assert git("rev-parse", "HEAD") == rows["fix_runs"][0]["candidate"]
    assert git("show", "--format=", "--name-only") == "stacks/shop/web/requirements.txt"
    assert git("show", "HEAD:stacks/shop/web/requirements.txt") == "greeting==1.0"
    assert host.file("/var/lib/pifleet/desired-state/stacks/shop/web/requirements.txt").content_string == "greeting==1.0\n"
