# SPDX-License-Identifier: GPL-3.0-or-later
"""Helm releases: what a release file says, what differs between two manifests, and what helm says of a cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import _helm

ROOT = Path(__file__).resolve().parents[3]
GOOD = {"chart": "web", "version": "1.2.3", "repository": "https://charts.example.org", "namespace": "shop"}
BEFORE = """
# Source: web/templates/a.yaml
apiVersion: v1
kind: Secret
metadata: {name: web, namespace: shop}
data: {password: b2xkLXNlY3JldA==, same: c2FtZS1zZWNyZXQ=, gone: Z29uZS1zZWNyZXQ=}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {colour: red}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: old}
"""
AFTER = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {colour: blue}
---
# nothing
---
apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Secret
    metadata: {name: web, namespace: shop}
    data: {password: bmV3LXNlY3JldA==, same: c2FtZS1zZWNyZXQ=}
  - apiVersion: v1
    kind: ConfigMap
    metadata: {name: new}
"""
HIDDEN = ("b2xkLXNlY3JldA", "bmV3LXNlY3JldA", "c2FtZS1zZWNyZXQ", "Z29uZS1zZWNyZXQ")


def folder(tmp_path: Path, table: Any, name: str = "web") -> Path:
    made = tmp_path / "charts" / name
    made.mkdir(parents=True)
    (made / "values.yaml").touch()
    (made / _helm.FILE).write_text(table if isinstance(table, str) else yaml.safe_dump(table))
    return made


def test_a_release_is_read(tmp_path: Path) -> None:
    release = _helm.read(folder(tmp_path, GOOD))
    assert (release.name, release.archive, release.namespace, release.sha256) == ("web", "web-1.2.3.tgz", "shop", "")
    assert [path.name for path in release.values] == ["values.yaml"]
    assert _helm.names_below(tmp_path / "charts") == ("web",)
    assert _helm.names_below(tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({**GOOD, "version": "^1.2.3"}, "version ^1.2.3 is not one version. Pin it"),
        ({**GOOD, "version": 1.2}, "version 1.2 is not one version"),
        ({**GOOD, "version": "latest"}, "version latest is not one version"),
        ({**GOOD, "repo": "x"}, "there is no key repo"),
        ({key: GOOD[key] for key in ("chart", "version")}, "namespace is missing"),
        ({**GOOD, "values": ["values.yaml", "other.yaml"]}, "there is no file other.yaml"),
        ({**GOOD, "values": "values.yaml"}, "values is no list"),
        ("[", "cannot be read"),
        ("text", "holds no table"),
    ],
)
def test_a_bad_release_is_refused_by_its_file(tmp_path: Path, table: Any, says: str) -> None:
    made = folder(tmp_path, table)
    with pytest.raises(PifleetError) as caught:
        _helm.read(made)
    assert says in str(caught.value)
    assert str(made / _helm.FILE) in str(caught.value)


def test_a_folder_without_a_release_or_with_a_bad_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "charts/empty").mkdir(parents=True)
    with pytest.raises(PifleetError, match=r"has no release\.yaml"):
        _helm.read(tmp_path / "charts/empty")
    with pytest.raises(PifleetError, match="is no name for a release"):
        _helm.read(folder(tmp_path, GOOD, name="Web_1"))


def test_what_differs_is_told_by_object_and_secrets_are_not() -> None:
    found = _helm.compare(BEFORE, AFTER)
    assert dict(found.states) == {
        "ConfigMap/new": "created",
        "ConfigMap/old": "removed",
        "ConfigMap/web": "configured",
        "Secret/shop/web": "configured",
    }
    assert "-  colour: red\n+  colour: blue\n" in found.diff
    assert "-  password: '******** (before)'\n" in found.diff
    assert "+  password: '******** (after)'\n" in found.diff
    assert "-  gone: '******** (before)'\n" in found.diff
    assert "   same: '********'\n" in found.diff
    assert "--- deployed/ConfigMap/new\n+++ chart/ConfigMap/new\n" in found.diff
    for text in (found.diff, str(found.changes), _helm.scrubbed(BEFORE), _helm.scrubbed(AFTER)):
        assert not [word for word in HIDDEN if word in text]


def test_the_order_of_objects_is_no_difference() -> None:
    assert _helm.compare(BEFORE, "---\n".join(reversed(BEFORE.split("---\n")))).diff == ""


def test_what_is_no_yaml_is_refused() -> None:
    with pytest.raises(PifleetError, match="no YAML"):
        _helm.compare("", "kind: [")


def test_objects_that_the_cluster_keeps_have_a_namespace_and_are_no_hooks() -> None:
    text = """
kind: ClusterRole
metadata: {name: a}
---
kind: Role
metadata: {name: b}
---
kind: Role
metadata: {name: c, namespace: other}
---
kind: Role
metadata: {name: d}
---
kind: Job
metadata: {name: e, annotations: {helm.sh/hook: post-install}}
"""
    kept = _helm.kept_objects(text, "shop", ["ClusterRole/a", "Role/b", "Role/other/c", "Job/e"])
    assert {ref: entry["metadata"].get("namespace") for ref, entry in kept.items()} == {
        "ClusterRole/a": None,
        "Role/b": "shop",
        "Role/other/c": "other",
    }


class Recorded:
    """Replays what helm said, by its first two words."""

    def __init__(self, answers: Mapping[str, Completed]) -> None:
        self.answers, self.calls = answers, list[tuple[str, ...]]()

    def __call__(self, argv: Sequence[str], **_: Any) -> Completed:
        self.calls.append(tuple(argv))
        return self.answers[argv[1]]


def history(*states: tuple[int, str], updated: str = "2026-01-02T03:04:05.123456789Z") -> Completed:
    rows = [{"revision": number, "status": state, "chart": f"web-1.0.{number}", "updated": updated} for number, state in states]
    return Completed((), 0, json.dumps(rows), "")


def found(tmp_path: Path, answer: Completed) -> _helm.Deployed:
    release = _helm.read(folder(tmp_path, GOOD))
    run = Recorded({"history": answer, "get": Completed((), 0, "a: 1\n", "")})
    return _helm.Helm(run, "/k", "c").deployed(release)


def test_the_deployed_revision_counts_not_the_last_one(tmp_path: Path) -> None:
    one = found(tmp_path, history((1, "superseded"), (3, "failed"), (2, "deployed")))
    assert (one.revision, one.chart, one.unfinished, one.pending) == (2, "web-1.0.2", "failed", False)


def test_a_release_that_was_never_deployed(tmp_path: Path) -> None:
    missing = Completed((), 1, "", "Error: release: not found")
    assert found(tmp_path / "a", missing) == _helm.Deployed()
    one = found(tmp_path / "b", history((1, "pending-install")))
    assert (one.revision, one.pending) == (0, True)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (Completed((), 1, "", "Error: kubernetes cluster unreachable: dial tcp"), _helm.UnreachableError, "No API answers helm"),
        (Completed((), 127, "", "helm: no such program"), _helm.HelmError, "helm is not installed on the controller"),
        (Completed((), 1, "", "Error: token=verysecretvalue"), _helm.HelmError, r"`helm history` failed: Error: token=\*"),
    ],
)
def test_what_helm_complains_about_is_told_once(tmp_path: Path, answer: Completed, kind: type[PifleetError], says: str) -> None:
    with pytest.raises(kind, match=says):
        found(tmp_path, answer)


def test_a_helm_that_may_still_live_is_left_alone(tmp_path: Path) -> None:
    release = _helm.read(folder(tmp_path, GOOD))
    since = datetime(2026, 1, 2, tzinfo=timezone.utc)
    pending = _helm.Deployed(unfinished="pending-upgrade", since=since)
    with pytest.raises(PifleetError, match="Another helm is at web"):
        _helm.require_dead(release, pending, 60, since + timedelta(seconds=59))
    _helm.require_dead(release, pending, 60, since + timedelta(seconds=60))


@pytest.mark.parametrize("name", _helm.names_below(ROOT / "charts"))
def test_the_releases_of_the_reference_fleet_can_be_read(name: str) -> None:
    assert _helm.read(ROOT / "charts" / name).repository.startswith(("https://", "oci://"))
