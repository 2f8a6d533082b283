# SPDX-License-Identifier: GPL-3.0-or-later
"""What is drawn fits the terminal, and where nothing is drawn."""

from __future__ import annotations

import io
import re
import threading

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._live import screen
from ansible_collections.pifleet.ops.plugins.plugin_utils._live.outcome import Changed, Failed
from ansible_collections.pifleet.ops.plugins.plugin_utils._live.progress import Progress
from rich.cells import cell_len

PERSON = {"TERM": "xterm-256color"}


@pytest.mark.parametrize(
    ("environment", "tty", "drawn"),
    [
        (PERSON, True, True),
        (PERSON, False, False),
        (PERSON | {"NO_COLOR": "1"}, True, False),
        (PERSON | {"NO_COLOR": ""}, True, True),
        (PERSON | {"ANSIBLE_NOCOLOR": "1"}, True, False),
        (PERSON | {"CI": "true"}, True, False),
        (PERSON | {"CI": "false"}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({}, True, False),
    ],
)
def test_view_is_for_a_person_at_a_terminal(environment: dict[str, str], tty: bool, drawn: bool) -> None:
    assert screen.is_for_a_person(environment, tty=tty) is drawn


@pytest.mark.parametrize(("width", "height"), [(40, 6), (79, 24), (200, 60)])
@pytest.mark.parametrize("name", ["one", "節点" * 20, "a-very-long-name.of-a-node.in-some-domain.example.org"])
def test_no_line_is_wider_and_no_view_higher_than_the_terminal(width: int, height: int, name: str) -> None:
    made = Progress("site.yml", 0.0, (3,))
    hosts = [name, *(f"n{number}" for number in range(80))]
    made.begin_play("A play with a long name " * 10, 1, hosts, hosts)
    made.start(name, "タスク " * 60, 1.0)
    made.expect(75.0, {})
    lines = screen.frame(made, 10.0, width, height)
    assert max(cell_len(text) for _style, text in lines) <= width
    assert len(lines) <= height - 2


def test_tables_have_all_their_words_on_a_narrow_terminal() -> None:
    cause = "The unit k3s did not start within 300 s, because port 6443 is taken by another program."
    shown = screen.failures_table([Failed("pi-cluster-1.local", "Start k3s", "failed", cause, "Stop [it].")], 50)
    words = re.sub(r"\x1b\[[0-9;]*m", "", shown).split()
    assert set(f"{cause} Stop [it]. Start".split()) <= set(words)
    shown = screen.changes_table([Changed("Write [the] file", "/etc/x (content)", ["a", "b"])], 80)
    assert "Write [the] file" in shown and "a, b" in shown


def test_a_frame_that_is_the_same_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, moments = io.StringIO(), iter([1.0, 1.2, 2.0, 2.1, 2.2])
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    view = screen.Screen(Progress("site.yml", 0.0, (3,)), threading.RLock(), clock=lambda: next(moments))
    lengths = []
    for line in ("", "", "", "what stays\n", ""):
        if line:
            view.write(stream, line)
        view.draw()
        lengths.append(len(stream.getvalue()))
    first, same, later, below_what_stays, same_again = lengths
    assert first == same < later < below_what_stays == same_again
