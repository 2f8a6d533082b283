# SPDX-License-Identifier: GPL-3.0-or-later
"""One runs, at most one waits, the newest takes its place: with real processes, for the kernel's locks decide."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import turn

ROOT = Path(__file__).resolve().parents[3]
#: takes a turn, says so, and keeps it until its input ends
WORKER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT / ".collections")!r})
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import turn
try:
    with turn.take(Path(sys.argv[1]), sys.argv[2], time, float(sys.argv[3])):
        print("runs", flush=True)
        sys.stdin.read()
except (turn.SupersededError, turn.BusyError) as error:
    print(type(error).__name__, error, flush=True)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that wants a turn."""
    started = []

    def begin(wants: str, timeout: float = 120.0) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", WORKER, str(tmp_path), wants, str(timeout)]
        started.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0


def test_the_newest_takes_the_place_of_the_one_that_waits(start: Start, tmp_path: Path) -> None:
    assert turn.look(tmp_path) == turn.Turns(None, None)
    first = start("one")
    assert line(first) == "runs"
    second = start("two")
    until(lambda: (w := turn.look(tmp_path).waiting) is not None and w.wants == "two")
    third = start("three")
    assert line(second).startswith("SupersededError A newer refresh took the place of this one (two)")
    turns = turn.look(tmp_path)
    assert turns.running and (turns.running.pid, turns.running.wants) == (first.pid, "one")
    assert turns.waiting and (turns.waiting.pid, turns.waiting.wants) == (third.pid, "three")
    end(first)
    assert line(third) == "runs"
    assert turn.look(tmp_path).waiting is None
    end(third)
    assert turn.look(tmp_path) == turn.Turns(None, None)


def test_a_killed_one_holds_up_nobody(start: Start, tmp_path: Path) -> None:
    first = start("one")
    assert line(first) == "runs"
    second = start("two")
    until(lambda: turn.look(tmp_path).waiting is not None)
    second.send_signal(signal.SIGKILL)
    second.wait()
    assert turn.look(tmp_path).waiting is None, "a dead one does not wait"
    third = start("three")
    until(lambda: (w := turn.look(tmp_path).waiting) is not None and w.wants == "three")
    first.send_signal(signal.SIGKILL)
    assert line(third) == "runs"


def test_waiting_ends(start: Start, tmp_path: Path) -> None:
    first = start("one")
    assert line(first) == "runs"
    second = start("two", timeout=0.3)
    assert line(second).startswith(f"BusyError Desired state is being refreshed by process {first.pid}, for one,")
    assert turn.look(tmp_path).waiting is None


def test_many_at_once_one_at_a_time_and_the_newest_is_served(start: Start, tmp_path: Path) -> None:
    first = start("first")
    assert line(first) == "runs"
    others = []
    for number in range(4):
        others.append(start(f"n{number}"))
        until(lambda wanted=f"n{number}": (w := turn.look(tmp_path).waiting) is not None and w.wants == wanted)  # type: ignore[misc]
    end(first)
    assert [line(p).split()[0] for p in others] == ["SupersededError"] * 3 + ["runs"]


def test_a_number_used_again_is_another_process(tmp_path: Path) -> None:
    (tmp_path / "queue").write_text(f'{{"pid": {os.getpid()}, "started": 1, "wants": "x", "since": 0}}')
    assert turn.look(tmp_path).waiting is None
