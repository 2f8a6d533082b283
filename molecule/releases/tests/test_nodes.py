# SPDX-License-Identifier: GPL-3.0-or-later
"""What testinfra sees of a release on each node, beside the registry and the ledger's tables. Nothing of the collection takes part."""

from __future__ import annotations

import hashlib
import json
import sqlite3

import pytest
import yaml

from tests.support.fleet import ROOT, Fleet

FLEET = Fleet(ROOT / "inventory/lab")
FOLDER = ROOT / ".pifleet/lab/molecule-releases"
PHASES = ["build", "push", "migrate_pre", "rollout", "migrate_post", "finalize"]


@pytest.fixture
def role(host):
    return "workers" if host.backend.name.removeprefix("pifleet-lab-") in FLEET.workers else "control_plane"


@pytest.fixture
def container(host, role):
    """``docker inspect`` of the one container that the node has."""
    service = "web" if role == "workers" else "job"
    assert host.check_output("docker ps -a --format '{{.Names}}'").split() == [f"prod-{role}-{service}-1"]
    return json.loads(host.check_output(f"docker inspect prod-{role}-{service}-1"))[0]


@pytest.fixture(scope="module")
def release():
    """The only release of the ledger, and its phases in order."""
    with sqlite3.connect(FOLDER / "fleet/.pifleet/ledger.db") as db:
        db.row_factory = sqlite3.Row
        (found,) = db.execute("SELECT * FROM releases").fetchall()
        phases = db.execute("SELECT * FROM release_phases ORDER BY number").fetchall()
    return found, phases


def test_each_phase_is_on_record(release):
    found, phases = release
    assert (found["id"], found["status"]) == ("prod-000001-1.0.0", "completed")
    assert [phase["phase"] for phase in phases] == PHASES
    skipped = {phase["phase"]: phase["reason"] for phase in phases if phase["status"] != "completed"}
    assert skipped == dict.fromkeys(["migrate_pre", "migrate_post"], "no migration configured")


def test_the_version_serves_as_the_image_that_the_registry_has(host, role, container):
    assert container["State"]["Status"] == "running"
    if role == "workers":
        assert container["State"]["Health"]["Status"] == "healthy"
        (network,) = container["NetworkSettings"]["Networks"].values()
        assert host.check_output(f"curl -sS http://{network['IPAddress']}:8080/version") == "1"
    repository, digest = container["Config"]["Image"].split("@")
    name = repository.partition("/")[2]
    link = FOLDER / f"registry/data/docker/registry/v2/repositories/{name}/_manifests/tags/1.0.0/current/link"
    assert link.read_text() == digest


def test_the_project_is_the_one_on_record(host, role, container, release):
    file = host.file(f"/var/lib/pifleet/releases/projects/prod/prod-{role}/compose.yaml")
    assert hashlib.sha256(file.content).hexdigest() == json.loads(release[0]["rendered"])[f"prod-{role}"]
    assert yaml.safe_load(file.content_string)["services"].keys() == {"web" if role == "workers" else "job"}
    labels = container["Config"]["Labels"]
    assert (labels["io.pifleet.stack.owner"], labels["io.pifleet.stack.revision"]) == ("release/prod", release[0]["commit_sha"])


def test_the_image_is_protected_from_pruning(host, container):
    repository = container["Config"]["Image"].partition("@")[0]
    assert any(tag.startswith("pifleet-") for tag in host.check_output(f"docker image ls --format '{{{{.Tag}}}}' {repository}").split())


def test_nothing_of_the_password_is_left(host):
    assert not host.file("/root/.docker/config.json").exists
    assert host.check_output("find / -xdev -name 'pifleet-docker-*' 2>/dev/null") == ""
