# SPDX-License-Identifier: GPL-3.0-or-later
"""A failure in each phase: that one failed, all later ones skipped, nothing more done, and what ran before still serves. And bad input."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import PHASES

from tests.integration.releases.conftest import GATEWAY, Site, clean
from tests.support.commands import Commands
from tests.support.fleet import Fleet
from tests.support.registry import Registry
from tests.support.small_disk import SmallDisk


def failed_in(site: Site, phase: str, said: str, output: str) -> None:
    """The newest release failed in *phase*, for a reason with *said*."""
    release = site.releases.of_environment("prod")[-1]
    found = release.phase(phase)
    assert (release.status, found.status) == ("failed", "failed") and said in found.reason, found.reason
    later = release.phases[PHASES.index(phase) + 1 :]
    assert {(p.status, p.reason) for p in later} <= {("skipped", f"upstream phase {phase} failed")}
    assert f"phase {phase} failed" in output or said in output


def test_each_phase(site: Site, tmp_path: Path) -> None:
    commands = Commands(tmp_path / "commands", "docker")
    site.play("deploy")
    serving = {host: site.containers(host) for host in site.fleet.hosts}

    # build
    good = (site.repository.root / "apps/web/Dockerfile").read_text()
    site.repository.write("apps/web/Dockerfile", "FROM scratch\nCOPY nothing /x\n")
    site.repository.commit("2.0.0")
    failed_in(site, "build", "was not built from", site.play("deploy", rc=2, **commands.env).output)
    assert not commands.ran("docker", "push")

    # push: the registry is down
    site.repository.write("apps/web/Dockerfile", good)
    site.app("3")
    site.repository.commit("3.0.0")
    site.registry.stop()
    try:
        failed_in(site, "push", "refuses the login", site.play("deploy", rc=2).output)
    finally:
        site.registry.start()

    # migrate_pre, which is then mended and resumed: what is finished is not done again
    site.configure(services=site.with_migrations(pre=["crash", "0", "7"]))
    site.repository.commit("4.0.0")
    failed_in(site, "migrate_pre", "migration of web ended with exit code 7", site.play("deploy", rc=2).output)

    # rollout: the canary does not get healthy, and is taken back
    site.app("5", "serve", "-health", "bad")
    site.configure(health={"timeout": 8, "stable": 1})
    site.repository.commit("5.0.0")
    assert {host: site.containers(host) for host in site.fleet.hosts} == serving
    failed_in(site, "rollout", "release-2.local", site.play("deploy", rc=2).output)
    hosts = site.releases.of_environment("prod")[-1].phase("rollout").detail["hosts"]
    assert hosts["release-2.local"]["taken_back"] and "release-3.local" not in hosts
    assert {site.says(host) for host in site.fleet.workers} == {"1"}
    assert site.containers("release-3.local") == serving["release-3.local"]

    # rollout: a host of the second batch does not answer; what the first one got stays
    site.app("5")
    site.configure()
    site.repository.commit("5.1.0")
    with site.unreachable("release-3.local"):
        failed_in(site, "rollout", "release-3.local: unreachable", site.play("deploy", rc=2).output)
    hosts = site.releases.of_environment("prod")[-1].phase("rollout").detail["hosts"]
    assert {host: entry["status"] for host, entry in hosts.items()} == {
        "release-1.local": "completed", "release-2.local": "completed", "release-3.local": "failed",
    }  # fmt: skip
    assert (site.says("release-2.local"), site.says("release-3.local")) == ("5", "1")
    site.play("deploy", "-e", f"resume={site.ids()[-1]}")
    assert {site.says(host) for host in site.fleet.workers} == {"5"}

    # migrate_post: the version runs, and rollback is offered; it goes back to the live release
    site.app("6")
    site.configure(services=site.with_migrations(post=["crash", "0", "3"]))
    site.repository.commit("6.0.0")
    output = site.play("deploy", rc=2).output
    failed_in(site, "migrate_post", "exit code 3", output)
    assert "playbooks/rollback.yml -e environment=prod" in " ".join(output.split())
    assert {site.says(host) for host in site.fleet.workers} == {"6"}
    assert "are not marked reversible" in site.told("rollback")
    site.play("rollback", "-e", "accept_irreversible=true")
    assert {site.says(host) for host in site.fleet.workers} == {"5"} and site.releases.of_environment("prod")[-1].version == "5.1.0"


def test_a_registry_that_fills_up_in_the_middle_of_a_push(fleet: Fleet, tmp_path: Path) -> None:
    # docker tries a push again and again, for a minute
    # the image has more than that, also compressed
    with SmallDisk(tmp_path / "disk", megabytes=2) as disk, Registry(GATEWAY, port=5444, data=disk.folder) as registry:
        registry.trusted_by(fleet)
        clean(fleet)
        site = Site(fleet, registry, tmp_path / "fleet")
        output = site.play("deploy", rc=2).output
        failed_in(site, "push", "was not pushed", output)
        assert "Is the registry up, and has it room?" in " ".join(output.split())
        assert "no space left" in registry.log.read_text() and registry.pushes() == 0
        assert not any(site.containers(host) for host in fleet.hosts)
        disk.grow(64)
        site.play("deploy", "-e", f"resume={site.ids()[-1]}")
        assert site.releases.of_environment("prod")[-1].current
        assert {site.says(host) for host in fleet.workers} == {"1"}


def test_bad_input_leaves_no_state(site: Site) -> None:
    for args, said in (
        (("-e", "environment=staging"), "There is no environment staging"),
        (("-e", "version=9.9"), "There is no version 9.9"),
        (("--limit", "release-1.local"), "this run leaves out release-2.local, release-3.local"),
        (("-e", "resume=prod-000001-1"), "There is no release prod-000001-1"),
    ):
        assert said in site.told("deploy", *args)
    site.configure(services=site.with_build(backend="kaniko"))
    site.repository.commit()
    assert "There is no build backend kaniko" in site.told("deploy")
    site.configure(services=site.with_build(backend="buildx"))
    site.repository.commit()
    assert "buildx plugin" in site.told("deploy")
    site.configure()
    site.repository.commit()
    site.repository.write("apps/web/uncommitted", "x")
    assert "Not committed as it is: apps/web/uncommitted" in site.told("deploy")
    assert site.releases.of_environment("prod") == ()
    assert "No releases of prod" in site.play("releases").output
    assert "No release of prod was ever completed" in site.told("rollback")
