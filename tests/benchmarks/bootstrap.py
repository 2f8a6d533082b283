# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of the bootstrap, each figure beside its floor in the same run: `python -m tests.benchmarks.bootstrap [--nodes 16] [--json FILE]`.

- converged: a re-run of site.yml that has nothing to do, against `ansible all -m ping` on the same nodes. Promise: at most 6 times.
- per node: the same on 16 nodes. Promise: seconds a node fall from 4 to 16 nodes.
- bootstrap: fresh nodes to Ready, against the same units started by hand. Promise: at most twice.

These machines are noisy: runs are made in turn (A B A B), and the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.fleet import BIN, ROOT, Fleet


@dataclass(frozen=True)
class Figure:
    """*seconds* and *floor*: medians; *ratio*: median of the ratios run by run; *limit*: what is promised."""

    name: str
    nodes: int
    runs: int
    seconds: float
    floor: float
    ratio: float
    limit: float | None

    @property
    def kept(self) -> bool:
        return self.limit is None or self.ratio <= self.limit


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def figure(name: str, nodes: int, runs: int, work: Callable[[], object], floor: Callable[[], object], limit: float | None) -> Figure:
    pairs = [(timed(work), timed(floor)) for _ in range(runs)]
    return Figure(
        name,
        nodes,
        runs,
        round(statistics.median(a for a, _ in pairs), 2),
        round(statistics.median(b for _, b in pairs), 2),
        round(statistics.median(a / b for a, b in pairs), 2),
        limit,
    )


def ansible(fleet: Fleet, *argv: str) -> None:
    done = subprocess.run(
        [*argv, "-i", str(fleet.inventory)], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def ping(fleet: Fleet) -> None:
    ansible(fleet, str(BIN / "ansible"), "all", "-m", "ansible.builtin.ping")


def site(fleet: Fleet) -> None:
    ansible(fleet, str(BIN / "ansible-playbook"), "site.yml")


def converged(fleet: Fleet, runs: int) -> Figure:
    site(fleet)
    ping(fleet)
    return figure("converged re-run / ansible -m ping", len(fleet.hosts), runs, lambda: site(fleet), lambda: ping(fleet), 6.0)


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
    unit = "systemd-run -q --unit {name} -p Type=notify -p KillMode=process -p Delegate=yes -p TimeoutStartSec=0 {argv}"
    fleet.sh(server, unit.format(name="k3s", argv=f"k3s server --token by-hand --node-name {server}"), timeout=180)
    for host in fleet.workers:
        fleet.sh(host, unit.format(name="k3s-agent", argv=f"--no-block k3s agent --server {url} --token by-hand --node-name {host}"))
    while fleet.ready() != set(fleet.hosts):
        time.sleep(0.3)


def bootstrap(fleet: Fleet, runs: int) -> Figure:
    pairs = []
    for _ in range(runs):
        fleet.wipe()
        mine = timed(lambda: site(fleet))
        fleet.wipe()
        pairs.append((mine, timed(lambda: by_hand(fleet))))
    fleet.wipe()
    mine, floor = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratio = statistics.median(a / b for a, b in pairs)
    return Figure(
        "bootstrap of fresh nodes / units started by hand", len(fleet.hosts), runs, round(mine, 2), round(floor, 2), round(ratio, 2), 2.0
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--nodes", type=int, choices=[4, 16], default=16, help="how far the per-node figure goes")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    figures: list[Figure] = []
    fleet = Fleet(ROOT / "inventory/lab")
    fleet.up()
    figures += [bootstrap(fleet, min(args.runs, 3)), converged(fleet, args.runs)]
    per_node_falls = True
    if args.nodes == 16:
        fleet.lab("down", "-i", str(fleet.inventory))
        large = Fleet(ROOT / "inventory/lab-16")
        large.up()
        try:
            figures.append(converged(large, args.runs))
        finally:
            large.lab("down", "-i", str(large.inventory))
        small_one, large_one = figures[1], figures[2]
        per_node_falls = large_one.seconds / large_one.nodes < small_one.seconds / small_one.nodes
    for f in figures:
        verdict = "kept" if f.kept else "BROKEN"
        print(f"{f.name:<50} {f.nodes:>3} nodes  {f.seconds:7.2f} s  floor {f.floor:6.2f} s  ratio {f.ratio:5.2f}  {verdict}")
    print(f"seconds a node fall from 4 to 16 nodes: {'yes' if per_node_falls else 'NO'}")
    if args.json:
        args.json.write_text(json.dumps([asdict(f) | {"kept": f.kept} for f in figures], indent=2) + "\n")
    return 0 if per_node_falls and all(f.kept for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
