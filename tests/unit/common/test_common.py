# SPDX-License-Identifier: GPL-3.0-or-later
"""The pieces that every module shares: writes that are whole or not at all, commands, and the scrubber."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import TIMED_OUT, CommandError, Completed, check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import Change, as_diff, digest
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import MASK, scrub
from hypothesis import given
from hypothesis import strategies as st


def test_a_write_is_whole_with_its_mode_and_makes_its_folders(tmp_path):
    target = tmp_path / "a/b/file"
    atomic_file.write_atomic(target, "text", 0o600, folder_mode=0o700)
    assert (target.read_text(), target.stat().st_mode & 0o777, target.parent.stat().st_mode & 0o777) == ("text", 0o600, 0o700)
    assert atomic_file.read_text(target) == "text"
    assert atomic_file.read_text(tmp_path / "none") is None
    assert atomic_file.read_text(target / "below-a-file") is None


def test_a_full_disk_leaves_the_old_content_and_no_rubbish(tmp_path, monkeypatch):
    target = tmp_path / "file"
    target.write_text("old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_file.write_atomic(target, "new")
    assert (target.read_text(), os.listdir(tmp_path)) == ("old", ["file"])


def test_killed_while_writing_a_reader_sees_only_whole_contents(tmp_path):
    target = tmp_path / "file"
    script = (
        "import sys, itertools; sys.path.insert(0, sys.argv[1])\n"
        "from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import write_atomic\n"
        "for n in itertools.count(): write_atomic(sys.argv[2], str(n % 10) * 200_000)\n"
    )
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", script, os.path.join(os.getcwd(), ".collections"), str(target)])
        deadline = time.monotonic() + 60
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        writer.kill()
        writer.wait()
        content = target.read_text()
        assert len(content) == 200_000 and len(set(content)) == 1


def test_run_never_raises_for_an_exit_code_and_ends_in_time():
    assert run(["sh", "-c", "echo out; echo err >&2; exit 3"]).rc == 3
    assert run(["no-such-program"]).rc == 127
    began = time.monotonic()
    assert run(["sleep", "30"], timeout=0.2).rc == 124
    assert time.monotonic() - began < 5
    with pytest.raises(CommandError, match=r"exit code 3: err.*The way out"):
        check(run(["sh", "-c", "echo err >&2; exit 3"]), "The way out.")


@pytest.mark.parametrize(
    "text",
    [
        "token=SECRET",
        "+password: SECRET",
        "-password: SECRET",
        "K3S_TOKEN: SECRET",
        '{"password": "SECRET"}',
        "client-key-data: SECRET",
        "postgres://user:SECRET@192.0.2.1/db",
        "Authorization: Bearer SECRET12345",
        f"K10{'ab' * 32}::server:SECRET",
        "AGE-SECRET-KEY-1SECRET",
        "-----BEGIN EC PRIVATE KEY-----\nSECRET\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nSECRET cut off",
        "--agent-token=SECRET",
        "aws_secret = 'SECRET'",
    ],
)
def test_what_looks_like_a_secret_is_masked(text):
    assert "SECRET" not in scrub(text).replace("AGE-SECRET-KEY-1", "") and MASK in scrub(text)


def test_what_is_none_stays():
    for text in ("token CA hash does not match", "token-file is not readable", "the password was rejected", "node=pi-4 state=ready"):
        assert scrub(text) == text


@given(st.text(min_size=4, max_size=40), st.text(max_size=60), st.text(max_size=60))
def test_a_known_secret_never_survives(secret, before, after):
    if secret in MASK:
        return
    assert secret not in scrub(before + secret + after, [secret]).replace(MASK, "\0")


def test_scrubbing_twice_is_scrubbing_once():
    once = scrub("password=abcdef token: 'x y' postgres://u:p@h")
    assert scrub(once) == once


def test_a_digest_is_of_the_content_alone():
    plan = [Change("file", "/a", "missing", "", "x")]
    assert digest(plan) == digest(list(plan)) != digest([*plan, *plan])
    assert as_diff(plan)[0]["after"] == "x\n"


def test_what_a_failed_command_said_is_scrubbed():
    with pytest.raises(CommandError) as failed:
        check(Completed(("tool", "--token=s3cr3t-t0ken"), 1, "", "denied for https://me:s3cr3t-t0ken@host\npassword: s3cr3t-t0ken"))
    assert "s3cr3t" not in str(failed.value) and "denied" in str(failed.value)


# -- commands that say more than anybody keeps --------------------------------------------------------------------------------------------
def test_of_what_a_command_says_the_beginning_and_the_end_are_kept():
    said = "import sys; [print(f'{n:07}') for n in range(100_000)]; print('bad', file=sys.stderr); sys.exit(3)"
    done = run([sys.executable, "-c", said], most=4000)
    assert (done.rc, done.stderr) == (3, "bad\n")
    assert done.stdout.startswith("0000000\n0000001\n")
    assert done.stdout.endswith("0099999\n")
    assert "... 796000 bytes were left out ..." in done.stdout
    assert len(done.stdout) < 4100
    for size in (0, 1, 3999, 4000, 4001):
        whole = run([sys.executable, "-c", f"print('x' * {size}, end='')"], most=4000).stdout
        assert ("left out" in whole) == (size > 4000)
        assert whole.count("x") == min(size, 4000)


def test_a_command_that_says_gigabytes_takes_no_memory():
    # in a process of its own, which says how much it took at most
    script = (
        "import resource, sys\n"
        "from ansible_collections.pifleet.ops.plugins.module_utils._common import argv\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "done = argv.run(['head', '-c', str(2 << 30), '/dev/zero'], most=1 << 20)\n"
        "assert done.ok and len(done.stdout) < 2 << 20, (done.rc, len(done.stdout))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = run([sys.executable, "-c", script], timeout=120, env={"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.ok, done.stderr
    assert int(done.stdout) < 16 << 10, f"{done.stdout} KiB"


def test_what_a_command_said_until_its_time_was_over_is_kept():
    began = time.monotonic()
    script = "import sys, time; print('begun', flush=True); print('why', file=sys.stderr, flush=True); time.sleep(60)"
    done = run([sys.executable, "-c", script], timeout=1.0, most=1000)
    assert done.rc == TIMED_OUT
    assert "begun" in done.stdout
    assert "why" in done.stdout
    assert time.monotonic() - began < 30
