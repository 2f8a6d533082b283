# SPDX-License-Identifier: GPL-3.0-or-later
"""A version goes out phase by phase; the same goes out again and nothing moves; a check changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import PHASES

from tests.integration.releases.conftest import Site
from tests.support.commands import Commands


def test_life_of_an_environment(site: Site, tmp_path: Path) -> None:
    commands = Commands(tmp_path / "commands", "docker", "git")

    # a check on fresh nodes: the plan and every phase, and nothing else at all
    site.configure(services=site.with_migrations(pre=["env", "SETTING"], post=["once", "0", "0"]))
    site.repository.commit("1.0.1")
    before = {host: site.containers(host) for host in site.fleet.hosts}
    checked = site.play("deploy", "--check", **commands.env)
    assert all(f"{phase}: would run" in checked.output for phase in PHASES)
    assert site.ids() == [] and {host: site.containers(host) for host in site.fleet.hosts} == before
    assert {line.split()[1] for line in commands.ran("docker")} == {"version"} and not checked.ssh_calls
    reading = {"status", "rev-parse", "tag", "describe", "cat-file", "archive", "log"}
    assert all(reading & set(line.split()) for line in commands.ran("git")), commands.ran("git")

    # the real run, watched by another process
    commands.forget()
    process = site.start("deploy", **commands.env)
    seen = site.watch(process)
    process.wait(300).require()
    assert list(seen) == list(PHASES)
    release = site.releases.get("prod-000001-1.0.1")
    assert release.current and {p.status for p in release.phases} == {"completed"}
    assert len(commands.ran("docker", "build")) == len(commands.ran("docker", "push")) == 2
    assert release.phase("migrate_pre").detail["hosts"]["release-2.local"]["said"] == {"web": "SETTING=from the base file"}
    assert {site.says(host) for host in site.fleet.workers} == {"1"}
    image = next(image for image in release.images if image.service == "web")
    for host in site.fleet.workers:
        shown = json.loads(site.fleet.sh(host, "docker inspect prod-workers-web-1"))[0]
        assert shown["Config"]["Image"] == image.pinned
        assert shown["Config"]["Labels"]["io.pifleet.stack.owner"] == "release/prod"
        rendered = site.fleet.sh(host, "sha256sum /var/lib/pifleet/releases/projects/prod/prod-workers/compose.yaml").split()[0]
        assert rendered == release.rendered["prod-workers"]
    assert "migration" not in "".join(site.containers(host) for host in site.fleet.hosts)
    secret = (site.repository.root / "registry-password").read_text().strip()
    assert (
        secret not in "".join(commands.ran("docker")) and secret.encode() not in (site.repository.root / ".pifleet/ledger.db").read_bytes()
    )

    # the same again: nothing is built, pushed or restarted
    commands.forget()
    before = {host: site.containers(host) for host in site.fleet.hosts}
    pushes = site.registry.pushes()
    site.play("deploy", **commands.env)
    assert {host: site.containers(host) for host in site.fleet.hosts} == before
    assert site.registry.pushes() == pushes and not commands.ran("docker", "build") and not commands.ran("docker", "push")

    # unattended, as in site.yml, it is no release at all
    shown = site.play("releases").output
    assert "prod-000002-1.0.1" in shown and shown.index("prod-000002") < shown.index("prod-000001")
    assert "current" in site.play("releases", "-e", "id=prod-000002-1.0.1").output
    table = site.play("releases", "-e", "output=json", "-e", "limit=1").output
    assert "current: true" in table and "prod-000001-1.0.1\n" not in table.split("previous_id")[0]
    assert "There is no release prod-9" in site.play("releases", "-e", "id=prod-9", rc=2).output
    for host in site.fleet.workers:
        assert "pifleet-" in site.fleet.sh(host, "docker image ls --format '{{.Tag}}'")
