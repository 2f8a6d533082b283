# SPDX-License-Identifier: GPL-3.0-or-later
"""The node's side, with recorded answers of docker and a real HTTP server."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._fix_host import hold, pin, service, verify
from ansible_collections.pifleet.ops.plugins.module_utils._fix_host.service import Place, Service
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import state

from tests.support.docker_answers import Docker


# -- files ------------------------------------------------------------------------------------------------------------------------------
def test_links_and_second_names_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    (folder / "web").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").write_text("x")
    (folder / "plain").write_text("x")
    (folder / "one").write_text("x")
    os.link(folder / "one", folder / "two")
    os.symlink("plain", folder / "link")
    os.symlink(tmp_path / "outside", folder / "away")
    (folder / "pipe").mkdir()
    service.refuse_unsafe(service.file_states(str(folder), ["plain", "missing", "web/missing"]))
    for path in ("one", "two", "link", "away/x", "pipe", "away/new"):
        with pytest.raises(PifleetError):
            service.refuse_unsafe(service.file_states(str(folder), [path]))


# -- docker -----------------------------------------------------------------------------------------------------------------------------
def test_no_shell_and_only_this_service(web: Service, docker: Docker) -> None:
    table = web.defined()
    assert (table["image"], table["others"], web.secrets(table)) == ("shop-web", ["other"], ["planted"])
    web.build(table, 10)
    build = docker.calls[-2]
    assert build[-2:] == ["build", "web"]
    docker.told["compose build"] = (1, "broken")
    with pytest.raises(service.StepError) as failed:
        web.build(table, 10)
    assert failed.value.log


def test_what_was_there_is_kept_once_and_given_back(web: Service, docker: Docker, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "shop.json").write_text('{"before": 1}')
    kept = hold.Hold("fix-000001-web", web, str(tmp_path / "holds"), str(state))
    kept.take(kept.seen())
    # the new image takes the name, and the record changes; a second try keeps what was first
    docker.images["shop-web"] = "sha256:new"
    docker.containers = [docker.container("c2", "sha256:new")]
    (state / "shop.json").write_text('{"after": 1}')
    assert kept.seen()["image_id"] == "sha256:old"
    kept.take({**kept.seen(), "image_id": "sha256:new"})
    assert kept.restore()["image_id"] == "sha256:old"
    assert docker.images["shop-web"] == "sha256:old"
    assert (state / "shop.json").read_text() == '{"before": 1}'
    kept.release()
    assert docker.images == {"shop-web": "sha256:old"}
    assert list((tmp_path / "holds").iterdir()) == []


def test_an_image_that_is_named_by_its_digest(web: Service, docker: Docker, tmp_path: Path) -> None:
    digest = "registry.example/web@sha256:d"
    docker.services["web"] = {"image": digest}
    docker.images = {digest: "sha256:old"}
    kept = hold.Hold("fix-000001-web", web, str(tmp_path / "holds"), str(tmp_path / "state"))
    before = kept.seen()
    kept.take(before)
    docker.services["web"] = {"image": "registry.example/web@sha256:e"}
    docker.images["registry.example/web@sha256:e"] = "sha256:new"
    docker.containers = [docker.container("c2", "sha256:new")]
    # no tag can name it, and none has to: it still is what it was
    assert kept.restore() == before
    assert (docker.images[digest], kept.named(before)) == ("sha256:old", "sha256:old")
    kept.release()
    assert sorted(docker.images.values()) == ["sha256:new", "sha256:old"]
    # unless it is gone: no name says so
    del docker.images[digest]
    assert kept.named(before) == ""


def test_the_name_of_an_image_that_was_given_to_another(web: Service, docker: Docker, tmp_path: Path) -> None:
    kept = hold.Hold("fix-000001-web", web, str(tmp_path / "holds"), str(tmp_path / "state"))
    before = kept.seen()
    kept.take(before)
    docker.images["shop-web"] = "sha256:new"
    assert kept.named(before) == "sha256:new"
    kept.restore()
    assert kept.named(before) == "sha256:old"
    assert kept.named({}) == ""


def test_where_nothing_was_nothing_is_left(web: Service, docker: Docker, tmp_path: Path) -> None:
    docker.images, docker.containers = {}, []
    kept = hold.Hold("fix-000001-web", web, str(tmp_path / "holds"), str(tmp_path / "state"))
    kept.take(kept.seen())
    docker.images["shop-web"] = "sha256:new"
    docker.containers = [docker.container("c2", "sha256:new")]
    kept.restore()
    assert (docker.images, docker.containers) == ({}, [])


def test_what_was_never_kept_is_not_restored(web: Service, docker: Docker, tmp_path: Path) -> None:
    kept = hold.Hold("fix-000001-web", web, str(tmp_path / "holds"), str(tmp_path / "state"))
    before = (dict(docker.images), list(docker.containers))
    assert kept.restore() is None
    assert (docker.images, docker.containers) == before
    # what was kept and cannot be read is another matter
    (tmp_path / "holds/fix-000001-web").mkdir(parents=True)
    (tmp_path / "holds/fix-000001-web/before.json").write_text("{")
    with pytest.raises(PifleetError, match="is not known on the node"):
        kept.restore()
    assert (docker.images, docker.containers) == before


def test_a_name_that_cannot_be_taken_away(web: Service, docker: Docker) -> None:
    docker.told["image rm"] = (1, "conflict: image is being used")
    web.untag("gone")
    with pytest.raises(PifleetError, match="being used"):
        web.untag("shop-web")
    # docker that says nothing does not say that it is gone
    docker.told["image inspect"] = (124, "no end after 30 seconds")
    with pytest.raises(PifleetError, match="no end"):
        web.untag("shop-web")


def test_an_id_is_no_path(web: Service) -> None:
    for name in ("../x", "fix-1-web", "fix-000001-web/..", ""):
        with pytest.raises(PifleetError, match="no id"):
            hold.Hold(name, web)


# -- health -----------------------------------------------------------------------------------------------------------------------------
class Answers(http.server.BaseHTTPRequestHandler):
    codes: list[int]

    def do_GET(self) -> None:
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_words: Any) -> None:
        return


@pytest.fixture
def server() -> Iterator[tuple[str, type[Answers]]]:
    handler = type("Mine", (Answers,), {"codes": [200]})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://{{address}}:{made.server_port}/", handler
        made.shutdown()


def verified(web: Service, url: str, **more: Any) -> tuple[bool, str, list[str]]:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    health = verify.Health(url, **{"interval": 5.0, "timeout": 60.0, "samples": 3, **more})
    return verify.verify(web, health, lambda: now[0], sleep)


def test_well_for_all_samples_one_after_the_other(web: Service, server: tuple[str, type[Answers]]) -> None:
    url, handler = server
    handler.codes = [503, 200, 200, 500, 200]
    ok, _why, lines = verified(web, url)
    assert (ok, len(lines)) == (True, 7)


@pytest.mark.parametrize("codes", [[503], [302], [204], [200, 503] * 50])
def test_what_flaps_or_is_no_200_is_not_well(web: Service, server: tuple[str, type[Answers]], codes: list[int]) -> None:
    url, handler = server
    handler.codes = codes
    ok, why, lines = verified(web, url)
    assert not ok
    assert "60 seconds" in why
    assert len(lines) == 13


def test_a_container_that_restarts_begins_the_count_again(web: Service, docker: Docker) -> None:
    seen = iter([0, 0, 1, 1, 1])
    ordinary = web.containers

    def containers() -> list[dict[str, Any]]:
        return [{**one, "restarts": next(seen)} for one in ordinary()]

    web.containers = containers  # type: ignore[method-assign]
    ok, _why, lines = verified(web, "")
    assert (ok, len(lines)) == (True, 5)
    del docker


def test_nothing_that_runs_is_not_well(web: Service, docker: Docker) -> None:
    docker.containers = [docker.container("c", "x", Status="exited", ExitCode=3)]
    assert "exit code 3" in verified(web, "")[1]
    docker.containers = [docker.container("c", "x", Health={"Status": "unhealthy"})]
    assert "unhealthy" in verified(web, "")[1]
    docker.containers = []
    assert "no container" in verified(web, "")[1]


# -- pins -------------------------------------------------------------------------------------------------------------------------------
def test_a_stack_is_pinned_and_let_go_of(tmp_path: Path) -> None:
    place, folder = Place("/x", "shop", "web"), str(tmp_path)
    with pytest.raises(PifleetError, match="Nothing is known"):
        pin.pin(place, "a" * 40, folder)
    assert not pin.pin(place, "", folder)
    state.save(folder, state.Record("shop", "shop", "stacks", revision="b" * 40))
    assert [pin.pin(place, "a" * 40, folder), pin.pin(place, "a" * 40, folder)] == [True, False]
    assert state.pinned(folder) == ["shop"]
    assert [pin.pin(place, "", folder), pin.pin(place, "", folder)] == [True, False]
    assert state.load_one(folder, "shop", "stacks") == state.Record("shop", "shop", "stacks", revision="b" * 40)
