# SPDX-License-Identifier: GPL-3.0-or-later
"""What the argument specs of a role say is what the role does: defaults by value, and its README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomllib
import yaml

from scripts import role_readmes

ROLES = sorted(path for path in (role_readmes.ROOT / "roles").iterdir() if path.is_dir())


def entries(role: Path) -> dict[str, dict[str, Any]]:
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    return {entry: spec.get("options") or {} for entry, spec in specs.items()}


def defaults(role: Path) -> dict[str, Any]:
    return yaml.safe_load((role / "defaults/main.yml").read_text()) or {}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_are_those_of_the_specs(role: Path) -> None:
    told: dict[str, Any] = {}
    for entry, options in entries(role).items():
        for name, option in options.items():
            if "default" in option:
                assert told.setdefault(name, option["default"]) == option["default"], f"{name} differs within the specs, in {entry}"
    assert defaults(role) == told


def test_one_variable_has_one_default_in_all_roles() -> None:
    seen: dict[str, tuple[str, Any]] = {}
    for role in ROLES:
        for name, value in defaults(role).items():
            first, before = seen.setdefault(name, (role.name, value))
            assert before == value, f"{name} is another in {role.name} than in {first}"


def test_readmes_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert role_readmes.main(["--check"]) == 0, capsys.readouterr().out


def test_readme_that_is_not_current_is_found_and_written_anew(tmp_path: Path) -> None:
    role = tmp_path / "one"
    (role / "meta").mkdir(parents=True)
    options = {"a": {"type": "list", "elements": "str", "default": [], "description": ["See O(b) | C(x(y))."]}, "b": {"required": True}}
    spec = {"main": {"short_description": "Does it", "description": "What M(pifleet.ops.x) does.", "options": options}}
    (role / "meta/argument_specs.yml").write_text(yaml.safe_dump({"argument_specs": spec}))
    assert role_readmes.main(["--check"], tmp_path) == 1 and not (role / "README.md").exists()
    assert role_readmes.main([], tmp_path) == 0
    text = (role / "README.md").read_text()
    assert "| `a` | list of str | `[]` | See `b` \\| `x(y)`. |" in text and "| `b` | str | **required** |  |" in text
    assert "- What `pifleet.ops.x` does." in text
    (role / "README.md").write_text(text.replace("Does it.", "Written by hand.").replace("list of str", "gone"))
    assert role_readmes.main(["--check"], tmp_path) == 1
    assert role_readmes.main([], tmp_path) == 0
    assert (role / "README.md").read_text() == text.replace("Does it.", "Written by hand.")


#: what the controller has for the hub and its worker alone, and ansible-core, which the environment brings itself
NOT_OF_THE_COLLECTION = ("ansible-core", "ansible-runner", "celery", "fastapi", "prometheus-client", "redis", "uvicorn")


def test_execution_environment_has_the_libraries_of_the_controller() -> None:
    wanted = tomllib.loads((role_readmes.ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    told = [line for line in (role_readmes.ROOT / "meta/ee-requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert told == sorted(line for line in wanted if not line.startswith(NOT_OF_THE_COLLECTION))


def test_execution_environment_takes_the_version_that_is_built() -> None:
    version = yaml.safe_load((role_readmes.ROOT / "galaxy.yml").read_text())["version"]
    environment = yaml.safe_load((role_readmes.ROOT / "execution-environment.yml").read_text())
    tarball = f"pifleet-ops-{version}.tar.gz"
    assert environment["dependencies"]["galaxy"]["collections"] == [{"name": tarball, "type": "file"}]
    assert environment["additional_build_files"] == [{"src": tarball, "dest": "."}]
    core = tomllib.loads((role_readmes.ROOT / "pyproject.toml").read_text())["project"]["dependencies"][0]
    assert environment["dependencies"]["ansible_core"]["package_pip"] == core
