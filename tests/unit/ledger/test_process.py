# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the process of a run still lives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import process


def test_living_process_is_not_gone() -> None:
    assert not process.is_gone(process.identify(os.getpid()))


def test_ended_process_is_gone_before_and_after_it_is_reaped() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    seen = process.identify(child.pid)
    assert not process.is_gone(seen)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.is_gone(seen), "a zombie"
    child.communicate()
    assert process.is_gone(seen)


def test_pid_that_is_used_again_is_another_process() -> None:
    assert process.is_gone(replace(process.identify(os.getpid()), started="1"))


def test_reboot_ends_all() -> None:
    assert process.is_gone(replace(process.identify(os.getpid()), boot_id="another"))


def test_other_controller_is_never_certain() -> None:
    assert not process.is_gone(replace(process.identify(os.getpid()), controller="elsewhere", boot_id="another", pid=2**22))


DOCKER = "/var/lib/docker/containers/{id}/hostname"
PODMAN = "/containers/storage/overlay-containers/{id}/userdata/hostname"


def in_container(proc: Path, path: str, letter: str) -> Path:
    (proc / "self").mkdir(parents=True, exist_ok=True)
    lines = ["22 28 0:21 / /proc rw - proc proc rw", f"700 600 254:1 {path.format(id=letter * 64)} /etc/hostname rw - ext4 /dev/vda rw"]
    (proc / "self/mountinfo").write_text("\n".join(lines))
    return proc


@pytest.mark.parametrize("path", [DOCKER, PODMAN])
def test_a_container_with_its_machines_name_is_a_controller_of_its_own(tmp_path: Path, path: str) -> None:
    mine = process.identify(2**22, in_container(tmp_path / "a", path, "a"))
    assert mine.controller == f"{socket.gethostname()}/aaaaaaaaaaaa"
    # its pids are nothing to its machine, and to another container
    assert not process.is_gone(mine)
    assert not process.is_gone(mine, in_container(tmp_path / "b", path, "b"))
    # itself, begun anew
    assert process.is_gone(mine, tmp_path / "a")


def test_a_container_with_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "aaaaaaaaaaaa")
    assert process.controller(in_container(tmp_path, DOCKER, "a")) == "aaaaaaaaaaaa"


def test_name_with_brackets_and_blanks(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (a) b (c) S " + " ".join(str(n) for n in range(4, 53)))
    assert process.identify(7, tmp_path).started == "22"


def test_without_proc_the_pid_tells(tmp_path: Path) -> None:
    mine = process.identify(os.getpid(), tmp_path)
    assert mine.started == ""
    assert not process.is_gone(mine, tmp_path)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert process.is_gone(process.identify(child.pid, tmp_path), tmp_path)
