# SPDX-License-Identifier: GPL-3.0-or-later
"""``auto``: known failures, each made on a node by a change of the service's files, and repaired from what can be seen there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.fix_runs.conftest import BASE, NODE, SERVER, Shop
from tests.support.fleet import Fleet
from tests.support.stack_node import APP

NODE_JS = "pifleet/lab-node:1"
#: a reference of a registry that does not answer
IMAGE = "127.0.0.1:9/shop/app"
TAKEN = 18081
PYTHON = """\
#!/usr/bin/python3
import http.server, os
MODE = os.environ["MODE"]
WORDS = open("/build/words.txt").read()
HELD = b"x" * (int(os.environ.get("HELD", "1")) << 20)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if MODE == "bad" else 200)
        self.end_headers()
    def log_message(self, *words):
        pass
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""
NODE_SERVER = """\
const greeting = require("greeting");
require("http").createServer((_asked, answer) => answer.end(greeting)).listen(8080);
"""
#: puts the packages that package.json names into node_modules, as npm does, without a network
NODE_INSTALL = """\
const fs = require("fs");
for (const name of Object.keys(JSON.parse(fs.readFileSync("/build/package.json")).dependencies))
  fs.cpSync(`/build/packages/${name}`, `/build/node_modules/${name}`, {recursive: true});
"""


@dataclass(frozen=True)
class Failure:
    """One stack with a service ``app``. *good*: its files; *bad*: those of them that a change makes others, None: removes; *said*: what
    ``auto`` takes it for; *modes*: of a file, after the change."""

    good: Mapping[str, str]
    bad: Mapping[str, str | None]
    said: str
    modes: Mapping[str, int]


def compose(**keys: object) -> str:
    service = {"build": "./app", "environment": {"MODE": "good"}, "restart": "unless-stopped", **keys}
    service = {key: value for key, value in service.items() if value is not None}
    return json.dumps({"x-pifleet": {"nodes": [NODE]}, "services": {"app": service}}, indent=1) + "\n"


def python(**keys: object) -> dict[str, str]:
    return {
        "compose.yaml": compose(**keys),
        "app/Dockerfile": f'FROM {BASE}\nCOPY . /build\nCMD ["/build/server.py"]\n',
        "app/server.py": PYTHON,
        "app/words.txt": "hello\n",
    }


def package(*names: str) -> str:
    return json.dumps({"name": "app", "dependencies": dict.fromkeys(names, "1.0.0")}, indent=2) + "\n"


NODE_FILES = {
    "compose.yaml": compose(),
    "app/Dockerfile": f'FROM {NODE_JS}\nCOPY . /build\nRUN ["/node", "/build/install.js"]\nCMD ["/node", "/build/server.js"]\n',
    "app/install.js": NODE_INSTALL,
    "app/server.js": NODE_SERVER,
    "app/package.json": package("greeting", "other"),
    "app/packages/greeting/index.js": 'module.exports = "hello";\n',
    "app/packages/other/index.js": "\n",
}
FAILURES: Mapping[str, Failure] = {
    "node-module": Failure(NODE_FILES, {"app/package.json": package("other")}, "missing Node module", {}),
    "image-tag": Failure(
        {"compose.yaml": compose(image=f"{IMAGE}:1", build=None)},
        {"compose.yaml": compose(image=f"{IMAGE}:2", build=None)},
        "image not found",
        {},
    ),
    "variable": Failure(python(), {"compose.yaml": compose(environment={"OTHER": "x"})}, "missing variable", {}),
    "port": Failure(python(ports=["18080:8080"]), {"compose.yaml": compose(ports=[f"{TAKEN}:8080"])}, "port taken", {}),
    "memory": Failure(
        python(mem_limit="48m"),
        {"compose.yaml": compose(mem_limit="48m", environment={"MODE": "good", "HELD": "60"})},
        "out of memory",
        {},
    ),
    "permission": Failure(python(), {}, "wrong file permission", {"app/server.py": 0o644}),
    "file": Failure(python(), {"app/words.txt": None}, "missing file", {}),
    "health": Failure(python(), {"compose.yaml": compose(environment={"MODE": "bad"})}, "bad after a change", {}),
}


#: one that is well after its change too
CALM = "calm"
STACKS = {**FAILURES, CALM: Failure(python(), {"app/words.txt": "hello again\n"}, "", {})}


def node_image(fleet: Fleet) -> None:
    """Load an image of the Node of this machine on the node: nothing is fetched."""
    if fleet.sh(NODE, f"docker image inspect {NODE_JS} >/dev/null 2>&1 && echo there", check=False):
        return
    program = shutil.which("node")
    assert program, "these tests need Node.js on this machine: apt-get install nodejs"
    needs = re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout)
    with tempfile.TemporaryFile() as stream:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.add(Path(program).resolve(), "node")
            for path in needs:
                archive.add(Path(path).resolve(), path)
        stream.seek(0)
        words = ["docker", "exec", "--interactive", f"pifleet-{fleet.inventory.name}-{NODE}", "docker", "import", "-", NODE_JS]
        subprocess.run(words, stdin=stream, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def ailing(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Stacks that were well, until each was changed in a way of its own."""
    fleet.sh(NODE, "docker ps -aq | xargs -r docker rm -fv >/dev/null; rm -rf /var/lib/pifleet/*")
    node_image(fleet)
    fleet.sh(NODE, f"docker tag {APP} {IMAGE}:1; systemd-run --unit taken --quiet python3 -m http.server {TAKEN}")
    shop = Shop(fleet, tmp_path_factory.mktemp("auto") / "fleet")
    repository = shop.repository
    shutil.rmtree(repository.root / "stacks")
    for name, failure in STACKS.items():
        for path, text in failure.good.items():
            repository.write(f"stacks/{name}/{path}", text)
            (repository.root / f"stacks/{name}/{path}").chmod(0o755 if text.startswith("#!") else 0o644)
        health = {"url": "http://{address}:8080/health", "interval": 0.5, "timeout": 20, "samples": 2}
        profile = {"stack": name, "service": "app", "node": NODE, "files": ["**"], "compose_keys": ["*"], "health": health}
        repository.write_yaml(f"fix_profiles/{name}.yml", profile)
    repository.commit()
    shop.deploy()
    for name, failure in STACKS.items():
        for path, text in failure.bad.items():
            repository.write(f"stacks/{name}/{path}", text) if text is not None else (repository.root / f"stacks/{name}/{path}").unlink()
        for path, mode in failure.modes.items():
            (repository.root / f"stacks/{name}/{path}").chmod(mode)
    repository.commit()
    shop.deploy(rc=2)
    yield shop
    fleet.sh(NODE, "systemctl stop taken; docker ps -aq | xargs -r docker rm -fv >/dev/null; rm -rf /var/lib/pifleet/*", check=False)


def container(shop: Shop, name: str) -> str:
    return shop.sh(f"docker ps -aq --no-trunc --filter label=com.docker.compose.project={name}").strip()


@pytest.mark.parametrize("name", FAILURES)
def test_a_known_failure_is_repaired(ailing: Shop, name: str) -> None:
    failure, root = FAILURES[name], ailing.repository.root / "stacks" / name
    others = {other: container(ailing, other) for other in STACKS if other != name}
    ailing.play("fix", service=name, instruction="auto")
    run = ailing.last()
    assert (run.service, run.status) == (name, "succeeded")
    assert json.loads(ailing.artifact("analyze.json"))["evidence"]["failure"] == failure.said
    # that service alone
    assert {other: container(ailing, other) for other in others} == others
    assert ailing.sh(f"docker inspect -f '{{{{.State.Status}}}} {{{{.RestartCount}}}}' {container(ailing, name)}").split() == [
        "running",
        "0",
    ]
    # the smallest patch, and it is what is desired now
    if failure.said == "out of memory":
        assert json.loads((root / "compose.yaml").read_text())["services"]["app"]["mem_limit"] == "96m"
    else:
        assert {path: (root / path).read_text() for path in failure.good} == failure.good
        assert {path: (root / path).stat().st_mode & 0o777 for path in failure.modes} == dict.fromkeys(failure.modes, 0o755)
    touched = ailing.repository.git("show", "--format=", "--name-only", "HEAD").split()
    assert touched == [f"stacks/{name}/{path}" for path in {**failure.bad, **failure.modes}]


def test_what_was_stopped_by_hand_needs_no_patch(ailing: Shop) -> None:
    ailing.sh(f"docker stop -t 1 {container(ailing, CALM)}")
    head = ailing.head()
    told = ailing.told(ailing.play("fix", rc=2, service=CALM, instruction="auto"))
    assert "is not as its files say (stopped)" in told
    assert (ailing.head(), ailing.last().service, ailing.last().status) == (head, CALM, "failed")
    report = json.loads(ailing.artifact("analyze.json"))["stack"]
    assert [drift["reason"] for drift in report["drift"]] == ["stopped"]


def test_after_two_bad_changes_what_was_well_comes_back(well: Shop) -> None:
    well.profile(files=["**"])
    well.repository.commit()
    for number in (1, 2):
        well.change("web/server.py", f"raise SystemExit({number})\n")
        well.deploy(rc=2)
    others = well.others()
    well.fix("auto")
    run = well.last()
    assert (run.status, well.says(), well.others()) == ("succeeded", "1.0 good", others)
    assert (well.repository.root / "stacks/shop/web/server.py").read_text() == SERVER
    assert f"which {NODE} synced last" in run.plan.summary
