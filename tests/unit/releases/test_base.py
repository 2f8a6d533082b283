# SPDX-License-Identifier: GPL-3.0-or-later
"""The base project as a commit has it, and what is rendered for each host role."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import base
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import Image, Project

from tests.support.release_fleet import Repository
from tests.unit.releases.conftest import digest_of

PROJECT = Project("workers", "prod-workers", ("pi-2",), {"web": "recreate", "side": "recreate"})
WEB = Image("web", "registry.example:5000/fleet/web:1.0.0", digest_of(1), "x", "docker")
COMPOSE = b"""
name: something
x-common: &common {restart: always}
services:
  job: {image: job}
  web:
    <<: *common
    build: .
    environment: {B: "$$x ${Y}", A: 1}
    depends_on: {job: {condition: service_started}, side: {condition: service_healthy}}
    env_file: ./web.env
  side: {image: "other:1", depends_on: [job, web]}
x-pifleet: {nodes: [pi-9], drift_ignore: ["stopped"]}
volumes: {data: {}}
"""


def rendered(compose: bytes = COMPOSE) -> str:
    return base.render(base.parse("services", {"compose.yaml": ("644", compose)}), PROJECT, {"web": WEB})


@pytest.mark.parametrize("value", ["a\x85b", "a\u2028b", "ä: b", "yes", ""])
def test_a_text_is_read_again_as_it_was(value: str) -> None:
    compose = yaml.safe_dump({"services": {name: {"image": name, "labels": {"a": value}} for name in ("web", "side", "job")}})
    assert yaml.safe_load(rendered(compose.encode()))["services"]["web"]["labels"] == {"a": value}


def test_services_of_the_role_alone_with_pinned_images() -> None:
    table = yaml.safe_load(rendered())
    assert sorted(table["services"]) == ["side", "web"]
    web = table["services"]["web"]
    assert web["image"] == f"registry.example:5000/fleet/web@{digest_of(1)}" and "build" not in web
    assert web["depends_on"] == {"side": {"condition": "service_healthy"}} and table["services"]["side"]["depends_on"] == ["web"]
    assert web["env_file"] == "./web.env" and web["restart"] == "always" and web["environment"]["B"] == "$$x ${Y}"
    assert "name" not in table and table["x-pifleet"] == {"drift_ignore": ["stopped"]} and table["volumes"] == {"data": {}}


def test_rolled_services_say_so() -> None:
    project = replace(PROJECT, services={"web": "rolling"}, drain={"web": 2.0})
    text = base.render(base.parse("services", {"compose.yaml": ("644", COMPOSE)}), project, {"web": WEB})
    assert yaml.safe_load(text)["x-pifleet"] == {"drift_ignore": ["stopped"], "rolling": {"web": 2.0}}


def test_key_order_is_stable() -> None:
    lines = COMPOSE.decode().replace('{B: "$$x ${Y}", A: 1}', '{A: 1, B: "$$x ${Y}"}')
    assert rendered() == rendered(lines.encode())
    assert base.sha256(rendered()) == base.sha256(rendered(lines.encode()))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no compose file"),
        ({"compose.yaml": ("644", b""), "docker-compose.yml": ("644", b"")}, "has compose.yaml and docker-compose.yml"),
        ({"compose.yaml": ("644", b"services: [")}, "compose.yaml is no YAML"),
        ({"compose.yaml": ("644", b"\xff\xfe\x00")}, "compose.yaml"),
        ({"compose.yaml": ("644", b"services: [web]")}, "has no table of services"),
        ({"compose.yaml": ("644", b"services: {web: nothing}")}, "has no table of services"),
        ({"compose.yaml": ("644", b"services: {}"), "compose.override.yaml": ("644", b"")}, "compose.override.yaml would change"),
        ({"compose.yaml": ("644", b"services: {}"), "link": ("link", b"")}, "link is a symbolic link"),
        ({"compose.yaml": ("644", b"services: {}"), "large": ("644", b"x" * (5 << 20))}, "more than 4 MB"),
    ],
)
def test_what_is_no_base_project(files: dict[str, tuple[str, bytes]], said: str) -> None:
    with pytest.raises(PifleetError, match=said):
        base.parse("services", files)


def test_read_of_a_commit(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "fleet")
    repository.write("services/compose.yaml", "services: {web: {image: x}}\n")
    repository.write("services/conf/site.conf", "one\n")
    (repository.root / "services/run.sh").write_text("#!/bin/sh\n")
    (repository.root / "services/run.sh").chmod(0o755)
    commit = repository.commit()
    repository.write("services/conf/site.conf", "two\n")
    found = base.read(repository.root, "services", commit)
    assert sorted(found.services) == ["web"]
    assert found.files == {"conf/site.conf": ("644", b"one\n"), "run.sh": ("755", b"#!/bin/sh\n")}
    whole = base.files_of(found, "rendered")
    assert whole["compose.yaml"] == ("644", b"rendered") and len(whole) == 3
    with pytest.raises(PifleetError, match="has no compose file in the commit"):
        base.read(repository.root, "nowhere", commit)
