# SPDX-License-Identifier: GPL-3.0-or-later
"""releases.yml: what it may say, and how it is told that it says something else."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import config
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.releases.conftest import YAML


def test_defaults() -> None:
    found = config.parse(YAML).environment("prod")
    assert (found.retain, found.batches.canary, found.health.timeout) == (2, 1, 120.0)
    web = found.services["web"]
    assert web.build and (web.build.backend, web.build.dockerfile) == ("docker", "Dockerfile")
    assert web.rollout.strategy == "recreate" and web.migrations.pre and web.migrations.pre.reversible


def test_unknown_environment_names_those_there_are() -> None:
    with pytest.raises(PifleetError, match=r"no environment staging in releases.yml.*one of: prod"):
        config.parse(YAML).environment("staging")
    with pytest.raises(PifleetError, match=r"\(none given\)"):
        config.parse(YAML).environment("")


@pytest.mark.parametrize(
    ("instead", "of", "said"),
    [
        ("retan: 2", "retain: 2", "environments.prod.retan: there is no such key"),
        ("retain: 0", "retain: 2", "environments.prod.retain: Input should be greater"),
        ("retain: two", "retain: 2", "environments.prod.retain"),
        ("base: ../services", "base: services", "environments.prod.base: it is no path below"),
        ("base: /srv", "base: services", "it is no path below"),
        ("registry: https://x", "registry: registry.example:5000/fleet", "environments.prod.registry"),
        ("role: workers\n        timeout: 3", "role: workers", "services.web.timeout: there is no such key"),
        ("{argv: [], reversible: true}", "{argv: [migrate, up], reversible: true}", "services.web.migrations.pre.argv"),
        ("Prod:", "prod:", "environments.Prod"),
        ("base: services\n    base: other", "base: services", "base stands twice"),
        ("", "    registry: registry.example:5000/fleet\n", "`registry` is missing"),
        ("image: WEB", "image: web", "services.web.image"),
    ],
)
def test_bad_key_is_told_with_its_place(instead: str, of: str, said: str) -> None:
    assert of in YAML
    with pytest.raises(PifleetError) as caught:
        config.parse(YAML.replace(of, instead, 1))
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "environments: {}", "environments:\n  prod: {", "\x00", "a: &a [*a]"])
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(PifleetError):
        config.parse(text)


@given(st.text(max_size=60))
def test_no_text_is_a_traceback(text: str) -> None:
    with contextlib.suppress(PifleetError):
        config.parse(text)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PifleetError, match=r"There is no .*releases.yml"):
        config.load(tmp_path)
