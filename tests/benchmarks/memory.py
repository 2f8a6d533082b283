# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run takes of a node's memory: `python -m tests.benchmarks.memory [-i INVENTORY] [--json FILE]`.

Fresh nodes, all of site.yml on them, and then a run that has nothing to do: the largest process of a module on any node, beside that of
`ansible.builtin.ping` on the same nodes. Nothing is promised of all modules;
of the one that looks after stacks see `tests.benchmarks.stacks`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.bootstrap import Figure, ping, site
from tests.support.fleet import ROOT, Fleet

PEAKS = "/var/tmp/peaks"
PACKAGES = "/usr/lib/python3/dist-packages"
#: each Python on the node that executes a module says in the end which, and the most memory that it had
SITE = f"""
import atexit, os, runpy
real = runpy.run_module
def run_module(mod_name, *args, **kwargs):
    me = os.getpid()
    def keep():
        if os.getpid() == me:
            with open("/proc/self/status") as status:
                peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
            with open("{PEAKS}", "a") as peaks:
                peaks.write(mod_name + " " + peak + chr(10))
    atexit.register(keep)
    return real(mod_name, *args, **kwargs)
runpy.run_module = run_module
"""


def watch(fleet: Fleet) -> None:
    for host in fleet.hosts:
        # by a .pth file: Debian has a sitecustomize of its own, which comes before any other
        fleet.sh(host, f"cat >{PACKAGES}/pifleet_peaks.py <<'END'\n{SITE}END\necho import pifleet_peaks >{PACKAGES}/pifleet_peaks.pth")
        # all users write there
        fleet.sh(host, f"rm -f {PEAKS}; touch {PEAKS}; chmod 666 {PEAKS}")


def unwatch(fleet: Fleet) -> None:
    for host in fleet.hosts:
        fleet.sh(host, f"rm -f {PACKAGES}/pifleet_peaks.* {PEAKS}")


def peaks(fleet: Fleet) -> dict[str, float]:
    """Return the MiB of the largest process of each module since the last look."""
    found: dict[str, float] = {}
    for host in fleet.hosts:
        for line in fleet.sh(host, f"cat {PEAKS}; : >{PEAKS}").splitlines():
            name, kib = line.split()
            module = (
                name.removeprefix("ansible_collections.").replace(".plugins.modules.", ".").replace("ansible.modules.", "ansible.builtin.")
            )
            found[module] = max(found.get(module, 0.0), round(int(kib) / 1024, 1))
    return found


def measure(fleet: Fleet) -> list[Figure]:
    fleet.wipe()
    watch(fleet)
    try:
        ping(fleet)
        floor = peaks(fleet)["ansible.builtin.ping"]
        figures = []
        for what in ("first site.yml", "converged site.yml"):
            site(fleet)
            module, peak = max(peaks(fleet).items(), key=lambda one: one[1])
            name = f"{what}, its largest module ({module}) / ping"
            figures.append(Figure(name, len(fleet.hosts), 1, peak, floor, round(peak / floor, 2), None, "MiB"))
        return figures
    finally:  # what is measured after it, on the same nodes, is not to be watched
        unwatch(fleet)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-i", "--inventory", type=Path, default=ROOT / "inventory/lab")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    fleet = Fleet(args.inventory.resolve())
    fleet.up()
    figures = measure(fleet)
    for f in figures:
        print(f"{f.name:<80} {f.nodes:>3} nodes  {f.seconds:6.1f} MiB  floor {f.floor:5.1f} MiB  ratio {f.ratio:5.2f}")
    if args.json:
        args.json.write_text(json.dumps([asdict(f) | {"kept": f.kept} for f in figures], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
