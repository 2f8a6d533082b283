# SPDX-License-Identifier: GPL-3.0-or-later
"""The module itself, with recorded answers of docker: in which order it refuses, and that what it says is free of secrets."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import MASK
from ansible_collections.pifleet.ops.plugins.module_utils._fix_host import hold
from ansible_collections.pifleet.ops.plugins.module_utils._fix_host.service import Service
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import local
from ansible_collections.pifleet.ops.plugins.modules import fix_run_host

from tests.support.docker_answers import Docker

NO_DOCKER = (1, "Cannot connect to the Docker daemon")
CHECK = {"name": "ping", "argv": ["/app", "ping"], "timeout": 5}


class Node:
    """The node's folders. *brought*: how often a revision was brought."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.holds, self.folder, self.brought = root / "holds", folder, 0
        self.params: dict[str, Any] = {
            "fix_run_id": "fix-000001-web",
            "files": ["web/requirements.txt"],
            "health": {"url": "", "checks": [CHECK]},
            "reconcile": {"path": str(folder.parent)},
            "timeout": 10.0,
        }

    def bringing(self, _params: dict[str, Any]) -> Any:
        def bring() -> None:
            self.brought += 1

        return bring

    def link(self) -> None:
        """Let what is to be patched be a link."""
        (self.folder / "web").mkdir()
        os.symlink("/etc/passwd", self.folder / "web/requirements.txt")

    @property
    def is_untouched(self) -> bool:
        return not self.brought and not self.holds.exists()


@pytest.fixture
def node(tmp_path: Path, web: Service, monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node(tmp_path, Path(web.place.folder))
    places = RefreshPlaces.below(str(tmp_path))
    monkeypatch.setattr(RefreshPlaces, "below", lambda: places)
    monkeypatch.setattr(hold, "Hold", functools.partial(hold.Hold, root=str(made.holds), state=str(tmp_path / "state")))
    monkeypatch.setattr(fix_run_host, "bringing", made.bringing)
    return made


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of the stack is another's matter."""
    monkeypatch.setattr(fix_run_host, "stack_of", lambda *_given: {"status": "synced"})


# -- in which order -----------------------------------------------------------------------------------------------------------------------
def test_without_docker_nothing_is_tagged_or_written(node: Node, web: Service, docker: Docker) -> None:
    docker.told["version"] = NO_DOCKER
    ordinary = web.refuse_without_docker

    def late() -> None:
        # whatever does not wait for it is done by then
        time.sleep(0.5)
        ordinary()

    web.refuse_without_docker = late  # type: ignore[method-assign]
    with pytest.raises(PifleetError, match="Docker does not answer"):
        fix_run_host.patch(node.params, web)
    assert (docker.images, docker.asked("image", "tag")) == ({"shop-web": "sha256:old"}, [])
    assert node.is_untouched


def test_what_was_there_is_kept_before_anything_is_brought(node: Node, web: Service, docker: Docker) -> None:
    done = fix_run_host.patch(node.params, web)
    assert done["seen"]["before"]["image_id"] == "sha256:old"
    assert docker.images["pifleet-fix/shop-web:fix-000001-web"] == "sha256:old"
    assert (node.brought, [path.name for path in node.holds.iterdir()]) == (1, ["fix-000001-web"])


def test_an_unsafe_file_is_refused_before_anything_is_kept(node: Node, web: Service, docker: Docker) -> None:
    node.link()
    with pytest.raises(PifleetError, match="no plain file"):
        fix_run_host.patch(node.params, web)
    assert docker.asked("image", "tag") == []
    assert node.is_untouched


@pytest.mark.usefixtures("known")
def test_no_check_runs_before_all_that_is_refused(node: Node, web: Service, docker: Docker) -> None:
    fix_run_host.look(node.params, web)
    assert docker.asked("exec") == [["exec", "c1", "/app", "ping"]]
    docker.calls.clear()
    for told, why in ((("version",), "does not answer"), (("compose config",), "cannot be read"), ((), "has no service web")):
        docker.told = dict.fromkeys(told, NO_DOCKER)
        docker.services = {"other": {}}
        with pytest.raises(PifleetError, match=why):
            fix_run_host.look(node.params, web)
        assert docker.asked("exec") == []
    node.link()
    docker.calls.clear()
    with pytest.raises(PifleetError, match="no plain file"):
        fix_run_host.look(node.params, web)
    assert docker.calls == []


@pytest.mark.usefixtures("known")
def test_a_check_holds_where_it_does_in_all_containers(node: Node, web: Service, docker: Docker) -> None:
    docker.containers.append(docker.container("c2", "sha256:old", "shop-web-2"))
    assert fix_run_host.look(node.params, web)["seen"]["health"]["checks"] == {"ping": True}
    docker.told["exec c2"] = (1, "no route")
    assert fix_run_host.look(node.params, web)["seen"]["health"]["checks"] == {"ping": False}


# -- a docker that hangs ------------------------------------------------------------------------------------------------------------------
def test_nothing_waits_longer_for_docker_than_the_first_question(
    node: Node, web: Service, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(local, "ports", lambda: asked.append("ports"))
    docker.told = dict.fromkeys(("version", "compose config", "ps", "image inspect"), (124, "no end"))
    with pytest.raises(PifleetError, match="Docker does not answer"):
        fix_run_host.look(node.params, web)
    assert max(docker.timeouts) <= 30
    # each was asked once: what hangs on an answer is not asked for
    assert sorted(call[0] for call in docker.calls) == ["compose", "ps", "version"]
    assert asked == []


# -- secrets ------------------------------------------------------------------------------------------------------------------------------
def test_what_a_build_says_is_free_of_secrets(node: Node, web: Service, docker: Docker) -> None:
    for rc in (0, 1):
        docker.told["compose build"] = (rc, "connecting as planted")
        done = fix_run_host.build(node.params, web)
        assert f"connecting as {MASK}" in done["log"]
        assert "planted" not in str(done)
    assert done["error"]


@pytest.mark.usefixtures("known")
def test_what_a_container_says_is_free_of_secrets(node: Node, web: Service, docker: Docker) -> None:
    docker.told["logs"] = (0, "connecting as planted\n")
    found = fix_run_host.look(node.params, web)
    assert found["log"] == f"connecting as {MASK}\n"
    assert "planted" not in str(found)


def test_what_a_check_says_is_free_of_secrets(node: Node, web: Service, docker: Docker) -> None:
    docker.told["exec"] = (0, "connecting as planted")
    health = {"url": "", "interval": 0.01, "timeout": 5, "samples": 1, "checks": [CHECK]}
    found = fix_run_host.verified({**node.params, "health": health}, web)
    assert found["error"] == ""
    assert f"connecting as {MASK}" in found["log"]
    assert "planted" not in str(found)


def test_no_half_of_a_secret_is_left_where_a_text_is_cut(node: Node, web: Service, docker: Docker) -> None:
    docker.told["exec"] = (0, "planted" + "y" * 1996)
    health = {"url": "", "interval": 0.01, "timeout": 5, "samples": 1, "checks": [CHECK]}
    assert "nted" not in str(fix_run_host.verified({**node.params, "health": health}, web))
    docker.told["compose build"] = (1, "x" * 297 + "planted")
    assert "pla" not in fix_run_host.build(node.params, web)["error"]
