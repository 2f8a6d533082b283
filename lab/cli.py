# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m lab``: nodes of an inventory as containers on this machine."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import write_atomic
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import arm64, artifacts, docker, fleet, inventory, nodes, paths, tools, workload
from lab.console import Console

DEFAULT_INVENTORY = "inventory/lab"


def parser() -> argparse.ArgumentParser:
    """The command line. docs/lab.md describes it with examples."""
    top = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("-i", "--inventory", default=DEFAULT_INVENTORY, help=f"inventory of the fleet (default: {DEFAULT_INVENTORY})")
    which.add_argument("--fleet", default="", help="another name for the fleet than the inventory's folder")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[which])

    command("prepare", "make the node image and the k3s artifacts, start nothing")
    command("up", "start the nodes that do not run").add_argument("nodes", nargs="*", metavar="NODE")
    wipe = command("wipe", "destroy nodes and start them anew, as reflashed cards")
    wipe.add_argument("nodes", nargs="+", metavar="NODE")
    wipe.add_argument("--stale-host-key", action="store_true", help="leave the old host keys in known_hosts, as after a swap of the card")
    down = command("down", "remove nodes, disks and network of the fleet; put changed sysctls back")
    down.add_argument("--all", action="store_true", help="all fleets of this machine")
    command("status", "what runs").add_argument("--json", action="store_true", help="for programs")
    execute = command("exec", "run a command as root on a node, without ssh")
    execute.add_argument("node", metavar="NODE")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD")
    load = command("load-images", "put the lab's container images into the nodes' Docker Engines")
    load.add_argument("--archive", default="app", choices=sorted(workload.ARCHIVES), help="which of them (default: app)")
    load.add_argument(
        "--as",
        action="append",
        metavar="IMAGE[=PORT,…]",
        dest="names",
        help="instead, a stand-in for this image that serves there",
    )
    load.add_argument("--to", type=Path, metavar="FILE", help="write the archive there, and load nothing")
    load.add_argument("nodes", nargs="*", metavar="NODE")
    command("tool", "print where a program for tests is, compiled first").add_argument("name", choices=sorted(tools.PACKAGES))
    command("arm64-root", "make the small arm64 root file system for emulated runs")
    emulated = command("arm64-run", "run a program of that root under aarch64, emulated")
    emulated.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD")
    return top


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    chosen = parser().parse_args(arguments)
    try:
        with Console() as console:
            return COMMANDS[chosen.command](chosen, console)
    except PifleetError as error:
        print(f"[lab] {error.what}", file=sys.stderr)
        if error.hint:
            print(f"[lab] {error.hint}", file=sys.stderr)
        return 1


def _load(chosen: argparse.Namespace) -> inventory.Fleet:
    given = Path(chosen.inventory)
    return inventory.load(given if given.exists() or given.is_absolute() else paths.CHECKOUT / given, chosen.fleet)


def _prepare(chosen: argparse.Namespace, console: Console) -> int:
    prepared = fleet.prepare(_load(chosen), console)
    console.line(f"node image {prepared.image}")
    _say_kinds(prepared.artifacts, console)
    return 0


def _up(chosen: argparse.Namespace, console: Console) -> int:
    wanted = _load(chosen)
    started = fleet.up(wanted, chosen.nodes, console)
    running = len(wanted.chosen(chosen.nodes))
    console.line(f"{wanted.name}: {running} node{'s' if running > 1 else ''} running, {len(started)} of them started now")
    if started:
        _say_kinds([made for version in wanted.versions if (made := artifacts.found(version))], console)
    return 0


def _wipe(chosen: argparse.Namespace, console: Console) -> int:
    for node in fleet.wipe(_load(chosen), chosen.nodes, console, trust=not chosen.stale_host_key):
        console.line(f"{node.name} is as new")
    return 0


def _down(chosen: argparse.Namespace, console: Console) -> int:
    names = None if chosen.all else [_load(chosen).name]
    removed = fleet.down(names, console)
    console.line(f"{len(removed)} node{'s' if len(removed) != 1 else ''} removed")
    return 0


def _status(chosen: argparse.Namespace, _: Console) -> int:
    rows = docker.containers()
    kinds = {folder.name: made.kind for folder in sorted((paths.STATE / "artifacts").glob("v*")) if (made := artifacts.found(folder.name))}
    if chosen.json:
        print(json.dumps({"nodes": rows, "artifacts": kinds}))
        return 0
    for row in sorted(rows, key=lambda row: (row["fleet"], row["node"])):
        print(f"{row['fleet']:<16} {row['node']:<28} {row['state']}")
    for version, kind in kinds.items():
        print(f"k3s {version}: {kind} ({artifacts.linked(version)})")
    if not rows:
        print("no lab node runs")
    return 0


def _exec(chosen: argparse.Namespace, _: Console) -> int:
    wanted = _load(chosen)
    (node,) = wanted.chosen([chosen.node])
    argv = chosen.argv[1:] if chosen.argv[:1] == ["--"] else chosen.argv
    if not argv:
        raise PifleetError("exec needs a command.", f"python -m lab exec {chosen.node} -- systemctl --failed")
    terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    os.execvp("docker", ["docker", "exec", "--interactive", *terminal, nodes.container(wanted.name, node.name), *argv])


def _load_images(chosen: argparse.Namespace, console: Console) -> int:
    file = workload.standins(chosen.names, console) if chosen.names else workload.archive(chosen.archive, console)
    if chosen.to:
        chosen.to.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(chosen.to, file.read_bytes())
    else:
        wanted = _load(chosen)
        workload.load(wanted, wanted.chosen(chosen.nodes), file)
    return 0


def _tool(chosen: argparse.Namespace, console: Console) -> int:
    print(tools.ensure(chosen.name, console))
    return 0


def _arm64_root(_: argparse.Namespace, console: Console) -> int:
    console.line(f"arm64 root {arm64.ensure(console)}")
    return 0


def _arm64_run(chosen: argparse.Namespace, console: Console) -> int:
    argv = chosen.argv[1:] if chosen.argv[:1] == ["--"] else chosen.argv
    if not argv:
        raise PifleetError("arm64-run needs a command.", "python -m lab arm64-run -- uname -m")
    line = arm64.command(arm64.ensure(console), argv)
    os.execvp(line[0], line)


def _say_kinds(made: Sequence[artifacts.Artifacts], console: Console) -> None:
    for one in made:
        note = (
            ": Kubernetes' own components behind k3s's command line (docs/lab.md says what it cannot do)"
            if one.kind == artifacts.STANDIN
            else ""
        )
        console.line(f"k3s {one.version} is {one.kind}{note}")


COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "prepare": _prepare,
    "up": _up,
    "wipe": _wipe,
    "down": _down,
    "status": _status,
    "exec": _exec,
    "load-images": _load_images,
    "tool": _tool,
    "arm64-root": _arm64_root,
    "arm64-run": _arm64_run,
}
