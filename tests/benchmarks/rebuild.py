# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of a rebuild beside its floors in the same run: `python -m tests.benchmarks.rebuild [--runs 3] [--json FILE]`.

- The floor is what nobody can be quicker than, once somebody has deleted the Node by hand: over one ssh connection the artifacts copied and
  the unit started, until the node is Ready and its pods run. Promise: the one command, retirement and evidence included, takes at most a
  quarter longer.
- The second floor is the same as a playbook of five plain tasks: what Ansible itself takes, on a node that the controller knows already.

These machines are noisy: all are measured in turn (A B C A B C), and the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.bootstrap import PART, Figure, ansible, compared, site, timed
from tests.integration.rebuild.conftest import ACCEPT, Rebuilt, workloads
from tests.support.fleet import BIN, NO_STACKS, ROOT

OVERHEAD = 1.25
IMAGES = "/var/lib/rancher/k3s/agent/images"


def rebuild(fleet: Rebuilt) -> None:
    ansible(fleet, str(BIN / "ansible-playbook"), "playbooks/rebuild.yml", "-e", f"node={fleet.node}", *ACCEPT, *NO_STACKS)


def artifacts(fleet: Rebuilt) -> list[Path]:
    source = ROOT / ".pifleet/lab/artifacts" / str(fleet.vars_of(fleet.node)["k3s_version"])
    return [source / "k3s", source / "k3s-airgap-images-amd64.tar.zst"]


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


def by_hand(fleet: Rebuilt) -> None:
    """On a node that the cluster has forgotten: copy, start, until it is Ready and its pods run."""
    server = fleet.servers[0]
    with tempfile.TemporaryDirectory(prefix="pifleet-") as folder:
        shell = Shell(fleet, folder)
        shell.copy(fleet.node, artifacts(fleet))
        token = shell.run(server, "cat /var/lib/rancher/k3s/server/agent-token").strip()
        shell.run(fleet.node, starts(fleet).replace("$TOKEN", token))
        shell.run(server, waits(fleet))


def by_playbook(fleet: Rebuilt) -> None:
    """The same in five plain tasks."""
    server = fleet.servers[0]
    copies = [{"ansible.builtin.copy": {"src": str(file), "dest": "/tmp/"}} for file in artifacts(fleet)]
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


def figures(fleet: Rebuilt, runs: int) -> list[Figure]:
    mine, hand, plain = [], [], []
    for _ in range(runs):
        swapped(fleet)
        mine.append(timed(lambda: rebuild(fleet)))
        forgotten(fleet, known=False)
        hand.append(timed(lambda: by_hand(fleet)))
        forgotten(fleet, known=True)
        plain.append(timed(lambda: by_playbook(fleet)))
        forgotten(fleet, known=True)
        site(fleet, PART)
    return [
        compared("rebuild of a worker / copy and join by hand", 1, mine, hand, OVERHEAD),
        compared("rebuild of a worker / the same in five plain tasks", 1, mine, plain, None),
        compared("the five plain tasks / copy and join by hand", 1, plain, hand, None),
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
    found = figures(fleet, args.runs)
    for figure in found:
        verdict = "" if figure.limit is None else "kept" if figure.kept else "BROKEN"
        print(f"{figure.name:<52} {figure.seconds:7.2f} s  floor {figure.floor:6.2f} s  ratio {figure.ratio:5.2f}  {verdict}")
    if args.json:
        args.json.write_text(json.dumps([asdict(figure) | {"kept": figure.kept} for figure in found], indent=2) + "\n")
    return 0 if all(figure.kept for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
