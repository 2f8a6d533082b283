# SPDX-License-Identifier: GPL-3.0-or-later
"""Without a terminal: one plain line at the begin and the end of a step."""

from __future__ import annotations

import pytest

from lab.console import Console


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Console() as console:
        with console.step("node image") as step:
            step.say("unpacking 1 of 100")
        console.line("done")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("s  ")[1].split(":")[0] for line in lines] == ["node image …", "node image", "done"]
    assert not any("\x1b" in line or "unpacking" in line for line in lines)


def test_a_step_that_fails_has_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="disk"), Console() as console, console.step("node image"):
        raise OSError("disk")
    assert "node image:" not in capsys.readouterr().err
