# SPDX-License-Identifier: GPL-3.0-or-later
"""What the record of a run costs it: `python -m tests.benchmarks.recording [--runs 5] [--json FILE]`.

- callback: time spent inside the callback `pifleet.ops.evidence`, its last word included, of a converged site.yml. Promise: at most 3 %.
- run: the same run against one without the callback (which fails at its end, at the gate, having done the same). Made in turn, A B A B;
  on a machine with other work the difference drowns in noise, so that it stands there without a promise.
- ARA: the same run without the callback, recorded by ARA instead, which as we do writes to a file of SQLite from Ansible's own process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import venv
from dataclasses import asdict
from pathlib import Path

from lab import paths
from tests.benchmarks.bootstrap import Figure, compared, in_turn
from tests.support.controller import with_callback
from tests.support.fleet import BIN, ROOT, Fleet

LIMIT = 0.03
#: the peer, from PyPI into the cache
ARA = "ara[server]==1.8.0"
#: put to the end of a callback: counts what each of its handlers takes
TIMED = """

import atexit
import os
import time
from functools import wraps
from pathlib import Path

_spent, _me = [0.0], os.getpid()


def _timed(handler):
    @wraps(handler)
    def inner(self, *args, **kwargs):
        began = time.perf_counter()
        try:
            return handler(self, *args, **kwargs)
        finally:
            _spent[0] += time.perf_counter() - began

    return inner


def _tell():
    if os.getpid() == _me:
        Path(os.environ["PIFLEET_BENCH_SPENT"]).write_text(str(_spent[0]))


for _name in [name for name in vars(CallbackModule) if name.startswith("v2_") or name in ("__init__", "set_options")]:
    setattr(CallbackModule, _name, _timed(getattr(CallbackModule, _name)))
atexit.register(_tell)
"""


def ara() -> Path:
    """The folder of Python packages that ARA is."""
    target = paths.cache() / "peers" / re.sub(r"\W+", "-", ARA)
    if not target.exists():
        with paths.locked(paths.cache() / "peers.lock"), tempfile.TemporaryDirectory(dir=paths.cache()) as scratch:
            venv.create(Path(scratch, "venv"), with_pip=True)
            pip = [Path(scratch, "venv/bin/python"), "-m", "pip", "install", "--quiet", "--target", Path(scratch, "packages")]
            subprocess.run([*pip, ARA], check=True, stdin=subprocess.DEVNULL)
            target.parent.mkdir(exist_ok=True)
            Path(scratch, "packages").rename(target)
    return target


def by_ara(folder: Path) -> dict[str, str]:
    """Make ARA's callback, timed, in *folder*, and return the environment in which it records a run."""
    callbacks = folder / "ara-callback"
    callbacks.mkdir()
    (callbacks / "ara_default.py").write_text((ara() / "ara/plugins/callback/ara_default.py").read_text() + TIMED)
    return {"ARA_BASE_DIR": str(folder / "ara"), "ANSIBLE_CALLBACK_PLUGINS": str(callbacks), "PYTHONPATH": str(ara())}


def site(fleet: Fleet, folder: Path, *, recorded: bool, more: dict[str, str] | None = None) -> float:
    """Run a converged site.yml, with the callback or without it, and return the seconds spent inside of it, or of that of *more*."""
    spent = folder / "spent"
    spent.write_text("0")
    enabled = {"ANSIBLE_CALLBACKS_ENABLED": ("pifleet.ops.evidence," if recorded else "") + "pifleet.ops.payload_cache"}
    places = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections")}
    env = {**os.environ, **places, **enabled, "PIFLEET_BENCH_SPENT": str(spent), **(more or {})}
    command = [BIN / "ansible-playbook", "site.yml", "-i", fleet.inventory, "-e", "evidence_anchor=false"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    if (done.returncode == 0) != recorded:
        raise RuntimeError(done.stdout[-3000:] + done.stderr[-2000:])
    return float(spent.read_text())


def measure(fleet: Fleet, runs: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder, inside, of_ara = Path(name), list[float](), list[float]()
        with_callback(folder, TIMED)
        peer = by_ara(folder)
        site(fleet, folder, recorded=True)
        site(fleet, folder, recorded=False, more=peer)  # makes its database
        with_it, without, with_ara = in_turn(
            runs,
            lambda: inside.append(site(fleet, folder, recorded=True)),
            lambda: site(fleet, folder, recorded=False),
            lambda: of_ara.append(site(fleet, folder, recorded=False, more=peer)),
        )
    nodes, shares = len(fleet.hosts), [part / whole for part, whole in zip(inside, with_it, strict=True)]
    share = Figure(
        "inside the callback / the run", nodes, runs, round(statistics.median(inside), 3), round(statistics.median(with_it), 2),
        round(statistics.median(shares), 4), LIMIT,
    )  # fmt: skip
    return [
        share,
        compared("site.yml with the callback / without", nodes, with_it, without, None),
        compared("site.yml recorded by ARA / without", nodes, with_ara, without, None),
        compared("inside the callback / inside ARA's", nodes, inside, of_ara, None),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--inventory", type=Path, default=ROOT / "inventory/lab")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    fleet = Fleet(args.inventory.resolve())
    fleet.up()
    if not fleet.is_up():
        fleet.play().require()
    figures = measure(fleet, args.runs)
    for f in figures:
        verdict = "" if f.limit is None else "kept" if f.kept else "BROKEN"
        print(f"{f.name:<46} {f.nodes:>3} nodes  {f.seconds:7.3f} s  of {f.floor:6.2f} s  ratio {f.ratio:7.4f}  {verdict}")
    if args.json:
        args.json.write_text(json.dumps([asdict(f) | {"kept": f.kept} for f in figures], indent=2) + "\n")
    return 0 if all(f.kept for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
