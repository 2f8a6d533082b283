# SPDX-License-Identifier: GPL-3.0-or-later
"""Which kernel settings are kept and put back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab import sysctls


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc/sys of files, and a cache folder of the test's own."""
    root = tmp_path / "sys"
    content = {
        "kernel/panic": "1",
        "vm/overcommit_memory": "0",
        "fs/inotify/max_user_instances": "128",
        "net/ipv4/ip_forward": "0",
        "net/ipv4/conf/eth0/forwarding": "0",
        "kernel/random/uuid": "7",
        "fs/file-nr": "3",
    }
    for name, value in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(value + "\n")
    monkeypatch.setattr(sysctls, "PROC", root)
    monkeypatch.setattr(sysctls, "current", lambda: real(root))
    monkeypatch.setattr(sysctls.os, "geteuid", lambda: 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return root


real = sysctls.current


def test_counters_and_what_belongs_to_an_interface_are_left_alone(proc: Path) -> None:
    assert set(real(proc)) == {"kernel/panic", "vm/overcommit_memory", "fs/inotify/max_user_instances", "net/ipv4/ip_forward"}


def test_all_that_changed_is_put_back_and_told(proc: Path) -> None:
    sysctls.save()
    sysctls.raise_limits()
    (proc / "kernel/panic").write_text("10\n")
    assert (proc / "fs/inotify/max_user_instances").read_text() == "1024\n"
    assert sysctls.restore() == {"kernel/panic": "1", "fs/inotify/max_user_instances": "128"}
    assert (proc / "kernel/panic").read_text() == "1\n"
    assert sysctls.restore() == {}


def test_a_second_fleet_does_not_take_changed_values_for_the_old_ones(proc: Path) -> None:
    sysctls.save()
    (proc / "kernel/panic").write_text("10\n")
    sysctls.save()
    assert sysctls.restore() == {"kernel/panic": "1"}


def test_values_from_before_a_restart_of_the_machine_are_forgotten(proc: Path) -> None:
    sysctls.save()
    kept = json.loads(sysctls._store().read_text())
    sysctls._store().write_text(json.dumps({**kept, "boot_id": "another"}))
    (proc / "kernel/panic").write_text("10\n")
    assert sysctls.restore() == {}


def test_a_limit_that_is_high_enough_stays(proc: Path) -> None:
    (proc / "fs/inotify/max_user_instances").write_text("8192\n")
    sysctls.raise_limits()
    assert (proc / "fs/inotify/max_user_instances").read_text() == "8192\n"
