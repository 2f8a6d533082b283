# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in as one file, and the choice between it and real k3s."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import artifacts


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("standin") / "k3s"
    path.write_bytes(artifacts.executable("v1.34.4+k3s1", "abc"))
    return path


def run(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", str(path), *words], capture_output=True, text=True, check=False)


def test_the_same_sources_give_the_same_file() -> None:
    assert artifacts.executable("v1.34.4+k3s1", "abc") == artifacts.executable("v1.34.4+k3s1", "abc")
    assert artifacts.executable("v1.34.4+k3s1", "abc") != artifacts.executable("v1.34.5+k3s1", "abc")


def test_it_runs_on_a_node_s_python() -> None:
    assert artifacts.executable("v1.34.4+k3s1", "abc").startswith(b"#!/usr/bin/python3 -IB\n")


def test_it_tells_its_version_as_k3s_does(executable: Path) -> None:
    assert run(executable, "--version").stdout.startswith("k3s version v1.34.4+k3s1 (")


def test_it_says_that_it_is_not_k3s(executable: Path) -> None:
    done = run(executable, "--help")
    assert done.returncode == 0
    assert "not k3s itself" in done.stdout


@pytest.mark.parametrize("words", [("agent", "--no-such"), ("server", "--token")])
def test_wrong_arguments_end_it(executable: Path, words: tuple[str, ...]) -> None:
    done = run(executable, *words)
    assert done.returncode == 1
    assert 'level=fatal msg="Error: flag ' in done.stderr


def test_an_agent_needs_a_token(executable: Path) -> None:
    assert "Error: --token is required" in run(executable, "agent", "--config", "/none", "--server", "https://x:6443").stderr


def real(folder: Path, version: str) -> None:
    folder.mkdir(parents=True)
    (folder / "k3s").write_text(f"#!/bin/sh\necho 'k3s version {version} (abc)'\n")
    (folder / "k3s").chmod(0o755)


def test_real_k3s_is_taken_from_the_folder_the_user_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real(tmp_path / "v1.34.4+k3s1", "v1.34.4+k3s1")
    monkeypatch.setenv("PIFLEET_K3S_ARTIFACTS", str(tmp_path))
    found = artifacts._given("v1.34.4+k3s1")
    assert found is not None
    assert (found.kind, found.folder) == (artifacts.REAL, tmp_path / "v1.34.4+k3s1")


def test_real_k3s_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real(tmp_path / "release", "v1.33.1+k3s1")
    monkeypatch.setenv("PIFLEET_K3S_ARTIFACTS", str(tmp_path / "release"))
    with pytest.raises(PifleetError, match=r"is not v1\.34\.4\+k3s1"):
        artifacts._given("v1.34.4+k3s1")


def test_a_network_without_the_release_means_the_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.console import Console

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIFLEET_K3S_RELEASES", "http://127.0.0.1:9")
    assert artifacts._download("v1.34.4+k3s1", Console()) is None


def release_on_disk(folder: Path, version: str, *, spoiled: bool = False) -> None:
    import hashlib

    folder.mkdir(parents=True)
    lines = []
    for name in ("k3s", artifacts.IMAGES):
        (folder / name).write_bytes(name.encode())
        lines.append(f"{hashlib.sha256(b'other' if spoiled else name.encode()).hexdigest()}  {name}\n")
    (folder / artifacts.SUMS).write_text("".join(lines))


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_release_is_downloaded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: bool) -> None:
    from lab.console import Console

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIFLEET_K3S_RELEASES", f"file://{tmp_path}/release")
    release_on_disk(tmp_path / "release" / "v1.34.4%2Bk3s1", "v1.34.4+k3s1", spoiled=spoiled)
    # a file address is decoded, so the folder carries both names
    release_on_disk(tmp_path / "release" / "v1.34.4+k3s1", "v1.34.4+k3s1", spoiled=spoiled)
    if spoiled:
        with pytest.raises(PifleetError, match="does not have the checksum"):
            artifacts._download("v1.34.4+k3s1", Console())
        return
    found = artifacts._download("v1.34.4+k3s1", Console())
    assert found is not None
    assert found.kind == artifacts.REAL
    assert (found.folder / "k3s").read_bytes() == b"k3s"
