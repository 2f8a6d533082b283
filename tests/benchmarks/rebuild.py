# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of a rebuild beside its floor in the same run: `python -m tests.benchmarks.rebuild [--runs 3] [--json FILE]`.

The floor is what nobody can be quicker than, once somebody has deleted the Node by hand: the artifacts copied, the unit started, until
the node is Ready and its pods run. Promise: the one command, retirement and evidence included, takes at most a quarter longer.

These machines are noisy: both are measured in turn (A B A B), and the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.bootstrap import Figure, ansible, site, timed
from tests.integration.rebuild.conftest import ACCEPT, Rebuilt, workloads
from tests.support.fleet import BIN, ROOT

OVERHEAD = 1.25


def rebuild(fleet: Rebuilt) -> None:
    ansible(fleet, str(BIN / "ansible-playbook"), "site.yml", "--limit", fleet.node, *ACCEPT)


def by_hand(fleet: Rebuilt) -> None:
    """On a node that the cluster has forgotten: copy, configure, start, until it is Ready and its pods run."""
    node, server = fleet.node, fleet.servers[0]
    source = ROOT / ".pifleet/lab/artifacts" / str(fleet.vars_of(node)["k3s_version"])
    state, images = ROOT / ".pifleet/lab" / fleet.inventory.name, "/var/lib/rancher/k3s/agent/images"
    options = [
        "-i",
        str(state / "id_ed25519"),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
    ]
    target = f"{fleet.vars_of(node)['ansible_user']}@{fleet.address(node)}:/tmp/"
    files = [source / "k3s", source / "k3s-airgap-images-amd64.tar.zst"]
    subprocess.run(["scp", "-q", *options, *files, target], check=True, stdin=subprocess.DEVNULL)
    token = fleet.sh(server, "cat /var/lib/rancher/k3s/server/agent-token").strip()
    unit = "systemd-run -q --unit k3s-agent -p Type=notify -p KillMode=process -p Delegate=yes -p TimeoutStartSec=0"
    fleet.sh(
        node,
        f"install -m755 /tmp/k3s /usr/local/bin/k3s; mkdir -p {images}; mv /tmp/k3s-airgap* {images}/; sysctl -qw net.ipv4.ip_forward=1; "
        f"{unit} k3s agent --server https://{fleet.address(server)}:6443 --token {token} --node-name {node}",
        timeout=180,
    )
    while node not in fleet.ready() or not running(fleet):
        time.sleep(0.3)


def running(fleet: Rebuilt) -> bool:
    mine = [ready for _uid, node, ready, _restarts in fleet.pods().values() if node == fleet.node]
    return bool(mine) and all(mine)


def swapped(fleet: Rebuilt) -> None:
    fleet.settled()
    fleet.swap()


def figure(fleet: Rebuilt, runs: int) -> Figure:
    pairs = []
    for _ in range(runs):
        swapped(fleet)
        mine = timed(lambda: rebuild(fleet))
        swapped(fleet)
        fleet.forget(fleet.node)
        floor = timed(lambda: by_hand(fleet))
        pairs.append((mine, floor))
        fleet.wipe(fleet.node)
        fleet.forget(fleet.node)
        site(fleet)
    mine, floor = (round(statistics.median(p[i] for p in pairs), 2) for i in (0, 1))
    return Figure(
        "rebuild of a worker / copy and join by hand", 1, runs, mine, floor, round(statistics.median(a / b for a, b in pairs), 2), OVERHEAD
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figure there")
    args = parser.parse_args()
    fleet = Rebuilt(ROOT / "inventory/lab")
    fleet.up()
    site(fleet)
    fleet.apply(workloads(fleet.node))
    found = figure(fleet, args.runs)
    verdict = "kept" if found.kept else "BROKEN"
    print(f"{found.name:<50} {found.seconds:7.2f} s  floor {found.floor:6.2f} s  ratio {found.ratio:5.2f}  {verdict}")
    if args.json:
        args.json.write_text(json.dumps(asdict(found) | {"kept": found.kept}, indent=2) + "\n")
    return 0 if found.kept else 1


if __name__ == "__main__":
    sys.exit(main())
