# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that the timer starts: the same bytes everywhere, and what it says and returns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import exposition
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import figures, turn, unattended
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Status
from ansible_collections.pifleet.ops.plugins.plugin_utils import _node_program

from .conftest import Repository

MODULE_UTILS = Path(_node_program.__file__).parents[1] / "module_utils"


def test_the_same_sources_are_the_same_bytes(tmp_path: Path) -> None:
    copy = tmp_path / "module_utils"
    for core in ("_common", "_stack_host", "_stacks"):
        (copy / core).mkdir(parents=True)
        for path in sorted((MODULE_UTILS / core).glob("*.py"), reverse=True):
            (copy / core / path.name).write_bytes(path.read_bytes())
            os.utime(copy / core / path.name, (1, 1))
    assert _node_program.stacks(copy) == _node_program.stacks()
    with zipfile.ZipFile(BytesIO(_node_program.stacks())) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert not any("/_k3s/" in name or "/modules/" in name for name in archive.namelist())


def test_it_runs_with_nothing_but_python(tmp_path: Path) -> None:
    program = tmp_path / "program.pyz"
    program.write_bytes(_node_program.stacks())
    done = subprocess.run([sys.executable, "-I", program, "/nonexistent"], cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == ""
    said = json.loads(done.stdout)
    assert said["event"] == "failed" and "/nonexistent is missing or damaged" in said["reason"] and "Run site.yml" in said["reason"]


@pytest.fixture
def settings(tmp_path: Path, repository: Repository) -> dict[str, Any]:
    repository.commit({"stacks/web/compose.yaml": "1\n"}, "One")
    source = {"url": f"file://{repository.path}", "token": "", "ssh_key": "", "known_hosts": "", "revision": "", "folder": "stacks"}
    return {"source": source, "reconcile": None, "timeout": 5.0}


def run(root: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    path = root / "settings.json"
    path.write_text(unattended.settings_text(settings["source"], settings["reconcile"], settings["timeout"]))
    rc = unattended.main([str(path)], root=str(root / "node"))
    return rc, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_it_fetches_and_says_what_it_found(
    tmp_path: Path, settings: dict[str, Any], repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    first = repository.git("rev-parse", "HEAD")
    assert run(tmp_path, settings, capsys) == (0, [{"event": "refreshed", "revision": first, "reason": "first"}])
    assert run(tmp_path, settings, capsys) == (0, [{"event": "refreshed", "revision": first, "reason": "up_to_date"}])
    second = repository.commit({"stacks/web/compose.yaml": "2\n"})
    assert run(tmp_path, settings, capsys) == (0, [{"event": "refreshed", "revision": second, "reason": "new_revision"}])
    settings["source"]["url"] = "file:///nonexistent"
    rc, said = run(tmp_path, settings, capsys)
    assert rc == 1 and [e["event"] for e in said] == ["refresh_failed"] and said[0]["revision"] == second


def test_without_any_desired_state_there_is_nothing_to_reconcile(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings["source"]["url"] = "file:///nonexistent"
    rc, said = run(tmp_path, settings, capsys)
    assert rc == 1 and [e["event"] for e in said] == ["refresh_failed", "failed"]
    settings["source"]["url"] = ""
    rc, said = run(tmp_path, settings, capsys)
    assert rc == 1 and "Run site.yml" in said[0]["reason"]


def test_what_the_controller_brought_is_kept_whole(
    tmp_path: Path, settings: dict[str, Any], repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, settings, capsys)
    settings["source"] = {"url": ""}
    compose = RefreshPlaces.below(str(tmp_path / "node")).tree / "stacks/web/compose.yaml"
    compose.write_text("edited")
    rc, said = run(tmp_path, settings, capsys)
    assert (rc, said[0]["reason"], said[0]["revision"]) == (0, "diverged", repository.git("rev-parse", "HEAD"))
    assert compose.read_text() == "1\n"


def test_one_that_a_newer_replaced_ends_well(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def taken(*_: Any) -> None:
        raise turn.SupersededError("A newer one.")

    monkeypatch.setattr(turn, "take", taken)
    assert run(tmp_path, settings, capsys) == (0, [{"event": "superseded", "reason": "A newer one."}])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', "null"])
def test_damaged_settings(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text)
    assert unattended.main([str(path)], root=str(tmp_path)) == 1
    assert "missing or damaged" in capsys.readouterr().out


def test_figures_are_written_where_the_node_is_observed(
    tmp_path: Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "node" / exposition.FOLDER.lstrip("/")
    assert run(tmp_path, settings, capsys)[0] == 0
    assert not folder.exists(), "nobody asks"
    folder.mkdir(parents=True)
    for url, success in ((settings["source"]["url"], 1), ("file:///nowhere", 0)):
        run(tmp_path, {**settings, "source": {**settings["source"], "url": url}}, capsys)
        assert f"\npifleet_stacks_success {success}.0\n" in (folder / figures.FILE).read_text()


def test_a_stack_that_is_to_be_left_alone_is_no_figure() -> None:
    stacks = [
        Status("a", "a", "o", "failed"),
        Status("b", "b", "o", "drifted", suspended=True),
        Status("c", "c", "o", "missing", in_scope=False),
        Status("d", "d", "o", "synced"),
    ]
    status = figures.gauges(stacks, 1.0, success=False)[0]
    assert status.samples == {(("stack", "a"), ("status", "failed")): 1, (("stack", "d"), ("status", "synced")): 1}
