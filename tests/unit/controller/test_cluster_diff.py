# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundle of a comparison: what it says, its exit code, and where it belongs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._cluster_diff import (
    Comparison,
    charts_left_out,
    files,
    is_encrypted,
    manifests_below,
    not_shown,
    release_states,
)

CLEAN = Comparison(
    "20260101T000000.000Z-abcd", "a" * 40, "pi-1", "2026-01-01T00:00:00Z", (("Namespace/a", "unchanged"),), "", ("charts: x",)
)
DRIFT = Comparison(CLEAN.run_id, CLEAN.revision, "pi-1", CLEAN.at, (("Namespace/a", "drifted"), ("Role/b/c", "unchanged")), "-a\n+b\n", ())


def test_status_exit_code_and_folder() -> None:
    assert (CLEAN.status, CLEAN.exit_code, DRIFT.status, DRIFT.exit_code) == ("clean", 0, "drift", 1)
    assert CLEAN.folder == "docs/governance/reviews/2026-01-01-20260101T000000.000Z-abcd"


@pytest.mark.parametrize(("found", "says"), [(CLEAN, "**clean**: none of 1 differs."), (DRIFT, "**drift**: 1 of 2 objects differ.")])
def test_the_bundle_is_for_people_and_programs(found: Comparison, says: str) -> None:
    made = files(found)
    assert says in made["summary.md"]
    assert json.loads(made["summary.json"])["status"] == found.status
    assert made["cluster.diff"] == found.diff
    assert ("| `Namespace/a` | **drifted**: it was edited in the cluster |" in made["summary.md"]) == (found is DRIFT)
    assert ("- not compared: charts: x" in made["summary.md"]) == (found is CLEAN)


def test_what_the_fleet_does_not_ask_for_is_left_out_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    (folder / "base").mkdir(parents=True)
    for name in ("base/b.yaml", "a.yml", "base/c.sops.yaml", "notes.md"):
        (folder / name).touch()
    paths, said = manifests_below(folder)
    assert [(path.name, is_encrypted(path)) for path in paths] == [("a.yml", False), ("b.yaml", False), ("c.sops.yaml", True)]
    assert said == ()
    paths, said = manifests_below(folder, [folder / "base", tmp_path / "other"])
    assert [path.name for path in paths] == ["a.yml"]
    assert said == ("cluster/base, which this fleet does not ask for",)
    with pytest.raises(PifleetError, match="no folder of manifests"):
        manifests_below(tmp_path / "none")
    assert charts_left_out(("a", "b"), ("a", "b")) == ()
    assert charts_left_out(("b", "c", "a"), ("b",)) == ("charts (a, c): this fleet does not ask for them (collect_diff_charts)",)


def test_of_what_is_encrypted_and_no_secret_it_is_told_that_it_differs() -> None:
    assert not_shown((("ConfigMap/a/b", "drifted"), ("ConfigMap/a/c", "unchanged"))) == (
        "# ConfigMap/a/b is encrypted: what differs there is not shown\n"
    )


def test_a_release_is_listed_with_its_objects() -> None:
    found = release_states("web", "configured", (("Secret/a/b", "removed"), ("Role/a/b", "unchanged")))
    drift = Comparison(CLEAN.run_id, CLEAN.revision, "pi-1", CLEAN.at, found, "", ())
    assert drift.exit_code == 1
    assert "| `Helm/web: Secret/a/b` | **removed**: it is in the cluster, and not in the chart any more |" in files(drift)["summary.md"]
