# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the process of a run still lives."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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
