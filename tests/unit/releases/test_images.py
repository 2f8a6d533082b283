# SPDX-License-Identifier: GPL-3.0-or-later
"""Build backends by id, building and pushing: which commands run, where the password goes, and what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.engine import Login
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import backends
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.images import Images
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import Image

from tests.unit.releases.conftest import digest_of

WEB = Image(
    "web", "registry.example:5000/fleet/web:1.0.0", "", "inputs", "docker", "apps/web", "Dockerfile", "linux/arm64", {"B": "2", "A": "1"}
)
REPOSITORY = "registry.example:5000/fleet/web"


class Engine:
    """Answers like docker, and remembers what it was asked. *failing*: (word of the command, exit code, error output)."""

    def __init__(self, failing: tuple[str, int, str] = ("", 0, ""), digests: str = f'["{REPOSITORY}@{digest_of(5)}"]') -> None:
        self.calls: list[tuple[str, ...]] = []
        self.stdin: list[str] = []
        self._failing, self._digests = failing, digests

    def __call__(
        self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None,
        bare: bool = False, keep: Sequence[int] = (), most: int = 0,
    ) -> Completed:  # fmt: skip
        self.calls.append(tuple(argv))
        self.stdin += [stdin] if stdin else []
        word, rc, error = self._failing
        if word and word in argv:
            return Completed(tuple(argv), rc, "", error)
        return Completed(tuple(argv), 0, self._digests if "inspect" in argv else "", "")


def images(engine: Engine, login: Login | None = None, registry: backends.Registry | None = None) -> Images:
    return Images(Path("/fleet"), registry or backends.shipped(), login, {"web": 5}, engine)


def test_build_and_push() -> None:
    engine = Engine()
    built = images(engine).build(WEB)
    assert built == WEB
    assert engine.calls[0] == (
        "docker", "build", "--tag", WEB.reference, "--file", "/fleet/apps/web/Dockerfile", "--platform", "linux/arm64",
        "--build-arg", "A=1", "--build-arg", "B=2", "/fleet/apps/web",
    )  # fmt: skip
    pushed = images(engine).push(built)
    assert pushed.digest == digest_of(5) and pushed.pinned == f"{REPOSITORY}@{digest_of(5)}"
    assert engine.calls[1] == ("docker", "push", WEB.reference)


def test_known_digest_is_neither_built_nor_pushed() -> None:
    engine = Engine()
    known = Image("web", WEB.reference, digest_of(1), backend="docker")
    assert images(engine).push(images(engine).build(known)) == known and engine.calls == []


def test_password_goes_through_stdin_and_its_file_is_removed() -> None:
    engine = Engine()
    images(engine, Login("registry.example:5000", "deployer", "very-secret")).push(WEB)
    assert engine.stdin == ["very-secret"] and "very-secret" not in str(engine.calls)
    folder = engine.calls[0][2]
    assert engine.calls[1][:4] == ("docker", "--config", folder, "push") and not Path(folder).exists()


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        (("build", 1, "step 3 failed"), "was not built from /fleet/apps/web: step 3 failed"),
        (("build", 124, "docker: no end after 5 seconds"), "no end after 5 seconds"),
        (("build", 1, "\x00\x07\x1b[31mbroken\ufffd" * 200), "broken"),
        (("build", 127, ""), "Install Docker"),
        (("push", 1, "no space left on device"), "was not pushed: no space left on device"),
        (("push", 1, "PASSWORD=hunter2hunter2"), r"\*\*\*\*"),
    ],
)
def test_failures_are_told(failing: tuple[str, int, str], said: str) -> None:
    with pytest.raises(PifleetError, match=said) as caught:
        images(Engine(failing)).push(images(Engine(failing)).build(WEB))
    assert "\x1b" not in str(caught.value) and "\x00" not in str(caught.value) and len(str(caught.value)) < 2500


def test_several_digests_are_no_digest() -> None:
    with pytest.raises(PifleetError, match="Docker knows 0 digests"):
        images(Engine(digests="null")).push(WEB)


def test_unknown_backend() -> None:
    with pytest.raises(PifleetError, match=r"no build backend kaniko.*buildx, docker"):
        backends.shipped().of("kaniko")


def test_shipped_backends_say_what_is_missing() -> None:
    backends.shipped().of("docker").check(Engine())
    with pytest.raises(PifleetError, match="Install Docker's buildx plugin"):
        backends.shipped().of("buildx").check(Engine(("buildx", 1, "unknown command: docker buildx")))
    engine = Engine()
    options = backends.BuildOptions(Path("/w"), "x:1", platform="linux/arm64")
    assert backends.shipped().of("buildx").build(options, engine) == "x:1"
    assert engine.calls[0][:4] == ("docker", "buildx", "build", "--load")


def test_backend_from_outside(tmp_path: Path) -> None:
    (tmp_path / "third.py").write_text(
        f"""
class Third:
    def check(self, run):
        pass
    def build(self, options, run):
        return f"{{options.tag.rpartition(':')[0]}}@{digest_of(9)}"

def register(registry):
    registry.register("third", Third)
"""
    )
    registry = backends.with_files(backends.shipped(), tmp_path, ["third.py"])
    engine = Engine()
    image = Image("web", WEB.reference, backend="third", context="apps/web")
    built = images(engine, registry=registry).build(image)
    assert built.pinned == f"{REPOSITORY}@{digest_of(9)}"
    assert images(engine, registry=registry).push(built) == built and engine.calls == []
    with pytest.raises(PifleetError, match="Two build backends are called third"):
        backends.with_files(registry, tmp_path, ["third.py"])
    (tmp_path / "bad.py").write_text("1 / 0")
    for name in ("bad.py", "nowhere.py", "releases.yml"):
        with pytest.raises(PifleetError, match="registers no build backend"):
            backends.with_files(backends.shipped(), tmp_path, [name])
