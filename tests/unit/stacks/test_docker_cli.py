# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker port on what Docker and Compose really said (``recorded/``, made on a lab node), and on what they might say one day."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import desired, files
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.docker_cli import DockerCli, cause
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import EngineError, EngineMissingError, Source
from hypothesis import given
from hypothesis import strategies as st

RECORDED = Path(__file__).parent / "recorded"
VERSIONS = sorted(path.stem for path in RECORDED.glob("*.jsonl"))
REC = Source("rec", "/srv/rec/rec", ("/srv/rec/rec/compose.yaml",))


class Replay:
    """A runner that answers with recorded calls, in their order, and fails for any other command."""

    def __init__(self, calls: Sequence[dict[str, Any]]) -> None:
        self.calls = list(calls)
        self.options: list[dict[str, Any]] = []

    def __call__(self, argv: Sequence[str], **options: Any) -> Completed:
        call = self.calls.pop(0)
        assert list(argv)[: len(call["argv"])] == call["argv"]
        self.options.append(options)
        return Completed(tuple(argv), call["rc"], call["stdout"], call["stderr"])


@pytest.fixture(params=VERSIONS)
def replay(request: pytest.FixtureRequest) -> Callable[[str], DockerCli]:
    rows = [json.loads(line) for line in (RECORDED / f"{request.param}.jsonl").read_text().splitlines()]
    return lambda name: DockerCli(Replay(next(row["calls"] for row in rows if row["name"] == name)), plugins=())


def answer(rc: int = 0, stdout: str = "", stderr: str = "") -> DockerCli:
    return DockerCli(lambda argv, **_: Completed(tuple(argv), rc, stdout, stderr))


def test_containers_and_images_in_two_calls(replay):
    seen = replay("observe").observe(["t/app:1", "t/nope:1", "t/app:2"], projects=["rec"], timeout=60)
    assert set(seen.images) == {"t/app:1", "t/app:2"} and all(i.startswith("sha256:") for i in seen.images.values())
    found = {c.name: c for c in seen.containers if not c.oneoff}
    assert sorted(found) == ["rec-job-1", "rec-paused-1", "rec-side-1", "rec-web-1", "rec-web-2", "rec-web2-1"]
    assert {c.state for c in seen.containers if c.oneoff} == {"created"}
    web = found["rec-web-2"]
    assert (web.project, web.service, web.number, web.state, web.health) == ("rec", "web", 2, "running", "healthy")
    assert web.networks == ("rec_back", "rec_front") and web.image == "t/app:1" and web.folder == "/srv/rec/rec"
    assert (web.limits["Memory"], web.limits["NanoCpus"]) == ("67108864", "500000000")
    assert json.loads(web.limits["RestartPolicy"])["Name"] == "always"
    assert web.mounts == ("bind /srv/rec/rec/conf /conf ro", "volume rec_data /data rw"), "the anonymous volume has no name to compare"
    assert web.labels["io.pifleet.stack.commit_message"] == 'a "b" $HOME'
    assert all(name.startswith("io.pifleet.stack.") for name in web.labels)
    assert (found["rec-job-1"].state, found["rec-job-1"].exit_code) == ("exited", 0)
    assert found["rec-paused-1"].state == "paused" and found["rec-web2-1"].state == "exited" and found["rec-web2-1"].exit_code
    assert found["rec-side-1"].network_mode == f"container:{found['rec-web2-1'].id}" and found["rec-side-1"].networks == ()
    assert web.shape == found["rec-web-1"].shape != found["rec-job-1"].shape


def test_the_resolved_project_becomes_services(replay, tmp_path):
    model = json.loads(json.dumps(dict(replay("resolve").resolve(REC, timeout=60))).replace("/srv/rec", str(tmp_path)))
    folder = tmp_path / "rec"
    (folder / "conf").mkdir(parents=True)
    (folder / "conf/x").write_text("1")
    (folder / "compose.yaml").write_text("")
    [found] = files.find(str(tmp_path))
    stack = desired.build(found, model, root=str(tmp_path))
    services = stack.services
    assert sorted(services) == ["job", "none", "paused", "side", "web", "web2"]
    assert (services["web"].scale, services["none"].scale) == (2, 0)
    assert services["web"].networks == ("rec_back", "rec_front") and services["side"].networks is None
    assert services["web"].mounts == (f"bind {folder}/conf /conf", "volume rec_data /data")
    assert list(services["web"].files) == ["conf/x"] and services["web"].volumes == ("rec_data",)
    assert services["web"].limits == {"Memory": "67108864", "NanoCpus": "500000000", "RestartPolicy": "always"}
    assert [services[n].job for n in ("job", "web2", "paused", "web")] == [True, True, False, False]
    assert services["paused"].undecided and not services["job"].undecided
    assert services["side"].follows == ("web2",) and services["side"].shares == "web2"
    assert {"environment.A", "environment.PASSWORD", "image", "healthcheck"} <= set(services["web"].keys)
    assert "depends_on" not in services["web"].keys and "scale" not in services["none"].keys
    assert set(stack.networks) >= {"rec_back", "rec_front"} and set(stack.volumes) == {"rec_data"}
    assert (stack.options.nodes, stack.options.policy) == (("pi-1",), "apply")
    assert "hunter2" not in repr(stack)


def test_a_container_as_compose_made_it_is_as_the_resolved_project_wants_it(replay, tmp_path):
    seen = replay("observe").observe(["t/app:1", "t/nope:1", "t/app:2"], projects=["rec"], timeout=60)
    test_the_resolved_project_becomes_services(replay, tmp_path)
    model = json.loads(json.dumps(dict(replay("resolve").resolve(REC, timeout=60))).replace("/srv/rec", str(tmp_path)))
    [found] = files.find(str(tmp_path))
    stack = desired.build(found, model, root=str(tmp_path))
    for container in seen.containers:
        if not container.oneoff:
            service = stack.services[container.service]
            assert service.image == container.image
            assert service.networks is None or service.networks == container.networks
            assert {k: container.limits[k] for k in ("Memory", "NanoCpus")} == {k: service.limits[k] for k in ("Memory", "NanoCpus")}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("invalid", "did not find expected node content"),
        ("unknownkey", "foo"),
        ("noenv", "nope.env"),
        ("empty", "empty compose file"),
        ("port", "99999"),
        ("unset", "no value for the variable NOPE, OTHER"),
    ],
)
def test_what_compose_refuses_is_said_with_its_file(replay, name, said):
    source = Source(name, f"/srv/e/{name}", (f"/srv/e/{name}/compose.yaml",))
    with pytest.raises(EngineError, match=said) as error:
        replay(f"resolve_{name}").resolve(source, timeout=60)
    assert f"/srv/e/{name}/compose.yaml" in str(error.value) and "\n" not in str(error.value) and "level=" not in str(error.value)


def test_services_whose_profile_is_off(replay):
    assert replay("disabled").disabled(REC, timeout=60) == ("off",)


def test_a_failed_apply_says_the_cause_and_not_the_progress(replay):
    with pytest.raises(EngineError) as error:
        replay("up_badcmd").up(Source("badcmd", "/srv/e/badcmd", ("/srv/e/badcmd/compose.yaml",)), ["web"], recreate=True, timeout=60)
    assert '"/nope"' in str(error.value) and "Starting" not in str(error.value)
    with pytest.raises(EngineError) as error:
        replay("up_dup").up(Source("dup", "/srv/e/dup", ("/srv/e/dup/compose.yaml",)), ["a", "b"], recreate=True, timeout=60)
    assert "Conflict" in str(error.value) and "Stopping" not in str(error.value)
    with pytest.raises(EngineError, match="connection refused"):
        replay("pull").pull("localhost:1/nope:1", "", timeout=60)
    with pytest.raises(EngineError, match=r"Cannot connect to the Docker daemon at unix:///nope\.sock"):
        replay("down_engine").observe(timeout=60)


def test_a_command_that_takes_too_long_says_so():
    with pytest.raises(EngineError, match="took longer than 7 seconds and was ended"):
        answer(rc=124).up(REC, ["web"], recreate=True, timeout=7)


def test_no_docker_is_an_error_of_its_own(tmp_path):
    with pytest.raises(EngineMissingError, match="Docker is not installed"):
        answer(rc=127).observe(timeout=1)
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\n")
    docker.chmod(0o755)
    cli = DockerCli(plugins=[str(tmp_path)])
    cli._env["PATH"] = "/nowhere"
    with pytest.raises(EngineMissingError, match="Docker is not installed"):
        cli.identity()
    cli._env["PATH"] = str(tmp_path)
    with pytest.raises(EngineMissingError, match="Compose plugin"):
        cli.identity()
    (tmp_path / "docker-compose").write_text("1")
    before = cli.identity()
    (tmp_path / "docker-compose").write_text("22")
    assert cli.identity() != before


def test_compose_is_started_by_itself_where_it_is_found(tmp_path):
    calls: list[Sequence[str]] = []

    def run(argv: Sequence[str], **_: Any) -> Completed:
        calls.append(argv)
        return Completed(tuple(argv), 0, "{}", "")

    (tmp_path / "docker-compose").write_text("1")
    for plugins in ([str(tmp_path)], ["/nowhere"]):
        DockerCli(run, plugins=plugins).resolve(REC, timeout=60)
        DockerCli(run, plugins=plugins).down("rec", volumes=False, timeout=60)
    plugin = [str(tmp_path / "docker-compose")]
    assert [call[: call.index("--ansi" if "--ansi" in call else "--project-directory")] for call in calls] == [
        plugin,
        plugin,
        ["docker", "compose"],
        ["docker", "compose"],
    ]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda cli: cli.build(REC, ["a"], timeout=1), ["compose … build --quiet a"]),
        (lambda cli: cli.up(REC, ["a", "b"], recreate=False, timeout=1), ["compose … up {} --no-recreate a b"]),
        (lambda cli: cli.up(REC, ["a"], recreate=True, timeout=1), ["compose … up {} a"]),
        (lambda cli: cli.down("rec", volumes=False, timeout=1), ["compose --project-directory / -p rec down --remove-orphans"]),
        (lambda cli: cli.down("rec", volumes=True, timeout=1), ["compose --project-directory / -p rec down --remove-orphans --volumes"]),
        (lambda cli: cli.pull("a:1", "linux/arm64", timeout=1), ["pull --quiet --platform linux/arm64 a:1"]),
        (lambda cli: cli.unpause(["1", "2"], timeout=1), ["unpause 1 2"]),
        (lambda cli: cli.rename("1", "web-a-1", timeout=1), ["rename 1 web-a-1"]),
        (lambda cli: cli.remove(["1", "2"], timeout=1), ["stop 1 2", "rm 1 2"]),
        (lambda cli: cli.drop_network("n", ["1"], timeout=1), ["network disconnect --force n 1", "network rm n"]),
        (lambda cli: cli.volumes(["v"], timeout=1), ["volume ls --quiet"]),
    ],
)
def test_what_docker_is_asked_for_and_nothing_more(ask, said):
    """Volumes are removed only where that is said, an image is fetched only by ``pull``, and no neighbour is touched."""
    calls: list[str] = []

    def run(argv: Sequence[str], **_: Any) -> Completed:
        calls.append(" ".join(argv[1:]).replace(f"--ansi never -p rec --project-directory {REC.folder} -f {REC.files[0]}", "…"))
        return Completed(tuple(argv), 0, "", "")

    ask(DockerCli(run, plugins=()))
    flags = "--detach --no-deps --no-build --pull never"
    assert calls == [one.format(flags) for one in said]
    for failure in ("", "Cannot connect to the Docker daemon"):
        with pytest.raises(EngineError):
            ask(answer(1, "", failure))


def test_what_is_gone_already_needs_no_removing():
    answer(1, "", "Error response from daemon: No such container: 1").remove(["1"], timeout=1)
    answer(1, "", "Error response from daemon: network n not found").drop_network("n", ["1"], timeout=1)


def test_volumes_that_exist():
    assert answer(0, "web_data\nother\n").volumes(["web_data", "gone"], timeout=1) == ("web_data",)


@pytest.mark.parametrize(("rc", "said"), [(127, "sops is not installed"), (1, "no key")])
def test_what_cannot_be_decrypted_says_why_and_where_the_key_belongs(rc, said):
    with pytest.raises(EngineError, match=said):
        answer(rc, "", "no key").decrypt("a.sops.env", "/t", key_file="/etc/key", timeout=1)
    answer().decrypt("a.sops.env", "/t", key_file="/etc/key", timeout=1)


def test_nothing_of_the_environment_can_be_interpolated(monkeypatch):
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    monkeypatch.setenv("DOCKER_HOST", "unix:///other.sock")
    seen: list[dict[str, Any]] = []

    def run(argv: Sequence[str], **options: Any) -> Completed:
        seen.append(options)
        return Completed(tuple(argv), 0, "{}", "")

    DockerCli(run).resolve(REC, timeout=60)
    assert seen[0]["bare"] and set(seen[0]["env"]) == {"PATH", "HOME", "DOCKER_HOST"}


def test_secrets_in_what_a_command_said_are_masked():
    assert "hunter2" not in cause(Completed(("x",), 1, "", "login failed: password=hunter2"))


def test_no_containers_and_no_images_are_one_call():
    calls: list[Sequence[str]] = []

    def run(argv: Sequence[str], **_: Any) -> Completed:
        calls.append(argv)
        return Completed(tuple(argv), 0, "", "")

    assert DockerCli(run).observe(timeout=1).containers == () and len(calls) == 1


def test_a_container_that_went_away_between_the_calls_is_left_out():
    one, two = "1" * 64, "2" * 64
    line = json.loads((RECORDED / f"{VERSIONS[0]}.jsonl").read_text().splitlines()[0])["calls"][1]["stdout"].splitlines()[0]

    def run(argv: Sequence[str], **_: Any) -> Completed:
        if "ps" in argv:
            return Completed(tuple(argv), 0, f"{one} rec\n{two} rec\n", "")
        return Completed(tuple(argv), 1, line + "\n", f"Error: No such object: {two}\n")

    assert len(DockerCli(run).observe(timeout=1).containers) == 1


@given(st.sampled_from([0, 1, 15, 124, 137]), st.text(), st.text())
def test_whatever_a_command_says_is_an_answer_or_one_error(rc, stdout, stderr):
    cli = answer(rc, stdout, stderr)
    for ask in (
        lambda: cli.resolve(REC, timeout=1),
        lambda: cli.observe(["a:1"], timeout=1),
        lambda: cli.disabled(REC, timeout=1),
        lambda: cli.up(REC, ["a"], recreate=False, timeout=1),
        lambda: cli.remove(["a"], timeout=1),
        lambda: cli.drop_network("n", ["a"], timeout=1),
    ):
        with contextlib.suppress(EngineError):
            ask()
