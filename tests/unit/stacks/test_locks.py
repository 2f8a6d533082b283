# SPDX-License-Identifier: GPL-3.0-or-later
"""One holder at a time, with real processes: what a killed run leaves behind never blocks for good, and never lets two in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.local import NodeClock
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.locks import BusyError, Lock, holders, is_held, start_time

CLOCK = NodeClock()
#: Takes the lock, starts a child that inherits it, says so, and waits.
HOLDER = """
import subprocess, sys, time
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.local import NodeClock
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.locks import Lock
lock = Lock(sys.argv[1], "web", "another run", NodeClock())
lock.acquire(5)
if len(sys.argv) > 2:
    child = subprocess.Popen(["sleep", sys.argv[2]], pass_fds=(lock.fd,), start_new_session=True)
print("held", flush=True)
time.sleep(60)
"""


def hold(folder: Path, *more: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), *more], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def take(folder: Path, patience: float, clock: NodeClock = CLOCK) -> Lock:
    lock = Lock(str(folder), "web", "this run", clock)
    lock.acquire(patience)
    return lock


def test_the_second_is_told_who_holds_it_and_gets_it_afterwards(tmp_path):
    holder = hold(tmp_path)
    assert is_held(str(tmp_path), "web") and holders(str(tmp_path / "web.lock")) == [holder.pid]
    for patience in (0, 0.3):
        with pytest.raises(BusyError, match=f"another run .pid {holder.pid}, since 20"):
            take(tmp_path, patience)
    holder.kill()
    holder.wait()
    lock = take(tmp_path, 0)
    told = json.loads((tmp_path / "web.lock").read_text())
    assert (told["owner"], told["pid"], told["started"]) == ("this run", os.getpid(), start_time(os.getpid()))
    assert not lock.waited
    lock.release()
    assert not is_held(str(tmp_path), "web")


def test_what_a_killed_run_started_holds_the_lock_until_it_ends(tmp_path):
    holder = hold(tmp_path, "60")
    holder.kill()
    holder.wait()
    with pytest.raises(BusyError):
        take(tmp_path, 0)
    [child] = holders(str(tmp_path / "web.lock"))

    class Ending(NodeClock):
        """The child ends while it is waited for."""

        def sleep(self, seconds: float) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
            super().sleep(seconds)

    began = time.monotonic()
    lock = take(tmp_path, 40, Ending())
    assert lock.waited and time.monotonic() - began < 30
    lock.release()


def test_an_orphan_that_outlasts_the_patience_is_killed(tmp_path):
    holder = hold(tmp_path, "60")
    holder.kill()
    holder.wait()
    [orphan] = holders(str(tmp_path / "web.lock"))
    take(tmp_path, 0.5).release()
    deadline = time.monotonic() + 30  # it gives its lock back a moment before it is gone
    while start_time(orphan) and Path(f"/proc/{orphan}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_waiting_run_is_no_orphan(tmp_path):
    holder = hold(tmp_path)
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    time.sleep(0.5)
    holder.kill()
    holder.wait()
    assert waiting.stdout and waiting.stdout.readline() == "held\n"
    waiting.kill()
    waiting.wait()


def test_a_lock_file_with_garbage_in_it_is_taken(tmp_path):
    (tmp_path / "web.lock").write_bytes(b"\xff\x00{")
    take(tmp_path, 0).release()
    assert not is_held(str(tmp_path), "other") and not (tmp_path / "other.lock").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PifleetError, match="cannot be opened"):
        take(tmp_path / "file/below", 0)
