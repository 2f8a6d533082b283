# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's side: files of projects in place, images by digest, migrations in one-off containers."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._release_host import migrate, project
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.engine import Engine, Login, kept_tag
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.project import Places

from tests.unit.releases.conftest import digest_of

IMAGE = f"registry.example:5000/web@{digest_of(0xABC)}"


class Docker:
    """Answers like docker, and remembers. *bad*: exit code and error output by a word of the command."""

    def __init__(self, bad: Mapping[str, tuple[int, str]] | None = None, out: Mapping[str, str] | None = None) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.stdin: list[str] = []
        self._bad, self._out = bad or {}, out or {}

    def __call__(
        self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None,
        bare: bool = False, keep: Sequence[int] = (), most: int = 0,
    ) -> Completed:  # fmt: skip
        self.calls.append(tuple(argv))
        self.stdin += [stdin] if stdin else []
        for word in argv:
            if word in self._bad:
                return Completed(tuple(argv), self._bad[word][0], "", self._bad[word][1])
        return Completed(tuple(argv), 0, next((self._out[word] for word in argv if word in self._out), ""), "")

    def ran(self, *words: str) -> list[tuple[str, ...]]:
        return [call for call in self.calls if call[1 : 1 + len(words)] == words]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(str(tmp_path / "releases"), "prod", "prod-workers")


def files(**content: str) -> dict[str, tuple[int, bytes]]:
    return {name.replace("__", "/").replace("_", "."): (0o644, text.encode()) for name, text in content.items()}


def on_disk(places: Places) -> dict[str, str]:
    root = Path(places.folder)
    return {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def test_files_in_place(places: Places) -> None:
    assert project.bring(places, files(compose_yaml="1", conf__site_conf="a"))
    assert not project.bring(places, files(compose_yaml="1", conf__site_conf="a"))
    (Path(places.folder) / "data").mkdir()
    (Path(places.folder) / "data/kept").write_text("a container's")
    assert project.changes(places, files(compose_yaml="2")) == (["compose.yaml"], ["conf/site.conf"])
    assert project.bring(places, files(compose_yaml="2"))
    assert on_disk(places) == {"compose.yaml": "2", "data/kept": "a container's"}
    assert not (Path(places.folder) / "conf").exists()
    Path(places.manifest).write_text("garbage")
    assert project.bring(places, files(compose_yaml="2")) and on_disk(places)["compose.yaml"] == "2"


def test_killed_at_every_write_the_next_run_finishes(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    project.bring(places, files(compose_yaml="1", old="x"))
    wanted = files(compose_yaml="2", new="y", conf__more="z")
    real = atomic_file.write_atomic
    for kill_at in range(6):
        left = [kill_at]

        def killed(path: str | Path, data: bytes | str, mode: int = 0o644, *, folder_mode: int = 0o755, left: list[int] = left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(path, data, mode, folder_mode=folder_mode)

        monkeypatch.setattr(atomic_file, "write_atomic", killed)
        with contextlib.suppress(KeyboardInterrupt):
            project.bring(places, wanted)
        monkeypatch.setattr(atomic_file, "write_atomic", real)
        project.bring(places, wanted)
        assert on_disk(places) == {"compose.yaml": "2", "new": "y", "conf/more": "z"}
        project.bring(places, files(compose_yaml="1", old="x"))


def test_full_disk_is_told(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_how: object) -> None:
        raise OSError(28, "No space left on device", "/x")

    monkeypatch.setattr(atomic_file, "write_atomic", full)
    with pytest.raises(PifleetError, match="No space left on device"):
        project.bring(places, files(compose_yaml="1"))
    with pytest.raises(PifleetError, match="No space left on device"):
        project.stage(places, files(compose_yaml="1"))


def test_bad_input() -> None:
    for path in ("/etc/passwd", "../x", "a//b", "a/../b", "x\0"):
        with pytest.raises(PifleetError, match="no path below"):
            project.decoded({path: {"mode": "644", "content": ""}})
    for entry in ({"mode": "x", "content": ""}, {"mode": "644", "content": "%"}, {}):
        with pytest.raises(PifleetError, match="base64"):
            project.decoded({"a": entry})
    with pytest.raises(PifleetError, match="no name"):
        Places("/x", "prod", "../../etc")
    content = base64.b64encode(b"1").decode()
    assert project.decoded({"a": {"mode": "755", "content": content}}) == {"a": (0o755, b"1")}


def test_images() -> None:
    docker = Docker({"inspect": (1, "No such image")})
    assert Engine(docker).missing([IMAGE, IMAGE]) == [IMAGE] and Engine(docker).missing([]) == []
    with pytest.raises(PifleetError, match="Docker does not answer"):
        Engine(Docker({"version": (127, "docker: no such program")})).missing([IMAGE])
    docker = Docker()
    Engine(docker).pull([IMAGE])
    Engine(docker).protect([IMAGE, "plain:1"])
    assert docker.ran("pull") == [("docker", "pull", "--quiet", IMAGE)]
    assert docker.ran("image", "tag") == [("docker", "image", "tag", IMAGE, kept_tag(IMAGE))] and kept_tag("plain:1") == ""
    assert kept_tag(IMAGE) == "registry.example:5000/web:pifleet-000000000000"


def test_login_of_the_registry_is_in_no_argument_and_leaves_nothing() -> None:
    docker = Docker()
    Engine(docker, Login("registry.example:5000", "deployer", "very-secret")).pull([IMAGE])
    assert docker.stdin == ["very-secret"] and "very-secret" not in str(docker.calls)
    assert not Path(docker.calls[0][2]).exists()
    with pytest.raises(PifleetError, match="refuses the login of deployer") as caught:
        Engine(Docker({"login": (1, "denied very-secret")}), Login("r", "deployer", "very-secret")).pull([IMAGE])
    assert "very-secret" not in str(caught.value)
    with pytest.raises(PifleetError, match="cannot be pulled"):
        Engine(Docker({"pull": (1, "connection refused")})).pull([IMAGE])


def test_image_in_use_stays() -> None:
    here = {"ls": f"{kept_tag(IMAGE)} {IMAGE}\nplain:1 plain@<none>\n"}
    docker = Docker(out=here)
    assert Engine(docker).remove([IMAGE, "plain:1", "plain:2"]) == [IMAGE, "plain:1"]
    assert docker.ran("image", "rm") == [("docker", "image", "rm", kept_tag(IMAGE), IMAGE), ("docker", "image", "rm", "plain:1")]
    docker = Docker(out={"ls": f"{IMAGE.partition('@')[0]}:<none> {IMAGE}\n"})
    assert Engine(docker).remove([IMAGE]) == [IMAGE] and docker.ran("image", "rm") == [("docker", "image", "rm", IMAGE)]
    assert Engine(Docker({"rm": (1, "in use")}, here)).remove([IMAGE]) == []
    assert Engine(Docker({"ls": (127, "")})).remove([IMAGE]) == []
    docker = Docker()
    assert Engine(docker).remove([]) == [] and not docker.calls


def test_migration(places: Places) -> None:
    docker = Docker({"inspect": (1, "No such object")}, {"run": "migrated 3 tables\n"})
    Path(places.folder).mkdir(parents=True)
    (Path(places.folder) / "db.env").write_text("SECRET=1")
    project.stage(places, {**files(compose_yaml="x"), "db.sops.env": (0o644, b"encrypted")})
    assert (Path(places.staged) / "db.env").read_text() == "SECRET=1"
    assert migrate.migrate(places, "web", ["migrate", "up"], 5, docker) == "migrated 3 tables"
    call = next(call for call in docker.calls if "run" in call)
    assert call[-4:] == ("prod-workers-migration-web", "web", "migrate", "up") and "--no-deps" in call
    assert docker.ran("rm") and not Path(places.staged).exists()


def test_failed_migration(places: Places) -> None:
    docker = Docker({"inspect": (1, ""), "run": (3, "table is locked\npassword=hunter22")})
    with pytest.raises(PifleetError, match=r"migration of web ended with exit code 3: table is locked") as caught:
        migrate.migrate(places, "web", ["up"], 5, docker)
    assert "hunter22" not in str(caught.value) and docker.ran("rm")


def test_migration_of_an_interrupted_run_is_waited_for(places: Places) -> None:
    docker = Docker(out={"inspect": "true"})
    migrate.migrate(places, "web", ["up"], 5, docker)
    assert docker.ran("wait") and docker.calls.index(docker.ran("wait")[0]) < docker.calls.index(docker.ran("rm")[0])
    with pytest.raises(PifleetError, match="still runs after 5 seconds"):
        migrate.migrate(places, "web", ["up"], 5, Docker({"wait": (124, "")}, {"inspect": "true"}))


def test_one_migration_of_a_project_at_a_time(places: Places) -> None:
    with migrate.alone(places, 1):
        began = time.monotonic()
        with pytest.raises(PifleetError, match=r"another run still migrates prod-workers after 0.5 seconds"), migrate.alone(places, 0.5):
            pass
        assert time.monotonic() - began >= 0.5
        released = threading.Event()

        def wait() -> None:
            with migrate.alone(places, 60):
                released.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not released.is_set()
    waiting.join(60)
    assert released.is_set()


def test_manifest_is_json(places: Places) -> None:
    project.bring(places, files(compose_yaml="1"))
    assert json.loads(Path(places.manifest).read_text()) == ["compose.yaml"]
