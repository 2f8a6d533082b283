# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fix run costs beyond the build and the restart: `python -m tests.benchmarks.fix_runs [--runs 3] [--json FILE]`.

- the run of `playbooks/fix.yml` without the steps build, restart and verify, against a playbook that calls `ping` on the node as often as
  the rest of it calls modules: what is ours beyond Ansible's own time (promise: two seconds)
- a page of 50 of 10,000 fix runs, read from the ledger, against one `SELECT` of as many rows (promise: 50 ms)
- the same page as the hub answers it (`GET /orchestrator/runs`), against `GET /healthz` of the same hub (promise: 50 ms)

The pages count in time of the processor, which other work beside them does not lengthen.

These machines are noisy: what is compared runs in turn (A B A B), and the median counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from tests.support.fleet import BIN, ROOT, Fleet

sys.path[:0] = [str(ROOT / ".collections")]

from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.text import seconds_of  # noqa: E402
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import fix_runs  # noqa: E402
from sqlalchemy import select  # noqa: E402

from tests.benchmarks.bootstrap import Figure, ansible, compared, timed  # noqa: E402
from tests.integration.fix_runs.conftest import HERE, NODE, Shop, prepared  # noqa: E402
from tests.support.fix_runs import World  # noqa: E402
from tests.support.hub_office import HubFleet  # noqa: E402

#: seconds beyond Ansible's own time
PROMISE = 2.0
#: seconds for a page of MANY
PAGE, MANY = 0.05, 10_000
#: module calls of a fix run beside those of build, restart and verify: the look, the patch, the end, and the anchor of the record
CALLS = 4
WORK = ("build", "restart", "verify")


def pings(folder: Path) -> Path:
    """A playbook of as many plays as fix.yml has, that calls a module CALLS times."""
    empty = "- {hosts: all, gather_facts: false, tasks: [{ansible.builtin.meta: noop}]}\n"
    tasks = "\n".join(f"    - ansible.builtin.ping:\n      name: Call {number}" for number in range(CALLS))
    path = folder / "pings.yml"
    path.write_text(f"{empty * 4}- hosts: {NODE}\n  gather_facts: false\n  become: true\n  tasks:\n{tasks}\n")
    return path


def overhead(shop: Shop, runs: int) -> list[Figure]:
    versions = iter(["1.1", "1.0"] * runs + ["1.1"])

    def fix() -> float:
        # as a person starts it, and the floor is: without what tests look on with (a shell before each ssh, a callback, no packed modules)
        asked = {"fleet_root": str(shop.repository.root), "service": "web", "instruction": f"bump greeting to {next(versions)}"}
        took = timed(lambda: ansible(shop.fleet, str(BIN / "ansible-playbook"), "playbooks/fix.yml", "-e", json.dumps(asked)))
        return took - sum(seconds_of(shop.last().step(name)) or 0.0 for name in WORK)

    playbook = pings(shop.repository.root.parent)
    fix()  # packs the modules, and fills caches
    mine, floor = [], []
    for _run in range(runs):
        mine.append(fix())
        floor.append(timed(lambda: ansible(shop.fleet, str(BIN / "ansible-playbook"), str(playbook))))
    beyond = [max(0.0, ours - below) for ours, below in zip(mine, floor, strict=True)]
    ratio = statistics.median(beyond) / PROMISE
    return [
        compared("fix run without build, restart, verify / a playbook of pings", 1, mine, floor, None),
        Figure(
            "what of that is beyond Ansible's own time / 2 s", 1, runs, round(statistics.median(beyond), 2), PROMISE, round(ratio, 2), 1
        ),
    ]


def processor(runs: int, *works: Callable[[], None]) -> list[list[float]]:
    """Seconds of the processor that each of *works* takes, in turn."""

    def took(work: Callable[[], None]) -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    return [list(column) for column in zip(*([took(work) for work in works] for _ in range(max(20, runs))), strict=True)]


def listing(folder: Path, runs: int) -> Figure:
    world = World(folder / "ledger.db")
    world.fill(MANY)

    def page() -> None:
        found, total = world.fix_runs.listed(status="succeeded", limit=50, offset=MANY // 2)
        assert (len(found), total) == (50, MANY - 1)

    def rows() -> None:
        with world.store.read() as db:
            assert len(db.execute(select(fix_runs).order_by(fix_runs.c.seq.desc()).limit(50)).all()) == 50

    page()
    mine, floor = processor(runs, page, rows)
    seconds = statistics.median(mine)
    about = f"a page of 50 of {MANY:,} fix runs (one SELECT: {statistics.median(floor) * 1000:.1f} ms) / 50 ms"
    return Figure(about, 1, len(mine), round(seconds, 4), PAGE, round(seconds / PAGE, 2), 1)


def over_http(folder: Path, runs: int) -> Figure:
    hub = HubFleet(folder / "hub")
    hub.world.fill(MANY)
    client = hub.client("viewer")

    def page() -> None:
        found = client.get("/orchestrator/runs", params={"status": "succeeded", "limit": 50, "offset": MANY // 2}).json()
        assert (len(found["items"]), found["total"]) == (50, MANY - 1)

    def health() -> None:
        assert client.get("/healthz").json() == {"status": "ok"}

    page()
    mine, floor = processor(runs, page, health)
    seconds = statistics.median(mine)
    about = f"the same over HTTP / 50 ms (GET /healthz: {statistics.median(floor) * 1000:.1f} ms)"
    return Figure(about, 1, len(mine), round(seconds, 4), PAGE, round(seconds / PAGE, 2), 1)


def measure(runs: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        yield listing(Path(folder), runs)
        yield over_http(Path(folder), runs)
        fleet = Fleet(HERE / "lab-fixes")
        try:
            prepared(fleet)
            shop = Shop(fleet, Path(folder, "fleet"))
            shop.change("web/requirements.txt", "greeting==1.0\n")
            shop.deploy()
            yield from overhead(shop, runs)
        finally:
            fleet.lab("down", "-i", str(fleet.inventory))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    figures = []
    for f in measure(args.runs):
        verdict = "" if f.limit is None else "kept" if f.kept else "BROKEN"
        print(f"{f.name:<64} {f.seconds:9.4f} s  beside {f.floor:6.2f} s  ratio {f.ratio:6.2f}  {verdict}", flush=True)
        figures.append(f)
    if args.json:
        args.json.write_text(json.dumps([asdict(f) | {"kept": f.kept} for f in figures], indent=2) + "\n")
    return 0 if all(f.kept for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
