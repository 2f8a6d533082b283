# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import tomllib
import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import Edit
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import diff
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.fix_runs import COMPOSE, REQUIREMENTS, made_profile, propose

WIDE = made_profile(compose_keys=["*"])


def after(text: str, texts: dict[str, str] | None = None, **more: object) -> str:
    found = propose(text, texts, **more)
    assert len(found.edits) == 1
    return found.edits[0].after


# -- dependencies -----------------------------------------------------------------------------------------------------------------------
def test_requirements() -> None:
    assert after("bump requests to 2.32.4") == REQUIREMENTS.replace("2.31.0", "2.32.4")
    assert after("bump Flask to 3.1") == REQUIREMENTS.replace("3.0.0", "3.1")
    assert after("add gunicorn 22.0") == REQUIREMENTS + "gunicorn==22.0\n"
    assert after("bump a.b to 2", {"web/requirements.txt": "A_b>=1,<2 ; python_version > '3'\n"}) == "A_b==2 ; python_version > '3'\n"
    assert after("bump bare to 2", {"web/requirements.txt": "bare"}) == "bare==2"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bump nothing to 1", "is in none of"),
        ("bump requests to 2.31.0", "is so already"),
        ("add requests 1", "has requests already"),
        ("bump requests to 2 in ../x/requirements.txt", "no file below"),
        ("bump requests to 2 in web/other.txt", "is not there"),
        ("bump requests to 2 in compose.yaml", "no file that lists dependencies"),
    ],
)
def test_what_cannot_be_done_is_refused(text: str, told: str) -> None:
    with pytest.raises(PifleetError, match=told):
        propose(text)


def test_hashes_are_not_made_wrong() -> None:
    with pytest.raises(PifleetError, match="hashes"):
        propose("bump a to 2", {"web/requirements.txt": "a==1 \\\n  --hash=sha256:00\n"})


def test_which_of_two_files_has_to_be_said() -> None:
    two = {"web/dev/requirements.txt": "requests==1\n"}
    with pytest.raises(PifleetError, match="in FILE"):
        propose("bump requests to 2", two)
    assert after("bump requests to 2 in web/dev/requirements.txt", two) == "requests==2\n"


def test_package_json_keeps_its_form() -> None:
    text = '{\n  "name": "x",\n  "dependencies": {\n    "a": "^1.0.0",\n    "@s/b": "2.0.0"\n  }\n}\n'
    bumped = after("bump a to 1.2.0", {"web/package.json": text})
    assert bumped == text.replace("^1.0.0", "^1.2.0")
    added = after("add c 3.0.0 to web/package.json", {"web/package.json": text})
    assert json.loads(added)["dependencies"] == {"c": "3.0.0", "a": "^1.0.0", "@s/b": "2.0.0"}
    assert added.count("\n") == text.count("\n") + 1


def test_pyproject_keeps_its_form() -> None:
    text = '[project]\nname = "requests"\ndependencies = [\n  "requests[socks]>=2,<3", # http\n  \'flask\',\n]\n'
    bumped = after("bump requests to 2.32 in web/pyproject.toml", {"web/pyproject.toml": text})
    assert tomllib.loads(bumped)["project"]["dependencies"] == ["requests[socks]==2.32", "flask"]
    assert "# http" in bumped
    assert 'name = "requests"' in bumped
    added = after("add rich 14 to web/pyproject.toml", {"web/pyproject.toml": text})
    assert "rich==14" in tomllib.loads(added)["project"]["dependencies"]


GROUPS = """[project]
name = "shop"
dependencies = ["flask==3.0.0"]

[dependency-groups]
test = ["pytest>=8,<9", {include-group = "lint"}]
lint = [
  "ruff==0.5.0", # fast
  "flask==2.0.0",
]
"""


def test_dependency_groups_of_pyproject() -> None:
    files = {"web/pyproject.toml": GROUPS, "web/requirements.txt": ""}
    assert after("bump pytest to 8.3", files) == GROUPS.replace("pytest>=8,<9", "pytest==8.3")
    assert after("bump ruff to 0.6.0", files) == GROUPS.replace("0.5.0", "0.6.0")
    # what the service needs comes before what its developers need
    swapped = '[dependency-groups]\nlint = ["flask==2.0.0"]\n[project]\nname = "shop"\ndependencies = ["flask==3.0.0"]\n'
    assert after("bump flask to 3.1", {**files, "web/pyproject.toml": swapped}) == swapped.replace("3.0.0", "3.1")


POETRY = """[tool.poetry]
name = "requests"
version = "1.0"

[tool.poetry.dependencies]
python = "^3.11"
requests = "^2.31.0" # http
"Flask.Login" = {version = ">=0.6,<0.7", extras = ["x"]}
local = {path = "../local"}

[tool.poetry.dependencies.celery]
version = "~5.3"
extras = ["redis"]

[tool.poetry.group.dev.dependencies]
pytest = '8.0'

[tool.other]
requests = "1.0"
"""


def test_poetry_keeps_its_form() -> None:
    files = {"web/pyproject.toml": POETRY, "web/requirements.txt": ""}
    for name, old, new in (
        ("requests", '"^2.31.0"', '"^2.32.4"'),
        ("flask-login", '">=0.6,<0.7"', '"0.6.3"'),
        ("celery", '"~5.3"', '"~5.4"'),
        ("pytest", "'8.0'", "'8.1'"),
    ):
        assert after(f"bump {name} to {new.strip('^~' + chr(34) + chr(39)).lstrip('^~')}", files) == POETRY.replace(old, new)
    for name in ("python", "nothing"):
        with pytest.raises(PifleetError, match="is in none of"):
            propose(f"bump {name} to 3.12", files)
    with pytest.raises(PifleetError, match="cannot follow"):
        propose("bump local to 2", files)


@pytest.mark.parametrize(
    "text",
    [
        'project = "x"',
        '[project]\ndependencies = "requests"',
        "[project]\noptional-dependencies = 1",
        "dependency-groups = [1]",
        "[dependency-groups]\nx = 1",
        "tool = 1",
        "[tool]\npoetry = [1]",
        "[tool.poetry]\ndependencies = 1",
        "[tool.poetry.group]\nx = 1",
        "[tool.poetry.group.x]\ndependencies = 1",
    ],
)
def test_a_pyproject_of_another_form_lists_nothing(text: str) -> None:
    with pytest.raises(PifleetError, match="is in none of"):
        propose("bump requests to 2", {"web/pyproject.toml": text, "web/requirements.txt": ""})


def test_of_go_mod_only_what_is_required_is_bumped() -> None:
    mod = (
        "module x\n\nexclude (\n\tgithub.com/a/b v1.0.0\n)\nexclude github.com/a/b v1.0.1\n\n"
        "replace (\n\tgithub.com/a/b v1.0.2 => ../b\n)\n"
        "replace github.com/a/c v0.1.0 => ../c\n\nrequire (\n\tgithub.com/a/b v1.0.3 // indirect\n)\n\nrequire github.com/a/c v0.2.0\n"
    )
    files = {"web/go.mod": mod}
    assert after("bump github.com/a/b to 1.2.0", files) == mod.replace("v1.0.3", "v1.2.0")
    assert after("bump github.com/a/c to 0.3.0", files) == mod.replace("v0.2.0", "v0.3.0")
    only = "module x\n\nexclude (\n\tgithub.com/a/b v1.0.0\n)\n"
    with pytest.raises(PifleetError, match="is in none of"):
        propose("bump github.com/a/b to 1.2.0", {"web/go.mod": only})
    assert after("add github.com/a/b 1.2.0 to web/go.mod", {"web/go.mod": only}) == only + "\nrequire github.com/a/b v1.2.0\n"


def test_go_mod_and_dockerfile() -> None:
    mod = "module x\n\nrequire (\n\tgithub.com/a/b v1.0.0 // indirect\n)\n"
    assert after("bump github.com/a/b to 1.2.0", {"web/go.mod": mod}) == mod.replace("v1.0.0", "v1.2.0")
    docker = "FROM --platform=x python:3.11-slim AS base\nRUN pip install 'flask==3.0.0' x\nARG TINI=1\n"
    for text, old, new in (("python", "3.11-slim", "3.12"), ("flask", "3.0.0", "3.1"), ("TINI", "=1", "=2")):
        files = {"web/Dockerfile": docker, "web/requirements.txt": ""}
        assert after(f"bump {text} to {new.strip('=')}", files) == docker.replace(old, new)


# -- compose ----------------------------------------------------------------------------------------------------------------------------
def test_an_edit_of_the_compose_file_leaves_every_other_character() -> None:
    assert after("set image tag 1.2.4") == COMPOSE.replace("1.2.3", "1.2.4")
    assert after("set image a/b:2") == COMPOSE.replace("registry.example:5000/shop/web:1.2.3", "a/b:2")
    assert after("set env MODE=test") == COMPOSE.replace("production", "test")
    assert after("set env LIMIT=20") == COMPOSE.replace('"10"', '"20"')
    assert after("set key environment.MODE to test") == COMPOSE.replace("production", "test")


def test_a_new_key_has_its_place() -> None:
    added = after("set env NEW=a: b # c")
    assert yaml.safe_load(added)["services"]["web"]["environment"] == {"MODE": "production", "LIMIT": "10", "NEW": "a: b # c"}
    assert set(COMPOSE.splitlines()) < set(added.splitlines())
    assert yaml.safe_load(after("set key mem_limit to 64m", given=WIDE))["services"]["web"]["mem_limit"] == "64m"
    assert yaml.safe_load(after("set key deploy.replicas to 2", given=WIDE))["services"]["web"]["deploy"] == {"replicas": 2}


@pytest.mark.parametrize(
    "environment",
    ["[A=1, B=2]", "{A: '1'}", "{}", "\n      - A=1\n      - B=2", "\n    - A=1", "", "\n      A: |\n        x\n      B: '2'"],
)
@pytest.mark.parametrize("value", ["plain", "yes", "1e3", "a: b", "#x", "{a", "'q\"", "$HOME", "", "ö", "- x"])
def test_a_variable_is_set_in_any_form(environment: str, value: str) -> None:
    text = f"services:\n  web:\n    environment: {environment}\n    image: x:1\n"
    found = yaml.safe_load(after(f"set env NEW={value}", {"compose.yaml": text}))["services"]["web"]["environment"]
    table = dict(entry.split("=", 1) for entry in found) if isinstance(found, list) else found
    assert table["NEW"] == value.replace("$", "$$")
    assert "NEW" not in text


@example("=")  # of a type of its own in YAML 1.1
@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=60))
def test_any_value_is_a_value_and_nothing_else(value: str) -> None:
    if " and check " in value or value != value.strip() or "\x85" in value or "\ufeff" in value:
        return
    try:
        found = propose(f"set env MODE={value}")
    except PifleetError as error:
        assert "is so already" in str(error) or "cannot be set" in str(error)  # noqa: PT017 - either way
        return
    table = yaml.safe_load(found.edits[0].after)["services"]
    assert table["web"]["environment"] == {"MODE": value.replace("$", "$$"), "LIMIT": "10"}
    assert table["other"] == yaml.safe_load(COMPOSE)["services"]["other"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("set key privileged to true", "privileged"),
        ("set key image.x to y", "no table"),
        ("set key environment to {A: b}", "no single value"),
        ("set key volumes to x", "volumes"),
    ],
)
def test_a_key_that_is_not_allowed_is_refused(text: str, told: str) -> None:
    with pytest.raises(PifleetError, match=told):
        propose(text)


def test_a_shared_value_is_not_changed_for_another_service() -> None:
    shared = "x-env: &env {A: '1'}\nservices:\n  web: {image: a, environment: *env}\n  other: {image: b, environment: *env}\n"
    with pytest.raises(PifleetError):
        propose("set env A=2", {"compose.yaml": shared})


# -- diffs ------------------------------------------------------------------------------------------------------------------------------
def test_a_diff_is_applied_to_the_letter() -> None:
    edit = Edit("stacks/shop/web/requirements.txt", REQUIREMENTS, REQUIREMENTS.replace("3.0.0", "3.1.0") + "new==1")
    patch = diff.render([edit])
    assert propose("apply diff x", patch=patch).edits == (edit,)
    assert propose("apply diff x", patch=patch.replace("stacks/shop/", "")).edits == (edit,)


def test_a_new_file() -> None:
    edit = Edit("stacks/shop/web/new.txt", None, "a\n")
    assert propose("apply diff x", patch=diff.render([edit])).edits == (edit,)


HEAD = "--- a/web/requirements.txt\n+++ b/web/requirements.txt\n"


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        ("", "changes nothing"),
        (HEAD, "changes nothing of"),
        (HEAD + "@@ -1 +1 @@\n-flask==2\n+flask==3\n", "does not apply"),
        (HEAD + "@@ -9 +9 @@\n-flask==3.0.0\n+flask==3\n", "does not apply"),
        (HEAD + "@@ -1,2 +1 @@\n-flask==3.0.0\n", "in the middle"),
        (HEAD + "@@ -1 +1 @@\n*flask\n", "not understood"),
        ("--- a/web/requirements.txt\n", "does not name the new file"),
        ("--- a/web/requirements.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n", "removes"),
        ("--- a/web/a.txt\n+++ b/web/b.txt\n@@ -1 +1 @@\n-x\n+y\n", "renames"),
        ("rename from a\nrename to b\n", "not understood"),
        ("old mode 100644\nnew mode 100755\n", "not understood"),
        ("new file mode 120000\n--- /dev/null\n+++ b/web/x\n@@ -0,0 +1 @@\n+/etc/passwd\n", "not understood"),
        ("GIT binary patch\nliteral 0\n", "not understood"),
        ("--- a/../other/x\n+++ b/../other/x\n@@ -1 +1 @@\n-x\n+y\n", "no file below"),
        ("--- /etc/passwd\n+++ /etc/passwd\n@@ -1 +1 @@\n-x\n+y\n", "no file below"),
        ("--- a/secrets.env\n+++ b/secrets.env\n@@ -1 +1 @@\n-x\n+y\n", "not among"),
        (HEAD + "@@ -1 +1 @@\n-flask==3.0.0\n+a\n" + HEAD + "@@ -1 +1 @@\n-flask==3.0.0\n+b\n", "twice"),
    ],
)
def test_a_diff_that_does_more_than_to_change_listed_text_is_refused(patch: str, told: str) -> None:
    with pytest.raises(PifleetError, match=told):
        propose("apply diff x", patch=patch)


TEXTS = st.lists(st.sampled_from(["a\n", "b\n", "\n", "c d\n", "-x\n", "+y\n", "\\ z\n", "@@\n"]), max_size=12)


@given(TEXTS, TEXTS, st.booleans(), st.booleans())
def test_what_is_rendered_is_read_again(old: list[str], new: list[str], cut_old: bool, cut_new: bool) -> None:
    before, then = ("".join(lines)[: -1 if cut else None] for lines, cut in ((old, cut_old), (new, cut_new)))
    if before == then:
        return
    rendered = diff.render([Edit("f", before, then)])
    ((path, hunks),) = list(diff.read(rendered))
    assert (path, diff.apply(before, hunks, path)) == ("f", then)


def test_git_takes_what_is_rendered(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\nb\nc")
    rendered = diff.render([Edit("f", "a\nb\nc", "a\nB\nc\nd"), Edit("new", None, "x\n")])
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=rendered, text=True, check=True, capture_output=True)
    assert ((tmp_path / "f").read_text(), (tmp_path / "new").read_text()) == ("a\nB\nc\nd", "x\n")
