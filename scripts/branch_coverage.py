# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the tests of a capability and fails where they leave out more than a tenth of its branches:
`python scripts/branch_coverage.py evidence`.

What Ansible forks, and what tests start as programs of their own, is measured as well; what they kill is not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).resolve().parent.parent
#: per cent of the branches that tests have to take
LEAST = 90.0
SETTINGS = """
[run]
branch = true
parallel = true
patch = subprocess, _exit, fork
disable_warnings = no-data-collected, couldnt-parse
data_file = {folder}/data
include =
    {code}
omit =
    {without}
"""


@dataclass(frozen=True, slots=True)
class Capability:
    """*code*: patterns of paths in the repository, but *without*; *tests*: files and folders of the tests that hold it."""

    code: tuple[str, ...]
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()


CAPABILITIES: Mapping[str, Capability] = {
    "evidence": Capability(
        code=(
            "plugins/plugin_utils/_ledger/**/*.py",
            "plugins/plugin_utils/_evidence/**/*.py",
            "plugins/plugin_utils/preflight.py",
            "plugins/module_utils/_evidence/**/*.py",
            "plugins/action/evidence_*.py",
            "plugins/action/run_record.py",
            "plugins/callback/evidence.py",
            "hub/**/*.py",
        ),
        tests=(
            "tests/unit/ledger",
            "tests/unit/evidence",
            "tests/unit/sync",
            "tests/unit/hub",
            "tests/integration/ledger/test_postgres.py",
            "tests/integration/sync/test_1_playbook.py",
            "tests/integration/controller/test_evidence.py",
            "tests/integration/controller/test_run_record.py",
        ),
        # of capabilities of their own
        without=("plugins/plugin_utils/_ledger/fix_runs.py", "plugins/plugin_utils/_ledger/releases.py"),
    ),
}


@dataclass(frozen=True, slots=True)
class Covered:
    """Branches of some code. *of*: how many there are, *taken*: by the tests."""

    taken: int
    of: int

    @property
    def percent(self) -> float:
        return 100.0 * self.taken / self.of if self.of else 100.0


def measure(capability: Capability, root: Path = ROOT, processes: int = 2) -> dict[str, Covered]:
    """Run the tests in *processes* beside this one, 0 for none, and return what they covered, by file.

    Raises RuntimeError where one fails.
    """
    with tempfile.TemporaryDirectory(prefix="pifleet-coverage-") as name:
        settings, report = Path(name) / "settings", Path(name) / "report.json"
        code, without = ("\n    ".join(f"{root}/{pattern}" for pattern in patterns) for patterns in (capability.code, capability.without))
        settings.write_text(SETTINGS.format(folder=name, code=code, without=without))
        tests = [sys.executable, "-m", "pytest", "--quiet", f"--numprocesses={processes}", *capability.tests]
        run = [sys.executable, "-m", "coverage", "run", "--rcfile", str(settings), *tests[1:]]
        if subprocess.run(run, cwd=root, check=False).returncode:
            raise RuntimeError("a test failed")
        found = Coverage(config_file=str(settings))
        found.combine()
        # code that no test comes to has branches as well
        found.get_data().touch_files([str(path) for path in sorted(_code_of(capability, root))])
        found.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    seen = {os.path.relpath(path, root): told["summary"] for path, told in files.items()}
    return {path: Covered(one["covered_branches"], one["num_branches"]) for path, one in seen.items()}


def _code_of(capability: Capability, root: Path) -> set[Path]:
    code, without = ({path.resolve() for one in patterns for path in root.glob(one)} for patterns in (capability.code, capability.without))
    return code - without


def total(files: Mapping[str, Covered]) -> Covered:
    return Covered(sum(one.taken for one in files.values()), sum(one.of for one in files.values()))


def lines(files: Mapping[str, Covered]) -> Sequence[str]:
    """Return what was covered as a table, the least covered first."""
    order = sorted(files.items(), key=lambda item: (item[1].percent, item[0]))
    return [f"{one.percent:6.1f} %  {one.taken:5} of {one.of:5} branches  {path}" for path, one in [*order, ("all", total(files))]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("capability", choices=sorted(CAPABILITIES))
    args = parser.parse_args(argv)
    try:
        files = measure(CAPABILITIES[args.capability])
    except RuntimeError as error:
        print(f"Nothing can be said of the coverage: {error}.")
        return 1
    print("\n".join(lines(files)))
    if total(files).percent < LEAST:
        print(f"The tests take {total(files).percent:.1f} % of the branches; it has to be {LEAST:.0f} % at least.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
