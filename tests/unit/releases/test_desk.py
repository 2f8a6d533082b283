# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's side as a whole, on a real checkout and ledger; only docker is an answer from memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import desk
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.desk import Asked, Desk, Planned
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.history import Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import Release

from tests.support.release_fleet import BASE, Repository, environment
from tests.unit.releases.conftest import GROUPS, World, digest_of

PROD = Asked("prod")


class Fleet:
    """A repository with something to release, and a desk whose docker only remembers."""

    def __init__(self, folder: Path, world: World) -> None:
        self.repository = Repository(folder / "fleet")
        self.repository.write("registry-password", "very-secret\n")
        self.repository.write_yaml("services/compose.yaml", BASE)
        self.repository.write("apps/web/Dockerfile", "FROM scratch\n")
        self.configure()
        self.world = world
        self.docker: list[tuple[str, ...]] = []
        self.built: list[str] = []
        self.desk = Desk(self.repository.root, world.releases, self._run)
        self.number = 0

    def configure(self, **changed: Any) -> str:
        self.repository.write_yaml("releases.yml", {"environments": {"prod": environment("registry.example:5000", **changed)}})
        return self.repository.commit()

    def _run(
        self, argv_: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None,
        bare: bool = False, keep: Sequence[int] = (), most: int = 0,
    ) -> Completed:  # fmt: skip
        if argv_[0] != "docker":
            return argv.run(argv_, stdin=stdin, timeout=timeout, env=env, bare=bare, keep=keep)
        self.docker.append(tuple(argv_))
        if "ls" in argv_:
            return Completed(tuple(argv_), 0, "\n".join(self.built), "")
        if "build" in argv_:
            self.built.append(argv_[argv_.index("--tag") + 1])
        repository = argv_[-1].rpartition(":")[0]
        return Completed(tuple(argv_), 0, f'["{repository}@{digest_of(self.number)}"]' if "inspect" in argv_ else "", "")

    def plan(self, asked: Asked = PROD) -> Planned:
        return self.desk.plan_deploy(asked, GROUPS)

    def release(self, asked: Asked = PROD) -> Release:
        """Take a deploy through all phases."""
        self.number += 1
        return self.carry_out(self.desk.create(self.world.mine, self.plan(asked)))

    def carry_out(self, release: Release) -> Release:
        self.desk.build(release)
        self.desk.push(release)
        for name in ("migrate_pre", "rollout", "migrate_post", "finalize"):
            while not self.world.releases.get(release.id).phase(name).is_over:
                self.desk.begin(release.id, name)
                hosts = release.plan.hosts
                self.desk.record(release.id, name, {host: {"outcome": "completed", "error": ""} for host in hosts})
        return self.world.releases.get(release.id)


@pytest.fixture
def fleet(tmp_path: Path, world: World) -> Fleet:
    return Fleet(tmp_path, world)


def test_deploy_and_again(fleet: Fleet) -> None:
    first = fleet.release()
    assert first.current and set(first.rendered) == {"prod-workers", "prod-control_plane"}
    assert [call[1] for call in fleet.docker].count("build") == 2 and "very-secret" not in str(fleet.docker)
    fleet.docker.clear()
    second = fleet.release()
    assert not [call for call in fleet.docker if {"build", "push"} & set(call)] and second.rendered == first.rendered
    assert second.phase("build").detail["reused"] == ["job", "web"]
    assert fleet.plan(replace(PROD, unattended=True)).nothing == "This version is live already."
    assert fleet.plan().nothing == ""
    fleet.release(replace(PROD, rebuild=True))
    assert [call for call in fleet.docker if "build" in call]


def test_what_was_built_goes_from_the_controller_with_its_release(fleet: Fleet) -> None:
    for number in range(4):
        fleet.repository.write("apps/web/more", str(number))
        fleet.repository.commit(f"{number}.0")
        last = fleet.release()
    removed = [call[3:] for call in fleet.docker if call[1:3] == ("image", "rm")]
    # two releases are retained
    name = "registry.example:5000/fleet"
    assert [image for (image,) in removed if image.endswith(":1.0")] == [f"{name}/job:1.0", f"{name}/web:1.0"]
    assert not [image for (image,) in removed if image.endswith((":2.0", ":3.0"))]
    assert set(last.phase("finalize").detail["removed"]) >= {f"{name}/job:1.0", f"{name}/web:1.0"}


def test_dirty_or_unknown_is_refused_without_state(fleet: Fleet) -> None:
    fleet.repository.write("elsewhere", "x")
    fleet.plan()
    fleet.repository.write("services/extra", "x")
    with pytest.raises(PifleetError, match="Not committed as it is: services/extra"):
        fleet.plan()
    fleet.repository.commit()
    with pytest.raises(PifleetError, match="no environment staging"):
        fleet.plan(Asked("staging"))
    with pytest.raises(PifleetError, match=r"There is no version 9\.9"):
        fleet.plan(Asked("prod", "9.9"))
    (fleet.repository.root / "registry-password").unlink()
    release = fleet.desk.create(fleet.world.mine, fleet.plan())
    with pytest.raises(PifleetError, match=r"registry-password.*is missing or empty"):
        fleet.desk.build(release)
    assert fleet.world.releases.get(release.id).phase("build").status == "failed"


def test_another_commit_than_the_release_s_is_not_built(fleet: Fleet) -> None:
    release = fleet.desk.create(fleet.world.mine, fleet.plan())
    fleet.repository.commit()
    with pytest.raises(PifleetError, match="Check that one out, and resume"):
        fleet.desk.build(release)


def test_projects_that_cannot_be_rendered_fail_every_phase(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = fleet.plan()

    def cannot(*_args: object) -> None:
        raise PifleetError("the base project is gone.")

    monkeypatch.setattr(fleet.desk, "files", cannot)
    with pytest.raises(PifleetError, match="is gone"):
        fleet.desk.create(fleet.world.mine, planned)
    assert {p.status for p in fleet.world.releases.of_environment("prod")[0].phases} == {"failed"}


def test_batches(fleet: Fleet) -> None:
    release = fleet.desk.create(fleet.world.mine, fleet.plan())
    fleet.desk.build(release)
    fleet.desk.push(release)
    assert desk.batches_left(release) == [["pi-1", "pi-2"], ["pi-3", "pi-4"]]
    fleet.desk.begin(release.id, "rollout")
    done = {"outcome": "completed", "error": ""}
    found = fleet.desk.record(release.id, "rollout", {"pi-1": done, "pi-2": done, "pi-3": done})
    assert found.phase("rollout").status == "running" and desk.batches_left(found) == [["pi-3", "pi-4"]]
    found = fleet.desk.record(release.id, "rollout", {"pi-3": done, "pi-4": {"outcome": "failed", "error": "no", "taken_back": True}})
    assert found.phase("rollout").reason == "pi-4: no" and found.phase("finalize").reason == "upstream phase rollout failed"
    assert found.phase("rollout").detail["hosts"]["pi-4"] == {"status": "failed", "error": "no", "taken_back": True}
    again = fleet.world.releases.resume(fleet.world.mine, release.id)
    assert desk.batches_left(again) == [["pi-4"]]
    fleet.desk.begin(release.id, "rollout")
    assert "returned nothing" in fleet.desk.record(release.id, "rollout", {}).phase("rollout").reason


def test_old_images_that_cannot_be_removed_do_not_fail_a_release(fleet: Fleet) -> None:
    release = fleet.desk.create(fleet.world.mine, fleet.plan())
    fleet.desk.build(release)
    fleet.desk.push(release)
    fleet.desk.begin(release.id, "rollout")
    for _batch in range(2):
        fleet.desk.record(release.id, "rollout", {host: {"outcome": "completed"} for host in release.plan.hosts})
    fleet.desk.begin(release.id, "finalize")
    assert fleet.desk.record(release.id, "finalize", {"pi-1": {"outcome": "failed", "error": "busy"}}).status == "completed"


def test_rollback_and_quarantine(fleet: Fleet) -> None:
    first = fleet.release()
    fleet.repository.write("apps/web/new", "x")
    fleet.repository.commit()
    fleet.release()
    back = fleet.desk.plan_rollback("prod", Wanted(), GROUPS, accept=False)
    assert back.plan.target_id == first.id and back.rendered == first.rendered
    live = fleet.carry_out(fleet.desk.create(fleet.world.mine, back))
    assert live.current and live.kind == "rollback"
    with pytest.raises(PifleetError, match=f"was taken back by {live.id}"):
        fleet.plan()
    assert "was taken back" in fleet.plan(replace(PROD, unattended=True)).nothing
    fleet.repository.git("tag", "again")
    assert fleet.plan(Asked("prod", "again")).nothing == ""
    fleet.repository.commit()
    assert fleet.plan().nothing == ""
    with pytest.raises(PifleetError, match="No host has a role"):
        fleet.desk.plan_rollback("prod", Wanted(to_release=first.id), {}, accept=False)


def test_migrations_that_are_not_reversible(fleet: Fleet) -> None:
    fleet.release()
    services = environment("registry.example:5000")["services"]
    services["web"]["migrations"] = {"post": {"argv": ["cleanup"]}}
    fleet.configure(services=services)
    fleet.release()
    with pytest.raises(PifleetError, match=r"not marked reversible: prod-000002-.*: web"):
        fleet.desk.plan_rollback("prod", Wanted(), GROUPS, accept=False)
    assert fleet.desk.plan_rollback("prod", Wanted(), GROUPS, accept=True).plan.migrations_of("migrate_post") == ()


def test_login(fleet: Fleet) -> None:
    login = fleet.desk.login_of("prod")
    assert login and (login.server, login.user, login.password) == ("registry.example:5000", "deployer", "very-secret")
    assert fleet.desk.login_of("staging") is None
    fleet.configure(login=None)
    assert fleet.desk.login_of("prod") is None
