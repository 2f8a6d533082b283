# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of a rebuild beside its floors in the same run: `python -m tests.benchmarks.rebuild [--runs 3] [--json FILE]`.

- The floor is what nobody can be quicker than, once somebody has deleted the Node by hand: over one ssh connection the artifacts copied and
  the unit started, until the node is Ready and its pods run. Promise: the one command, retirement and evidence included, takes at most a
  quarter longer. Of the floor the copy is what the lab can show as it is on a Pi: the files are as large as those of a real release, and
  the link to the node is as fast as the slowest card that Raspberry Pi recommends must write. The start is the stand-in's, quicker than
  the start of k3s on any Pi: there the ratio can only be better.
- The same with the stand-in's own small files at the speed of loopback, where nothing but the command itself is measured. No promise.
- The second floor of that is a playbook of five plain tasks: what Ansible itself takes, on a node that the controller knows already.

These machines are noisy: all are measured in turn (A B C A B C), and the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.bootstrap import PART, Figure, ansible, compared, site, timed
from tests.integration.rebuild.conftest import ACCEPT, Rebuilt, workloads
from tests.support.fleet import BIN, NO_STACKS, ROOT

OVERHEAD = 1.25
IMAGES = "/var/lib/rancher/k3s/agent/images"
BINARY, ARCHIVE, SUMS = "k3s", "k3s-airgap-images-amd64.tar.zst", "sha256sum-amd64.txt"
MIB = 1 << 20
#: k3s refuses to release a binary of more than 75 MiB (its scripts/binary_size_check.sh); those of 2026 take 60 to 75
BINARY_SIZE = 64 * MIB
#: the archive of images for arm64 takes 160 to 190 MiB
ARCHIVE_SIZE = 160 * MIB
#: what a card of the classes 10, U1 and A1 must write, the least that Raspberry Pi recommends: 10 MB/s
LINK = "80mbit"


def rebuild(fleet: Rebuilt, source: Path) -> None:
    node = ("-e", f"node={fleet.node}", "-e", f"k3s_artifact_dir={source}")
    ansible(fleet, str(BIN / "ansible-playbook"), "playbooks/rebuild.yml", *node, *ACCEPT, *NO_STACKS)


def released(fleet: Rebuilt) -> Path:
    """The folder of the stand-in's own release."""
    return ROOT / ".pifleet/lab/artifacts" / str(fleet.vars_of(fleet.node)["k3s_version"])


def as_published(release: Path, folder: Path) -> Path:
    """A copy of *release* in *folder* whose files are as large as those of a real one, and work as before."""
    shutil.copytree(release, folder, dirs_exist_ok=True)
    binary, archive = folder / BINARY, folder / ARCHIVE
    # a script with a zip archive behind it: one more member, which nobody reads
    with zipfile.ZipFile(binary, "a") as program:
        program.writestr("filling", os.urandom(BINARY_SIZE - binary.stat().st_size))
    # a frame that zstd skips (RFC 8878, section 3.1.2)
    filling = ARCHIVE_SIZE - archive.stat().st_size
    with archive.open("ab") as stream:
        stream.write(struct.pack("<II", 0x184D2A50, filling) + os.urandom(filling))
    sums = []
    for line in (folder / SUMS).read_text().splitlines():
        name = line.split()[1]
        sums.append(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n")
    (folder / SUMS).write_text("".join(sums))
    return folder


def slowed(fleet: Rebuilt) -> None:
    """Give the node a link of LINK, from the host's end of it."""
    peer = fleet.sh(fleet.node, "cat /sys/class/net/eth0/iflink")
    link = next(path.parent.name for path in Path("/sys/class/net").glob("*/ifindex") if path.read_text() == peer)
    subprocess.run(["tc", "qdisc", "replace", "dev", link, "root", "tbf", "rate", LINK, "burst", "256kb", "latency", "50ms"], check=True)


def starts(fleet: Rebuilt) -> str:
    """The command that installs what was copied to /tmp and starts the agent; it ends when the agent has joined. $TOKEN is the token."""
    unit = "systemd-run -q --unit k3s-agent -p Type=notify -p KillMode=process -p Delegate=yes -p TimeoutStartSec=infinity"
    return (
        f"install -m755 /tmp/k3s /usr/local/bin/k3s; mkdir -p {IMAGES}; mv /tmp/k3s-airgap* {IMAGES}/; sysctl -qw net.ipv4.ip_forward=1; "
        f"{unit} k3s agent --server https://{fleet.address(fleet.servers[0])}:6443 --token $TOKEN --node-name {fleet.node}"
    )


def waits(fleet: Rebuilt) -> str:
    """The command that ends, on a server, when the node is Ready and all pods on it are."""
    pods = f"k3s kubectl get pods -A --field-selector spec.nodeName={fleet.node} -o"
    conditions = 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    node = f"k3s kubectl get node {fleet.node} -o 'jsonpath={{.status.conditions[?(@.type==\"Ready\")].status}}'"
    return f'until [ "$({node})" = True ] && [ "$({pods} \'{conditions}\' | sort -u)" = True ]; do sleep 0.2; done'


class Shell:
    """ssh and scp with the settings that Ansible uses here: one connection, which stays open."""

    def __init__(self, fleet: Rebuilt, folder: str) -> None:
        state = ROOT / ".pifleet/lab" / fleet.inventory.name
        # the node is a new machine, whose host key is not what this is about
        trust = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        once = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60s", "-o", f"ControlPath={folder}/%C"]
        self._fleet, self._options = fleet, ["-i", str(state / "id_ed25519"), *trust, *once]

    def _at(self, host: str) -> str:
        return f"{self._fleet.vars_of(host)['ansible_user']}@{self._fleet.address(host)}"

    def run(self, host: str, command: str) -> str:
        argv = ["ssh", *self._options, self._at(host), f"sudo bash -c {json.dumps(command).replace('$', chr(92) + '$')}"]
        return subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300).stdout

    def copy(self, host: str, files: list[Path]) -> None:
        subprocess.run(["scp", "-q", *self._options, *files, f"{self._at(host)}:/tmp/"], check=True, stdin=subprocess.DEVNULL)


def by_hand(fleet: Rebuilt, source: Path) -> None:
    """On a node that the cluster has forgotten: copy, start, until it is Ready and its pods run."""
    server = fleet.servers[0]
    with tempfile.TemporaryDirectory(prefix="pifleet-") as folder:
        shell = Shell(fleet, folder)
        shell.copy(fleet.node, [source / BINARY, source / ARCHIVE])
        token = shell.run(server, "cat /var/lib/rancher/k3s/server/agent-token").strip()
        shell.run(fleet.node, starts(fleet).replace("$TOKEN", token))
        shell.run(server, waits(fleet))


def by_playbook(fleet: Rebuilt, source: Path) -> None:
    """The same in five plain tasks."""
    server = fleet.servers[0]
    copies = [{"ansible.builtin.copy": {"src": str(source / name), "dest": "/tmp/"}} for name in (BINARY, ARCHIVE)]
    read = {"ansible.builtin.command": "cat /var/lib/rancher/k3s/server/agent-token", "delegate_to": server, "register": "token"}
    start = {"ansible.builtin.shell": starts(fleet).replace("$TOKEN", "{{ token.stdout }}")}
    wait = {"ansible.builtin.shell": "{% raw %}" + waits(fleet) + "{% endraw %}", "delegate_to": server}
    play = [{"hosts": fleet.node, "gather_facts": False, "become": True, "tasks": [*copies, read, start, wait]}]
    with tempfile.TemporaryDirectory(prefix="pifleet-") as folder:
        path = Path(folder) / "floor.yml"
        path.write_text(json.dumps(play))  # JSON is YAML
        ansible(fleet, str(BIN / "ansible-playbook"), str(path))


def swapped(fleet: Rebuilt) -> None:
    fleet.settled()
    fleet.swap()


def forgotten(fleet: Rebuilt, *, known: bool) -> None:
    """Another card, and somebody has deleted the Node; with *known* the controller has the new host key."""
    fleet.settled()
    fleet.wipe(fleet.node, stale_host_key=not known)
    fleet.forget(fleet.node)


def figures(fleet: Rebuilt, runs: int, folder: Path) -> list[Figure]:
    small, large = released(fleet), as_published(released(fleet), folder)
    mine, hand, mine_small, hand_small, plain_small = [], [], [], [], []
    # a fleet was bootstrapped from its release: the controller has verified it before
    swapped(fleet)
    rebuild(fleet, large)
    for _ in range(runs):
        swapped(fleet)
        slowed(fleet)
        mine.append(timed(lambda: rebuild(fleet, large)))
        forgotten(fleet, known=False)
        slowed(fleet)
        hand.append(timed(lambda: by_hand(fleet, large)))
        forgotten(fleet, known=True)
        site(fleet, PART)
        swapped(fleet)
        mine_small.append(timed(lambda: rebuild(fleet, small)))
        forgotten(fleet, known=False)
        hand_small.append(timed(lambda: by_hand(fleet, small)))
        forgotten(fleet, known=True)
        plain_small.append(timed(lambda: by_playbook(fleet, small)))
        forgotten(fleet, known=True)
        site(fleet, PART)
    return [
        compared("rebuild of a worker / copy and join by hand", 1, mine, hand, OVERHEAD),
        compared("small files: rebuild of a worker / copy and join by hand", 1, mine_small, hand_small, None),
        compared("small files: rebuild of a worker / the same in five plain tasks", 1, mine_small, plain_small, None),
        compared("small files: the five plain tasks / copy and join by hand", 1, plain_small, hand_small, None),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--inventory", type=Path, default=ROOT / "inventory/lab", help="a lab's, for one that is not in use")
    parser.add_argument("--json", type=Path, help="write the figure there")
    args = parser.parse_args()
    fleet = Rebuilt(args.inventory)
    fleet.lab("down", "-i", str(fleet.inventory))
    fleet.up()
    site(fleet, PART)
    fleet.apply(workloads(fleet.node))
    with tempfile.TemporaryDirectory(prefix="pifleet-") as folder:
        found = figures(fleet, args.runs, Path(folder))
    for figure in found:
        verdict = "" if figure.limit is None else "kept" if figure.kept else "BROKEN"
        print(f"{figure.name:<64} {figure.seconds:7.2f} s  floor {figure.floor:6.2f} s  ratio {figure.ratio:5.2f}  {verdict}")
    if args.json:
        args.json.write_text(json.dumps([asdict(figure) | {"kept": figure.kept} for figure in found], indent=2) + "\n")
    return 0 if all(figure.kept for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
