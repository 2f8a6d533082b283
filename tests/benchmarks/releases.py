# SPDX-License-Identifier: GPL-3.0-or-later
"""What recording a release costs beside a whole deploy: `python -m tests.benchmarks.releases [--runs 3] [--json FILE]`.

- all that the executor writes and reads of a no-change deploy to three hosts in two batches, in a ledger on the same disk, against that
  deploy (promise: less than a tenth)
- a no-change deploy, against the deploy of a changed version

These machines are noisy: what is compared runs in turn (A B A B), and the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.support.fleet import ROOT, Fleet

sys.path[:0] = [str(ROOT / ".collections")]

from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.executor import Executor  # noqa: E402
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import PHASES, ROLLOUT  # noqa: E402

from tests.benchmarks.bootstrap import Figure, compared, in_turn  # noqa: E402
from tests.integration.releases.conftest import GATEWAY, HERE, Site, clean  # noqa: E402
from tests.support.registry import Registry  # noqa: E402
from tests.unit.releases.conftest import World  # noqa: E402


def executor(site: Site) -> Callable[[], None]:
    """Returns what takes the newest release's plan through its phases as the playbook does, in a ledger of its own."""
    plan = site.releases.of_environment("prod")[-1].plan
    world = World(site.repository.root / ".pifleet/bench/ledger.db")
    process = world.process(1)

    def work() -> None:
        release = world.releases.create(process, plan, {})
        steps = Executor(world.releases, release.id)
        for name in PHASES:
            if world.releases.get(release.id).phase(name).is_over:
                continue
            for number, _batch in enumerate(plan.batches if name == ROLLOUT else [()]):
                steps.begin(name)
                if number:
                    steps.note(name, {"hosts": {host: {"status": "completed"} for host in plan.hosts}})
            steps.complete(name, {"hosts": {host: {"status": "completed"} for host in plan.hosts}})

    return work


def measure(site: Site, runs: int) -> list[Figure]:
    number = [0]

    def changed() -> None:
        number[0] += 1
        site.app(str(number[0] + 10))
        site.repository.commit(f"9.0.{number[0]}")
        site.play("deploy")

    def same() -> None:
        site.play("deploy")

    site.play("deploy")
    own, deploys, changes = in_turn(runs, executor(site), same, changed)
    hosts = len(site.fleet.hosts)
    return [
        compared("all records of a no-change deploy / that deploy", hosts, own, deploys, 0.1),
        compared("no-change deploy / deploy of a changed version", hosts, deploys, changes, None),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    fleet = Fleet(HERE / "lab-releases")
    fleet.up()
    try:
        with Registry(GATEWAY) as registry, tempfile.TemporaryDirectory() as folder:
            clean(fleet)
            registry.trusted_by(fleet)
            figures = measure(Site(fleet, registry, Path(folder, "fleet")), args.runs)
    finally:
        fleet.lab("down", "-i", str(fleet.inventory))
    for f in figures:
        verdict = "kept" if f.kept else "BROKEN"
        print(f"{f.name:<56} {f.nodes:>4} hosts  {f.seconds:8.2f}  beside {f.floor:8.2f}  ratio {f.ratio:7.4f}  {verdict}", flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(f) | {"kept": f.kept} for f in figures], indent=2) + "\n")
    return 0 if all(f.kept for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
