# SPDX-License-Identifier: GPL-3.0-or-later
"""Back to an earlier release; what stands against it; and that nothing brings the bad one again by itself."""

from __future__ import annotations

import subprocess

from tests.integration.releases.conftest import Site


def test_rollback(site: Site) -> None:
    site.play("deploy")
    site.app("2")
    bad = site.repository.commit("2.0.0")
    site.play("deploy")
    assert {site.says(host) for host in site.fleet.workers} == {"2"}

    # an image that is missing on one host: refused before anything
    old, live = site.releases.of_environment("prod")
    image = next(image.pinned for image in old.images if image.service == "web")
    site.fleet.sh(
        "release-3.local",
        f"docker image rm {image} $(docker image ls --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | grep {image[-64:][:12]})",
    )
    assert "release-3.local lacks" in site.told("rollback")
    assert site.ids() == [old.id, live.id] and {site.says(host) for host in site.fleet.workers} == {"2"}
    site.fleet.sh("release-3.local", site.pull(image))

    for args, said in (
        (("-e", f"to_release={live.id}"), "is the live one already"),
        (("-e", "to_release=prod-000009-9"), "has no release prod-000009-9"),
        (("-e", "to_version=1.0.0", "-e", "to_previous=true"), "Give one of"),
        (("-e", "to_version=7"), "No other release of prod with the version 7"),
    ):
        assert said in site.told("rollback", *args)

    # a check shows the plan, and does nothing
    assert "rollback reuses images" in site.play("rollback", "--check").output and len(site.ids()) == 2

    site.play("rollback")
    back = site.releases.of_environment("prod")[-1]
    assert (back.kind, back.target_id, back.version, back.current) == ("rollback", old.id, "1.0.0", True)
    assert [back.phase(name).reason for name in ("build", "push")] == ["rollback reuses images"] * 2
    assert {site.says(host) for host in site.fleet.workers} == {"1"}

    # the same commit does not come again by itself: not by deploy, not by site.yml's part, not by reconciling the nodes
    assert f"was taken back by {back.id}" in site.told("deploy")
    assert f"was taken back by {back.id}" in " ".join(site.unattended().output.split())
    before = {host: site.containers(host) for host in site.fleet.hosts}
    site.reconcile()
    assert {host: site.containers(host) for host in site.fleet.hosts} == before and site.repository.git("rev-parse", "HEAD") == bad

    # the next commit goes out as usual, and once it is out, unattended runs leave it alone
    site.app("3")
    site.repository.commit("3.0.0")
    site.unattended()
    assert {site.says(host) for host in site.fleet.workers} == {"3"}
    ids = site.ids()
    assert "This version is live already" in " ".join(site.unattended().output.split()) and site.ids() == ids

    # two releases are retained, and what the rollback among them went back to; the images of the bad one are gone
    gone = next(image.pinned for image in live.images if image.service == "web")
    for host in site.fleet.workers:
        assert site.fleet.sh(host, f"docker image inspect -f x {gone} || echo gone", check=False).strip() == "gone"
    # and so is what the controller built for it
    argv = ["docker", "image", "ls", "--format", "{{.Tag}}", f"{site.registry.name}/fleet/web"]
    tags = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert {"1.0.0", "3.0.0"} <= set(tags) and "2.0.0" not in tags
    assert f"lacks {gone}" in site.told("rollback", "-e", "to_version=2.0.0")
    site.play("rollback", "-e", f"to_release={old.id}")
    assert {site.says(host) for host in site.fleet.workers} == {"1"}
