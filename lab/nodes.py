# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers that behave as nodes: systemd, sshd, own disk and host key, what a kubelet needs."""

from __future__ import annotations

import os
import posixpath
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import read_text, write_atomic
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import docker, paths
from lab.inventory import Fleet, Node

START_TIMEOUT = 300.0  # seconds until a node's sshd answers
# overlayfs cannot stand on the container's own overlayfs, so the folders of containers' layers are volumes
LAYERS = ("/var/lib/containerd", "/var/lib/docker", "/var/lib/rancher")
DEVICES = ("/dev/fuse", "/dev/net/tun")
SYS_RESOURCE = 24  # capabilities(7): its bit


def container(fleet: str, node: str) -> str:
    return f"pifleet-{fleet}-{node}"


def network(fleet: str) -> str:
    return f"pifleet-{fleet}"


def volumes(node: Node) -> list[str]:
    """Mount points on volumes: LAYERS, and the parent of another data folder, so that a reset can remove the folder itself."""
    if any(node.data_dir.startswith(layer + "/") for layer in LAYERS):
        return list(LAYERS)
    return [*LAYERS, posixpath.dirname(node.data_dir.rstrip("/"))]


def rights(status: str | None = None) -> list[str]:
    """All but the right to set the clock, which is the machine's; and but one that cannot be given where the machine lacks it.

    *status*: content of /proc/self/status.
    """
    bounding = re.search(r"^CapBnd:\s+([0-9a-f]+)$", status if status is not None else Path("/proc/self/status").read_text(), re.M)
    found = ["--cap-add", "ALL", "--cap-drop", "SYS_TIME"]
    if bounding and not int(bounding[1], 16) & (1 << SYS_RESOURCE):
        found += ["--cap-drop", "SYS_RESOURCE"]
    return found


def run_arguments(fleet: Fleet, node: Node, image: str, key: str, password_hash: str, components: Path) -> list[str]:
    """Arguments of ``docker run`` for *node*. Each deviation from a plain container is explained in docs/lab.md."""
    arguments = ["run", "--detach", "--name", container(fleet.name, node.name), "--hostname", "raspberrypi"]
    arguments += [
        "--network",
        network(fleet.name),
        "--ip",
        node.address,
        "--restart",
        "on-failure",
        "--stop-signal",
        "SIGRTMIN+3",
        *rights(),
    ]
    for option in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"):
        arguments += ["--security-opt", option]
    arguments += ["--device-cgroup-rule", "a *:* rwm", "--cgroupns", "private", "--tmpfs", "/run:exec", "--tmpfs", "/tmp:exec"]
    for device in DEVICES:
        if os.path.exists(device):
            arguments += ["--device", device]
    if os.path.isdir("/lib/modules"):
        arguments += ["--volume", "/lib/modules:/lib/modules:ro"]
    arguments += ["--volume", f"{components}:/opt/k3s-standin:ro"]
    for mount in volumes(node):
        arguments += ["--volume", mount]
    arguments += ["--env", f"LAB_USER={node.user}", "--env", f"LAB_KEY={key}", "--env", f"LAB_PASSWORD_HASH={password_hash}"]
    arguments += ["--label", f"{docker.LABEL}={fleet.name}", "--label", f"{docker.LABEL}.node={node.name}"]
    return [*arguments, image]


def ssh_key(fleet: Fleet) -> str:
    """The public half of the fleet's key; the pair is made once."""
    path = paths.fleet_state(fleet.name) / "id_ed25519"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        check(run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"pifleet-lab-{fleet.name}", "-f", str(path)]))
    return path.with_suffix(".pub").read_text().strip()


def password_hash(password: str) -> str:
    """For chpasswd, so that the password itself is not among the container's settings."""
    return check(run(["openssl", "passwd", "-6", "-stdin"], stdin=password + "\n")).stdout.strip() if password else ""


def ensure_network(fleet: Fleet) -> None:
    name = network(fleet.name)
    if docker.docker_tried("network", "inspect", name).ok:
        return
    gateway = str(next(fleet.subnet.hosts()))
    docker.docker("network", "create", "--subnet", str(fleet.subnet), "--gateway", gateway, "--label", f"{docker.LABEL}={fleet.name}", name)


def start(fleet: Fleet, nodes: Sequence[Node], image: str, components: Path, done: Callable[[str], None]) -> None:
    """Start *nodes* side by side and wait until each answers; calls *done* with each name. A half-started one is removed first."""
    key = ssh_key(fleet)
    states = {row["node"]: row["state"] for row in docker.containers(fleet.name)}

    def one(node: Node) -> None:
        name = container(fleet.name, node.name)
        if states.get(node.name) == "exited":
            docker.docker("start", name)
        else:
            if node.name in states:
                docker.docker("rm", "--force", "--volumes", name)
            docker.docker(*run_arguments(fleet, node, image, key, password_hash(node.password), components))
        _wait_for_ssh(fleet, node)
        done(node.name)

    in_parallel(one, nodes)


def in_parallel(work: Callable[[Node], None], nodes: Iterable[Node]) -> None:
    """Do *work* for all nodes at once; the first failure is raised after all have ended."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        for result in [pool.submit(work, node) for node in nodes]:
            result.result()


def _wait_for_ssh(fleet: Fleet, node: Node) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((node.address, 22), timeout=2) as connection:
                connection.settimeout(2)
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            time.sleep(0.1)
    name = container(fleet.name, node.name)
    raise PifleetError(f"{node.name} does not answer on {node.address}:22.", f"See: docker logs {name}; docker exec {name} journalctl -b")


def host_key(fleet: str, node: str) -> str:
    """``ssh-ed25519 AAAA…`` of a node, as it printed it at its start: not asked over the network, so it can be trusted."""
    for line in reversed(docker.docker("logs", container(fleet, node)).splitlines()):
        if line.startswith("host-key "):
            return line.removeprefix("host-key ").strip()
    raise PifleetError(f"{node} did not print its host key.", f"See: docker logs {container(fleet, node)}")


def write_known_hosts(fleet: Fleet, nodes: Sequence[Node]) -> None:
    """Replace the entries of *nodes* in the fleet's known_hosts; those of other nodes stay."""
    path = paths.fleet_state(fleet.name) / "known_hosts"
    known = {line.split(" ")[0]: line for line in (read_text(path) or "").splitlines()}
    keys: dict[str, str] = {}

    def one(node: Node) -> None:
        keys[node.name] = host_key(fleet.name, node.name)

    in_parallel(one, nodes)
    for node in nodes:
        names = f"{node.address},{node.name}"
        known[names] = f"{names} {keys[node.name]}"
    valid = {f"{node.address},{node.name}" for node in fleet.nodes}
    write_atomic(path, "".join(f"{known[names]}\n" for names in sorted(known) if names in valid), 0o600)


def remove(names: Sequence[str]) -> None:
    """Remove containers with their disks."""
    if names:
        docker.docker("rm", "--force", "--volumes", *names, timeout=300)
