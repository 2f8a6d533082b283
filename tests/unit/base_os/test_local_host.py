# SPDX-License-Identifier: GPL-3.0-or-later
"""The adapter on a folder and on the machine that runs the tests."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.local_host import LocalHost
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import CommandError, Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError


def test_files_are_read_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_bytes(b"pi\xff\n")
    (tmp_path / "etc/link").symlink_to("/nowhere")
    host = LocalHost(str(tmp_path))
    assert host.text("/etc/hostname") == "pi�\n"
    assert host.text("/etc") is None
    assert host.text("/etc/hostname/x") is None
    assert host.text("/none") is None
    assert host.names("/etc") == ["hostname", "link"]
    assert host.names("/none") == []
    assert (host.exists("/etc/link"), host.exists("/etc/none")) == (True, False)
    assert (host.link("/etc/link"), host.link("/etc/hostname")) == ("/nowhere", None)
    assert host.stamp("/etc/hostname") == (4, os.stat(tmp_path / "etc/hostname").st_mtime_ns)
    assert host.stamp("/none") is None
    assert host.sha256("/etc/hostname") == hashlib.sha256(b"pi\xff\n").hexdigest()
    assert host.space("/a/b/c") == LocalHost().space(str(tmp_path))


@pytest.mark.parametrize("gone", [ProcessLookupError, FileNotFoundError, PermissionError])
def test_a_process_that_ends_or_is_another_s_is_no_error(monkeypatch: pytest.MonkeyPatch, gone: type[OSError]) -> None:
    def fail(*_: Any) -> None:
        raise gone

    monkeypatch.setattr(os, "listdir", fail)
    monkeypatch.setattr(os, "readlink", fail)
    assert LocalHost().link("/proc/1/fd/0") is None
    if gone is not ProcessLookupError:
        assert LocalHost().names("/proc/1/fd") == []


def test_a_file_that_only_root_may_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(PifleetError, match=r"cannot read /etc/rancher/k3s/config.yaml.*become: true"):
        LocalHost().text("/etc/rancher/k3s/config.yaml")


def test_addresses_are_those_the_kernel_uses() -> None:
    known = LocalHost().addresses()
    assert any(a.interface == "lo" and a.address == "127.0.0.1" and a.prefix == 8 for a in known)
    for address in known:
        if address.scope == 0 and address.family == socket.AF_INET:
            with socket.socket() as probe:
                probe.bind((address.address, 0))


def test_a_unit_is_asked_for_once_and_only_where_systemd_is(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    def answer(argv: Sequence[str], **_: Any) -> Completed:
        asked.append(argv)
        return Completed(tuple(argv), 0, "ActiveState=active\nMainPID=7\n", "")

    host = LocalHost(str(tmp_path), run=answer)
    assert host.unit("k3s.service") == {}
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert host.unit("k3s.service") == {"ActiveState": "active", "MainPID": "7"}
    assert len(asked) == 1


def test_a_systemd_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    host = LocalHost(str(tmp_path), run=lambda argv, **_: Completed(tuple(argv), 1, "", "Failed to connect to bus"))
    with pytest.raises(CommandError, match="Failed to connect to bus"):
        host.unit("k3s.service")


def test_the_clock_is_read_without_a_process() -> None:
    assert LocalHost().synchronised() in (True, False, None)
