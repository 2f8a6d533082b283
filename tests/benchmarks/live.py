# SPDX-License-Identifier: GPL-3.0-or-later
"""What the callback pifleet.ops.live costs: `python -m tests.benchmarks.live [--runs 9] [--json FILE]`.

The same playbook with it and with the default callback, in turn, each on a pseudo-terminal: a dozen tasks on four hosts that are this
machine, so that the controller has no network to wait for, which is the worst case. Promise: at most 2 % slower.

On a machine that does other things the seconds that pass say little. What the controller's own process has a processor for is steadier:
what that is more than with the default callback, as a share of the time that the run takes with that one.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from tests.benchmarks.bootstrap import Figure, compared
from tests.support.controller import ROOT, Controller

LIMIT = 1.02
HOSTS = 4
INVENTORY = "all:\n  vars: {ansible_connection: local, ansible_python_interpreter: %s}\n  hosts: {%s}\n"
PLAYBOOK = """
- name: Work
  hosts: all
  gather_facts: false
  tasks:
%s
"""
TASK = """
    - name: Task {number}
      {task}
"""
TASKS = ("ansible.builtin.debug: {msg: text}", "ansible.builtin.ping:", "ansible.builtin.command: 'true'")


#: ansible-playbook, which in the end says what its process, without its children, had a processor for
CONTROLLER = """
import atexit, os, resource, sys
from ansible.cli.playbook import main
me, place = os.getpid(), sys.argv.pop(1)
def tell():
    if os.getpid() == me:
        used = resource.getrusage(resource.RUSAGE_SELF)
        open(place, "w").write(str(used.ru_utime + used.ru_stime))
atexit.register(tell)
sys.argv[0] = "ansible-playbook"
main()
"""


def played(command: list[str], env: dict[str, str]) -> float:
    """Run *command* on a terminal to its end, and return seconds that passed."""
    began = os.times().elapsed
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(command[0], command, env)
    try:
        while os.read(master, 65536):
            pass
    except OSError:
        pass  # the terminal's end
    os.close(master)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(" ".join(command))
    return os.times().elapsed - began


def measure(runs: int, tasks: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hosts.yml").write_text(INVENTORY % (sys.executable, ", ".join(f"h{n}: {{}}" for n in range(HOSTS))))
        text = "".join(TASK.format(number=n, task=TASKS[n % len(TASKS)]) for n in range(tasks))
        controller = Controller(folder)
        used = folder / "used"
        python, _module, _ansible, _playbook, *words = controller.command(PLAYBOOK % text)
        command = [python, "-c", CONTROLLER, str(used), *words]
        inherited = {k: v for k, v in controller.env().items() if k not in ("CI", "NO_COLOR", "ANSIBLE_NOCOLOR", "COLUMNS")}

        def with_callback(callback: str) -> Callable[[], tuple[float, float]]:
            env = {**inherited, "TERM": "xterm-256color", "ANSIBLE_STDOUT_CALLBACK": callback}
            return lambda: (played(command, env), float(used.read_text()))

        live, default = with_callback("pifleet.ops.live"), with_callback("ansible.builtin.default")
        live(), default()
        # what comes second of a pair finds the machine warmer: they change places
        pairs = [(live(), default()) if n % 2 else tuple(reversed((default(), live()))) for n in range(runs)]
    wall, own = ([[pair[side][kind] for pair in pairs] for side in (0, 1)] for kind in (0, 1))
    added = [passed + mine - theirs for passed, mine, theirs in zip(wall[1], *own, strict=True)]
    title = f"{tasks} tasks, pifleet.ops.live / default"
    figures = [
        compared(title, HOSTS, *wall, LIMIT),
        compared(f"{title}, processor time of the controller added", HOSTS, added, wall[1], LIMIT),
    ]
    return [replace(f, of="hosts") for f in figures]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    figures = measure(args.runs, args.tasks)
    for f in figures:
        verdict = "" if f.limit is None else "kept" if f.kept else "BROKEN"
        print(f"{f.name:<80} {f.nodes:>3} hosts  {f.seconds:7.2f} s  floor {f.floor:6.2f} s  ratio {f.ratio:7.3f}  {verdict}")
    if args.json:
        args.json.write_text(json.dumps([asdict(f) | {"kept": f.kept} for f in figures], indent=2) + "\n")
    return 0 if all(f.kept for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
