# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment, built with docker as its definition says, and site.yml in it, through ansible-runner as AWX runs it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator

import pytest

from tests.support.checkout import Checkout
from tests.support.debian import base_image
from tests.support.fleet import BIN, ROOT, Fleet

BASE, MADE = "pifleet-test/environment-base:local", "pifleet-test/environment:local"


@pytest.fixture(scope="module")
def environment(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    work = tmp_path_factory.mktemp("environment")
    base_image(BASE, work / "base")
    for line in (
        f"ansible-galaxy collection build --output-path {work}",
        f"cp execution-environment.yml {work}",
        f"cd {work} && ansible-builder create --output-filename Dockerfile --context context",
        f"docker build --network host --build-arg EE_BASE_IMAGE={BASE} --tag {MADE} {work / 'context'}",
    ):
        code, output = checkout.shell(line)
        assert code == 0, f"{line}\n{output[-6000:]}"
    yield MADE
    checkout.shell(f"docker image rm {MADE} {BASE}")


@pytest.mark.full
def test_site_in_the_execution_environment(environment: str, checkout: Checkout, fleet: Fleet) -> None:
    """The cluster of the stories before: nothing would be changed, and a check finds that out without the checkout's environment."""
    private = checkout.folder.parent / "awx"
    project = private / "project"
    # the project as AWX gets it, by git; the fleet's keys and files, which are in no commit, are where its inventory says
    for line in ("make site", f"git clone --quiet {checkout.folder} {project}"):
        code, output = checkout.shell(line)
        assert code == 0, output[-6000:]
    for name in ("artifacts", "images", fleet.inventory.name):
        # as files, since what a link points to is not in the container
        shutil.copytree(ROOT / ".pifleet/lab" / name, project / ".pifleet/lab" / name)
    if (checkout.folder / ".pifleet/lab/lab").is_dir():
        shutil.copytree(checkout.folder / ".pifleet/lab/lab", project / ".pifleet/lab/lab")
    (private / "env").mkdir()
    # as AWX sets it
    (private / "env/envvars").write_text(json.dumps({"ANSIBLE_COLLECTIONS_PATH": "/usr/share/ansible/collections"}))
    words = ["-i", f"/runner/project/{fleet.inventory.relative_to(ROOT)}", "--check"]
    line = [
        *(str(BIN / "ansible-runner"), "run", str(private), "--playbook", "site.yml", "--ident", "1", f"--cmdline={shlex.join(words)}"),
        *("--process-isolation", "--process-isolation-executable", "docker", "--container-image", environment),
        *("--container-option=--network=host", f"--container-option=--user={os.geteuid()}"),
    ]
    code, output = checkout.shell(shlex.join(line))
    assert code == 0, output[-6000:]
    events = [json.loads(file.read_text()) for file in (private / "artifacts/1/job_events").glob("*.json")]
    (stats,) = [event["event_data"] for event in events if event["event"] == "playbook_on_stats"]
    assert set(stats["ok"]) >= set(fleet.hosts)
    assert (stats["changed"], stats["failures"], stats["dark"]) == ({}, {}, {}), output[-6000:]
