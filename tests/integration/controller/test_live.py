# SPDX-License-Identifier: GPL-3.0-or-later
"""The callback pifleet.ops.live on a real terminal, and without one, beside the default callback."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from tests.support.controller import ROOT, Controller, with_callback
from tests.support.terminal import Terminal

WORK = """
- name: Work
  hosts: all
  gather_facts: false
  tasks:
    - name: Reach it
      ansible.builtin.ping:
    - name: Write the file
      ansible.builtin.copy: {content: "text\\n", dest: "{{ fleet_root }}/{{ inventory_hostname }}.txt"}
      notify: Tell it
    - name: Work for long
      ansible.builtin.command: "sleep {{ 3 if inventory_hostname == 'two' else 0 }}"
      changed_when: false
    - name: Go through items
      ansible.builtin.command: "sleep 0.{{ item }}"
      loop: [3, 4, 5]
      loop_control: {label: "item-{{ item }}"}
      when: inventory_hostname == 'one'
    - name: Ask once
      ansible.builtin.command: sleep 1
      changed_when: false
      run_once: true
    - name: Try again
      ansible.builtin.command: "test -e {{ fleet_root }}/never"
      register: tried
      until: tried is succeeded
      retries: 2
      delay: 1
      changed_when: false
      ignore_errors: true
      when: inventory_hostname == 'three'
    - name: Work in the background
      ansible.builtin.command: sleep 2
      async: 20
      poll: 1
      changed_when: false
      when: inventory_hostname == 'one'
    - name: Work elsewhere
      ansible.builtin.command: sleep 1
      changed_when: false
      delegate_to: three
      when: inventory_hostname == 'one'
    - name: Include more
      ansible.builtin.include_tasks: "{{ fleet_root }}/more.yml"
    - name: Something with a net
      block:
        - name: Fall
          ansible.builtin.fail: {msg: fell into the net}
      rescue:
        - name: Be saved
          ansible.builtin.debug: {msg: saved}
    - name: Hide
      ansible.builtin.copy: {content: "{{ 'ses' ~ 'ame' }}", dest: "{{ fleet_root }}/secret-{{ inventory_hostname }}"}
      no_log: true
    - name: Break
      ansible.builtin.fail: {msg: "The thing is broken in a way that takes more words than fit into one line of a terminal, and all count."}
      when: inventory_hostname == 'two'
  handlers:
    - name: Tell it
      ansible.builtin.command: sleep 1
      changed_when: false

- name: In parts
  hosts: all
  serial: 1
  gather_facts: false
  tasks:
    - name: Take a turn
      ansible.builtin.command: sleep 1
      changed_when: false
"""
MORE = """
- name: Included
  ansible.builtin.command: sleep 0.1
  changed_when: false
"""
QUICK = """
- name: Quick
  hosts: one
  gather_facts: false
  tasks:
    - name: Say
      ansible.builtin.debug: {msg: hello}
    - name: Write the file
      ansible.builtin.copy: {content: "text\\n", dest: "{{ fleet_root }}/quick.txt"}
    - name: Break
      ansible.builtin.fail: {msg: on purpose}
"""
LONG = """
- name: Long
  hosts: one
  gather_facts: false
  tasks:
    - name: Wait for it
      ansible.builtin.command: sleep 60
"""
RECORDED = """
- hosts: all:!gone
  gather_facts: false
  tasks:
    - pifleet.ops.run_record: {state: opened}
      run_once: true
- name: Work
  hosts: one
  gather_facts: false
  tasks:
    - name: Take two seconds
      ansible.builtin.command: sleep 2
      changed_when: false
- hosts: all:!gone
  gather_facts: false
  tasks:
    - pifleet.ops.run_record: {state: closed}
      run_once: true
"""
LIVE = {"ANSIBLE_STDOUT_CALLBACK": "pifleet.ops.live"}
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def open_terminal(controller: Controller) -> Iterator[object]:
    opened: list[Terminal] = []

    def begin(playbook: str, *args: str, columns: int = 120, lines: int = 40, **env: str) -> Terminal:
        (controller.folder / "more.yml").write_text(MORE)
        # with what ansible.cfg says, as a person does
        unset = ("ANSIBLE_STDOUT_CALLBACK", "CI", "NO_COLOR", "ANSIBLE_NOCOLOR", "COLUMNS", "LINES")
        inherited = {k: v for k, v in controller.env().items() if k not in unset}
        terminal = Terminal(controller.command(playbook, *args), {**inherited, "TERM": "xterm-256color", **env}, ROOT, columns, lines)
        opened.append(terminal)
        return terminal

    yield begin
    for terminal in opened:
        terminal.close()


def view_of(frames: list[list[str]]) -> str:
    return "\n".join(line for frame in frames for line in frame)


def test_person_sees_what_each_host_does_and_in_the_end_all_that_counts(open_terminal) -> None:  # type: ignore[no-untyped-def]
    terminal: Terminal = open_terminal(WORK, "--diff")
    terminal.read()
    seen, left = view_of(terminal.frames), terminal.text
    assert terminal.process.returncode == 4
    for wanted in (
        r"^play-\d+.yml  play 1 of 2: Work  \d+ s$",
        r"^two +[━╌]+ +\d+%  Work for long  \d s$",
        r"^one +[━╌]+ +\d+%  waits for two: Work for long$",
        r"^one +[━╌]+ +\d+%  Go through items \([12] items, the last item-\d\)  \d s$",
        r"^two +[━╌]+ +\d+%  waits for one, which does it for all$",
        r"^three +[━╌]+ +\d+%  Try again \(attempt 2 of 3\)  \d s$",
        r"^one +[━╌]+ +\d+%  Work in the background \(in the background\)  \d s$",
        r"^one +[━╌]+ +\d+%  Work elsewhere \(on three\)  \d s$",
        r"^(one|three) +[━╌]+ +\d+%  Tell it  \d s$",
        r"^gone +[━╌]+ +\d+%  unreachable: Reach it$",
        r"^three +[━╌]+ +\d+%  waits for its turn: 1 at a time$",
        r"^two +[━╌]+ +\d+%  failed: Break$",
    ):
        assert re.search(wanted, seen, re.M), wanted
    assert "play 2 of 2: In parts" in seen
    # what stays is a record: nothing of the view, and no result without a change
    assert "━" not in left and "ok: [" not in left
    assert "+text" in left, "the diff"
    for told in (
        "...ignoring",
        "fell into the net",
        "UNREACHABLE",
        "PLAY RECAP",
        "CHANGED",
        "ignored: three | Try again",
        "rescued: one | Fall",
    ):
        assert told in left, told
    last = left.split("FAILED *")[-1]
    assert re.search(r"^gone +Reach it$", last, re.M)
    assert "The thing is broken in a way that takes more words than fit into one line of a terminal, and all count." in " ".join(
        last.split()
    )
    assert "sesame" not in terminal.raw.decode()
    assert terminal.is_as_before()


def test_time_of_the_last_run_stands_beside_that_of_this_one(open_terminal, controller: Controller) -> None:  # type: ignore[no-untyped-def]
    first = open_terminal(RECORDED)
    first.read()
    assert first.process.returncode == 0, first.text
    assert "last time" not in view_of(first.frames)
    second = open_terminal(RECORDED)
    second.read()
    assert re.search(r"^one +[━╌]+ +\d+%  Take two seconds  \d s \(last time \d s\)$", view_of(second.frames), re.M)
    assert re.search(r"^took \d+ s \(last time \d+ s\)$", second.text, re.M)


def test_interrupt_leaves_the_terminal_as_it_was_and_says_what_was_interrupted(open_terminal) -> None:  # type: ignore[no-untyped-def]
    terminal: Terminal = open_terminal(LONG)
    assert terminal.read(lambda t: any("Wait for it" in line and " 1 s" in line for line in t.shown))
    terminal.interrupt()
    terminal.read()
    assert terminal.process.returncode not in (0, None)
    assert "interrupted: one : Wait for it" in terminal.text
    assert "━" not in terminal.text
    assert "Traceback" not in terminal.text
    assert terminal.is_as_before()


def test_resized_and_killed_it_leaves_the_terminal_usable(open_terminal) -> None:  # type: ignore[no-untyped-def]
    terminal: Terminal = open_terminal(LONG)
    assert terminal.read(lambda t: any("Wait for it" in line for line in t.shown))
    terminal.resize(60, 30)
    assert terminal.read(lambda t: any("Wait for it" in line and " 3 s" in line for line in t.shown))
    assert sum("━" in line or "╌" in line for line in terminal.shown) == 1, "nothing is left of the wider view"
    os.killpg(terminal.process.pid, 9)
    terminal.read()
    assert terminal.is_as_before()


def test_plain_lines_where_no_colour_is_wanted(open_terminal) -> None:  # type: ignore[no-untyped-def]
    terminal: Terminal = open_terminal(QUICK, NO_COLOR="1")
    terminal.read()
    assert not re.search(rb"\x1b\[\d*[AJ]", terminal.raw)
    assert "ok: [one]" in terminal.text
    assert "cause: on purpose" in terminal.text


@pytest.mark.parametrize("args", [["-v"], ["--check", "--diff"]])
def test_lines_are_those_of_the_default_and_the_summary_follows(controller: Controller, args: list[str]) -> None:
    default = controller.play(QUICK, *args, env={"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"})
    (controller.folder / "quick.txt").unlink(missing_ok=True)
    live = controller.play(QUICK, *args, env=LIVE)
    assert live.rc == default.rc == 2
    told, title, summary = re.split(r"^((?:WOULD CHANGE|CHANGED) \*+)$", live.out, maxsplit=1, flags=re.M)
    assert steady(told) == steady(default.out)
    assert ("WOULD" in title) == ("--check" in args)
    assert re.search(r"^one \| Write the file \| .*quick\.txt", summary, re.M)
    assert live.out.rstrip().splitlines()[-3:-1] == ["one | Break | failed", "  cause: on purpose"]


def steady(out: str) -> list[str]:
    """Lines without what differs from run to run."""
    return [re.sub(r"[0-9a-f-]{8,}|\d{4,}|\d:\d+", "N", line) for line in out.strip().splitlines()]


def test_view_that_breaks_takes_nothing_of_the_run_with_it(open_terminal, controller: Controller) -> None:  # type: ignore[no-untyped-def]
    broken = with_callback(controller.folder, "\nCallbackModule._begin_task = lambda *_: 1 / 0\n", "live")
    terminal: Terminal = open_terminal(QUICK, **broken)
    terminal.read()
    assert terminal.process.returncode == 2
    assert "pifleet.ops.live cannot show this run (ZeroDivisionError" in " ".join(terminal.text.split())
    assert "ok: [one]" in terminal.text
    assert "on purpose" in terminal.text
    assert terminal.is_as_before()
