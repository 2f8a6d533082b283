# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._payload_cache import KEPT, OURS, PayloadCache

NAME = f"{OURS}plugins.modules.pi_facts-ZIP_DEFLATED-none"


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    for name in ("modules/pi_facts.py", "module_utils/_k3s/facts.py"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("x = 1\n")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / NAME).write_bytes(b"packed")
    (folder / f"{NAME}.lock").write_bytes(b"")
    (folder / "ansible_collections.other.thing.plugins.modules.a-ZIP_DEFLATED-none").write_bytes(b"theirs")
    return folder


@pytest.fixture
def cache(tmp_path: Path, plugins: Path) -> Callable[..., PayloadCache]:
    return lambda ansible="2.19.1": PayloadCache(tmp_path / "cache", plugins, ansible)


def test_a_later_run_gets_our_payloads_and_no_others(cache, run: Path, tmp_path: Path) -> None:
    assert cache().restore(tmp_path / "first") == 0
    assert cache().keep(run) == 1
    assert cache().restore(tmp_path / "later") == 1
    assert {p.name: p.read_bytes() for p in (tmp_path / "later").iterdir()} == {NAME: b"packed"}
    assert cache().keep(tmp_path / "later") == 0, "what came from here is not kept again"


@pytest.mark.parametrize("change", ["edited", "added", "renamed", "ansible"])
def test_other_sources_have_other_payloads(cache, run: Path, plugins: Path, tmp_path: Path, change: str) -> None:
    cache().keep(run)
    source = plugins / "module_utils/_k3s/facts.py"
    if change == "edited":
        before = source.stat()
        source.write_text("x = 2\n")
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "added":
        (source.parent / "more.py").write_text("")
    elif change == "renamed":
        source.rename(source.with_name("fact.py"))
    assert cache("2.19.2" if change == "ansible" else "2.19.1").restore(tmp_path / "later") == 0


def test_what_was_packed_while_the_sources_changed_is_not_kept(cache, run: Path, plugins: Path, tmp_path: Path) -> None:
    during = cache()
    (plugins / "modules/pi_facts.py").write_text("x = 2\n")
    assert during.keep(run) == 0
    assert cache().restore(tmp_path / "later") == 0


@pytest.mark.parametrize("which", ["cache", "payloads"])
def test_what_others_may_write_into_is_not_used(cache, run: Path, tmp_path: Path, which: str) -> None:
    cache().keep(run)
    folder = tmp_path / "cache" if which == "cache" else next((tmp_path / "cache").iterdir())
    folder.chmod(0o770)
    assert cache().restore(tmp_path / "later") == 0
    folder.chmod(0o700)
    assert cache().restore(tmp_path / "later") == 1


def test_payloads_of_old_sources_go(cache, run: Path, plugins: Path, tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        (plugins / "modules/pi_facts.py").write_text(f"x = {number}\n")
        cache().keep(run)
    assert len(list((tmp_path / "cache").iterdir())) == KEPT
    assert cache().restore(tmp_path / "later") == 1


def test_a_disk_that_is_full_leaves_nothing_half_made(cache, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        cache().keep(run)
    monkeypatch.undo()
    assert cache().restore(tmp_path / "later") == 0
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), OSError(28, "No space left on device")])
def test_what_cannot_be_handed_on_is_packed_anew(cache, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """Another run may remove what it takes for old meanwhile, and a payload that was copied in part is none."""
    cache().keep(run)

    def cut_off(source: Path, target: Path) -> None:
        del source
        if not isinstance(error, FileNotFoundError):
            target.write_bytes(b"pac")
        raise error

    monkeypatch.setattr(shutil, "copyfile", cut_off)
    assert cache().restore(tmp_path / "later") == 0
    assert list((tmp_path / "later").iterdir()) == []
