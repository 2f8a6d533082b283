# SPDX-License-Identifier: GPL-3.0-or-later
"""The node's side, with recorded answers of docker and a real HTTP server."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
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


class Clock:
    """Goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def verified(web: Service, url: str, clock: Clock | None = None, **more: Any) -> tuple[bool, str, list[str]]:
    clock = clock or Clock()
    health = verify.Health(url, **{"interval": 5.0, "timeout": 60.0, "samples": 3, **more})
    return verify.verify(web, health, clock, clock.sleep)


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


class Checks:
    """What runs in the containers: exit codes and outputs by container, the last of them for ever; each takes *seconds*."""

    def __init__(self, web: Service, said: dict[str, list[tuple[int, str]]], clock: Clock | None = None, seconds: float = 0) -> None:
        self.said, self.ran, self.limits = said, [], []  # type: Any, list[str], list[float]
        self.clock, self.seconds = clock, seconds
        web.execute = self.execute  # type: ignore[method-assign]

    def execute(self, container: str, words: Sequence[str], timeout: float) -> Completed:
        self.ran.append(container)
        self.limits.append(timeout)
        if self.clock:
            self.clock.now += min(self.seconds, timeout + 0.01)
        if self.seconds > timeout:
            return Completed(tuple(words), 124, "", f"docker: no end after {timeout:g} seconds")
        given = self.said[container]
        rc, said = given.pop(0) if len(given) > 1 else given[0]
        return Completed(tuple(words), rc, said, "")


CHECKS = ({"name": "ping", "argv": ["/app", "ping"], "timeout": 30},)


def test_checks_are_a_part_of_each_look_in_each_container(web: Service, docker: Docker) -> None:
    docker.containers.append(docker.container("c2", "sha256:old", "shop-web-2"))
    checks = Checks(web, {"c1": [(0, "pong")], "c2": [(0, "pong"), (0, "pong"), (1, "no route"), (0, "pong")]})
    ok, why, lines = verified(web, "", checks=CHECKS)
    assert (ok, why) == (True, "well for 3 looks")
    # the third look is not well, and the count begins anew
    assert checks.ran == ["c1", "c2"] * 6
    looks = [line.split()[2] for line in lines if " s  " in line]
    assert looks == ["1/3", "2/3", "0/3", "1/3", "2/3", "3/3"]
    assert "the check ping ended with exit code 1 in shop-web-2" in "\n".join(lines)
    # what each said, where it is not what it said before
    assert [line for line in lines if line.startswith("check")] == [
        "check ping in shop-web-1: exit code 0: pong",
        "check ping in shop-web-2: exit code 0: pong",
        "check ping in shop-web-2: exit code 1: no route",
        "check ping in shop-web-2: exit code 0: pong",
    ]


def test_what_warms_up_is_well_in_time(web: Service) -> None:
    checks = Checks(web, {"c1": [(1, "warming up")] * 9 + [(0, "")]})
    assert verified(web, "", checks=CHECKS)[0]
    # but not later: 13 looks within the time, two of them well
    checks.said = {"c1": [(1, "warming up")] * 11 + [(0, "")]}
    ok, why, _lines = verified(web, "", checks=CHECKS)
    assert (ok, why) == (False, "not well for 3 looks within 60 seconds: it runs and answers")


def test_no_check_runs_in_what_is_not_well(web: Service, docker: Docker) -> None:
    docker.containers = [docker.container("c1", "x", Health={"Status": "starting"})]
    checks = Checks(web, {"c1": [(0, "")]})
    assert not verified(web, "", checks=CHECKS)[0]
    assert checks.ran == []


def test_checks_that_take_long_end_with_the_time_of_all(web: Service) -> None:
    clock = Clock()
    checks = Checks(web, {"c1": [(0, "")]}, clock, seconds=25)
    ok, why, lines = verified(web, "", clock, checks=CHECKS)
    assert not ok
    assert "within 60 seconds" in why
    # the third began at 50 seconds, and had 10 of its 30
    assert (checks.limits, int(clock.now), len(lines)) == ([30, 30, 10], 60, 5)
    assert "no end after 10 seconds" in lines[3]
    # looks begin each 5 seconds, however long they take
    clock = Clock()
    Checks(web, {"c1": [(0, "")]}, clock, seconds=2)
    assert verified(web, "", clock, checks=CHECKS)[0]
    assert clock.now == 12


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
