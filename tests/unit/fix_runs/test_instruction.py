# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import instruction
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("bump requests to 2.32.4", "bump", {"name": "requests", "version": "2.32.4"}),
        ("Bump @scope/pkg TO 1.0.0 in web/package.json", "bump", {"name": "@scope/pkg", "version": "1.0.0", "file": "web/package.json"}),
        ("add flask 3.0", "add", {"name": "flask", "version": "3.0"}),
        ("add flask 3.0 to web/requirements.txt", "add", {"name": "flask", "version": "3.0", "file": "web/requirements.txt"}),
        ("set image tag 1.2", "set_image_tag", {"tag": "1.2"}),
        ("set image a.example:5000/b/c:1@sha256:" + "0" * 64, "set_image", {"reference": "a.example:5000/b/c:1@sha256:" + "0" * 64}),
        ("set env A_B=x; rm -rf / && $(id)", "set_env", {"name": "A_B", "value": "x; rm -rf / && $(id)"}),
        ("set env A=", "set_env", {"name": "A", "value": ""}),
        ("set key mem_limit to 64m", "set_key", {"key": "mem_limit", "value": "64m"}),
        ("apply diff fix.diff", "diff", {"file": "fix.diff"}),
        ("auto", "auto", {}),
    ],
)
def test_each_form_is_understood(text: str, kind: str, values: dict[str, str]) -> None:
    found = instruction.parse(text)
    assert (found.kind, dict(found.values), found.check) == (kind, values, "")


def test_a_check_may_follow() -> None:
    found = instruction.parse("bump a to 1 and check migrated table=orders")
    assert (found.kind, found.check, dict(found.parameters)) == ("bump", "migrated", {"table": "orders"})
    assert instruction.parse("auto and check ping").check == "ping"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fix it",
        "bump requests",
        "bump requests to 2; rm -rf /",
        "bump $(id) to 1",
        "bump ../x to 1",
        "bump a to --x",
        "set image tag a b",
        "set image A B",
        "run rm -rf /",
        "auto; id",
        "auto\nbump a to 1",
        "set env 1A=x",
        "set key a..b to c",
        "set env A=\x00",
        "x" * 3000,
    ],
)
def test_any_other_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(PifleetError) as refused:
        instruction.parse(text)
    assert all(form in str(refused.value) for form in instruction.FORMS.values())


@given(st.text(max_size=200))
def test_no_text_is_more_than_refused(text: str) -> None:
    try:
        found = instruction.parse(text)
    except PifleetError:
        return
    assert found.kind in instruction.FORMS


@pytest.mark.parametrize("left", ["set env", "set key command to"])
def test_what_ansible_leaves_of_one_with_an_equals_sign(left: str) -> None:
    with pytest.raises(PifleetError, match=r"takes words with `=` away.*Give it as JSON"):
        instruction.parse(left)


def test_the_documentation_has_each_form() -> None:
    text = (Path(__file__).parents[3] / "docs/fix-runs.md").read_text()
    for form in (*instruction.FORMS.values(), instruction.SUFFIX):
        assert f"`{form}`" in text, form
