# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of the bootstrap, each figure beside its floor in the same run: `python -m tests.benchmarks.bootstrap [--nodes 16] [--json FILE]`.

- converged: a re-run that has nothing to do, against `ansible all -m ping` on the same nodes, of playbooks/bootstrap.yml (this part) and
  of site.yml (all that it has by now). Promise: at most 6 times.
- per node: the same on 8 and 16 nodes. Promise: seconds a node fall from 4 to 16 nodes.
- bootstrap: fresh nodes to Ready, against the same units started by hand. Promise: at most twice.

These machines are noisy: runs are made in turn (A B A B), and the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tests.support.fleet import BIN, ROOT, Fleet

#: what site.yml does first, and a playbook of its own
PART = "playbooks/bootstrap.yml"


@dataclass(frozen=True)
class Figure:
    """*seconds* and *floor*: medians, in *unit*; *ratio*: median of the ratios run by run; *limit*: what is promised.

    *nodes*: how many there were of what *of* says. *load*: of the machine in the minute before, that of the benchmark included.
    """

    name: str
    nodes: int
    runs: int
    seconds: float
    floor: float
    ratio: float
    limit: float | None
    unit: str = "s"
    of: str = "nodes"
    load: float = field(default_factory=lambda: round(os.getloadavg()[0], 1))

    @property
    def kept(self) -> bool:
        return self.limit is None or self.ratio <= self.limit


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def in_turn(runs: int, *works: Callable[[], object]) -> list[list[float]]:
    """Seconds of each of *works*, run after run: all of them once, then all of them again."""
    return [list(column) for column in zip(*([timed(work) for work in works] for _ in range(runs)), strict=True)]


def compared(name: str, nodes: int, mine: list[float], floor: list[float], limit: float | None) -> Figure:
    ratios = [a / b for a, b in zip(mine, floor, strict=True)]
    seconds, below = (round(statistics.median(values), 2) for values in (mine, floor))
    return Figure(name, nodes, len(mine), seconds, below, round(statistics.median(ratios), 3), limit)


def ansible(fleet: Fleet, *argv: str) -> None:
    done = subprocess.run(
        [*argv, "-i", str(fleet.inventory)], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def ping(fleet: Fleet) -> None:
    ansible(fleet, str(BIN / "ansible"), "all", "-m", "ansible.builtin.ping")


def site(fleet: Fleet, playbook: str = "site.yml") -> None:
    ansible(fleet, str(BIN / "ansible-playbook"), playbook)


def converged(fleet: Fleet, runs: int) -> list[Figure]:
    site(fleet)
    ping(fleet)
    whole, bootstrapped, pinged = in_turn(runs, lambda: site(fleet), lambda: site(fleet, PART), lambda: ping(fleet))
    nodes = len(fleet.hosts)
    return [
        compared("converged bootstrap.yml / ansible -m ping", nodes, bootstrapped, pinged, 6.0),
        compared("converged site.yml / ansible -m ping", nodes, whole, pinged, 6.0),
    ]


def by_hand(fleet: Fleet) -> None:
    """What nobody can be quicker than: the artifacts copied, the units started, all in parallel, until every node is Ready."""
    version = fleet.vars_of(fleet.hosts[0])["k3s_version"]
    source = ROOT / ".pifleet/lab/artifacts" / str(version)
    images = "/var/lib/rancher/k3s/agent/images"
    server, url = fleet.servers[0], f"https://{fleet.address(fleet.servers[0])}:6443"
    for host in fleet.hosts:
        address, user = fleet.address(host), fleet.vars_of(host)["ansible_user"]
        key = ["-i", str(ROOT / ".pifleet/lab" / fleet.inventory.name / "id_ed25519")]
        known = ["-o", f"UserKnownHostsFile={ROOT / '.pifleet/lab' / fleet.inventory.name / 'known_hosts'}"]
        subprocess.run(
            ["scp", "-q", *key, *known, source / "k3s", source / "k3s-airgap-images-amd64.tar.zst", f"{user}@{address}:/tmp/"],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        fleet.sh(host, f"install -m755 /tmp/k3s /usr/local/bin/k3s; mkdir -p {images}; mv /tmp/k3s-airgap* {images}/")
    unit = "systemd-run -q --unit {name} -p Type=notify -p KillMode=process -p Delegate=yes -p TimeoutStartSec=infinity {argv}"
    fleet.sh(server, unit.format(name="k3s", argv=f"k3s server --token by-hand --node-name {server}"), timeout=180)
    for host in fleet.workers:
        fleet.sh(host, unit.format(name="k3s-agent", argv=f"--no-block k3s agent --server {url} --token by-hand --node-name {host}"))
    while fleet.ready() != set(fleet.hosts):
        time.sleep(0.3)


def bootstrap(fleet: Fleet, runs: int) -> Figure:
    def wiped(work: Callable[[Fleet], object]) -> float:
        fleet.wipe()
        return timed(lambda: work(fleet))

    pairs = [(wiped(lambda fleet: site(fleet, PART)), wiped(by_hand)) for _ in range(runs)]
    fleet.wipe()
    return compared("fresh nodes to Ready / units started by hand", len(fleet.hosts), [a for a, _ in pairs], [b for _, b in pairs], 2.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--nodes", type=int, choices=[4, 8, 16], default=16, help="how far the per-node figure goes")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    figures: list[Figure] = []
    fleet = Fleet(ROOT / "inventory/lab")
    fleet.lab("down", "-i", str(fleet.inventory))
    fleet.up()
    figures += [bootstrap(fleet, min(args.runs, 3)), *converged(fleet, args.runs)]
    falls: dict[str, bool] = {}
    smaller = {f.name: f for f in figures}
    for nodes in (n for n in (8, 16) if n <= args.nodes):
        fleet.lab("down", "-i", str(fleet.inventory))
        fleet = Fleet(ROOT / f"inventory/lab-{nodes}")
        fleet.up()
        try:
            larger = converged(fleet, args.runs)
        finally:
            fleet.lab("down", "-i", str(fleet.inventory))
        falls = {f.name: f.seconds / f.nodes < smaller[f.name].seconds / smaller[f.name].nodes for f in larger}
        # the promise of 6 times is for 4 nodes: of more, Ansible's own share grows with the nodes, and with it the floor
        figures += [replace(f, limit=None) for f in larger]
    for f in figures:
        verdict = "" if f.limit is None else "kept" if f.kept else "BROKEN"
        print(f"{f.name:<46} {f.nodes:>3} nodes  {f.seconds:7.2f} s  floor {f.floor:6.2f} s  ratio {f.ratio:5.2f}  {verdict}")
    for name, fell in falls.items():
        print(f"{name:<46} seconds a node fall from 4 to {args.nodes} nodes: {'yes' if fell else 'NO'}")
    if args.json:
        args.json.write_text(json.dumps([asdict(f) | {"kept": f.kept} for f in figures], indent=2) + "\n")
    return 0 if all(falls.values()) and all(f.kept for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
