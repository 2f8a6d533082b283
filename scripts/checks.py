# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the project's checks side by side, as far as they depend on each other: `python scripts/checks.py fast|all|full|bench`.

Each check writes a log of its own, shown when it fails. A line every few seconds says what is running. The last line counts:
each test of a pytest check, and each other check, as one.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".pifleet" / "reports" / "checks"
LAB_INVENTORY = "inventory/lab"
FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))
# folders of tests that start fleets of their own, or need none, so that they may run beside those on the shared lab
OWN_FLEETS = {
    "arm64",
    "base_os",
    "fix_queue",
    "fix_runs",
    "fleets",
    "k3s_ops",
    "lab",
    "logs",
    "observability",
    "operations",
    "releases",
    "runbooks",
    "stack_refresh",
    "stacks",
    "sync_service",
}
# folders that are too long for CI: part of `make test-full`
ONLY_FULL = {"fix_queue", "fix_runs", "k3s_ops", "lab", "queue"}
# scenarios that are: they need RabbitMQ (scripts/setup-brokers) too
ONLY_FULL_SCENARIOS = {"fix_queue"}
# folders of tests that run anywhere
NO_LAB = {"controller", "hub_page", "ledger", "queue", "secrets", "sync"}
HEARTBEAT = 15.0  # seconds between two lines that say what is running
SHOWN = 300  # lines of a failed check's log that are printed


@dataclass(frozen=True, slots=True)
class Check:
    """One command that passes or fails.

    *needs* names checks that must have passed; *lab* marks use of the one shared lab; beside one that is *alone* nothing else runs.
    """

    name: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    lab: bool = False
    alone: bool = False
    pytest: bool = False
    env: tuple[tuple[str, str], ...] = ()
    limit: float = 3600.0  # seconds, after which it hangs: much more than it takes, beside others too
    shown: bool = False  # its output is printed when it passes too


@dataclass(slots=True)
class Outcome:
    """How a check ended: *rc* None where it was not run; *counts* are tests passed and failed."""

    check: Check
    rc: int | None
    started: float = 0.0
    seconds: float = 0.0
    counts: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class _Running:
    check: Check
    process: subprocess.Popen[bytes]
    started: float
    log: Path = field(default_factory=Path)


def log_of(check: Check) -> Path:
    return LOGS / f"{check.name}.log"


def report_of(check: Check) -> Path:
    return LOGS / f"{check.name}.xml"


def ready(waiting: Iterable[Check], passed: set[str], running: Iterable[Check]) -> list[Check]:
    """Return the checks that may start now: their needs passed, and at most one of those using the lab.

    That one comes first, because it is the lab that everything waits for in the end; the others keep their order.
    """
    running = list(running)
    if any(c.alone for c in running):
        return []
    lab_free = not any(c.lab for c in running)
    chosen: list[Check] = []
    for check in waiting:
        if not set(check.needs) <= passed or (check.lab and not lab_free):
            continue
        if check.alone and (running or chosen):
            continue
        lab_free = lab_free and not check.lab
        chosen.append(check)
        if check.alone:
            break
    return sorted(chosen, key=lambda check: not check.lab)


def counts_of(check: Check, rc: int | None, report: Path) -> tuple[int, int]:
    """Return (passed, failed) tests of a finished check. A pytest check that failed without a failed test counts one failure."""
    if not check.pytest or not report.exists():
        return (1, 0) if rc == 0 else (0, 1)
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))  # noqa: S314 - pytest's own report
    total, bad, skipped = (
        sum(int(s.get(key) or 0) for s in suites for key in keys) for keys in (["tests"], ["failures", "errors"], ["skipped"])
    )
    return total - bad - skipped, max(bad, 0 if rc == 0 else 1)


def _last_line(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 2000))
        lines = [line.strip() for line in stream.read().decode(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:100] if lines else ""


def _say(text: str) -> None:
    print(text, flush=True)


def _start(check: Check) -> _Running:
    argv = [*check.argv, f"--junit-xml={report_of(check)}"] if check.pytest else list(check.argv)
    report_of(check).unlink(missing_ok=True)
    env = {**os.environ, "PIFLEET_NO_SKIPS": "1", "PYTHONUNBUFFERED": "1", "ANSIBLE_NOCOLOR": "1", "NO_COLOR": "1", **dict(check.env)}
    with log_of(check).open("wb") as log:
        process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    return _Running(check, process, time.monotonic(), log_of(check))


def _kill(running: _Running) -> None:
    for sig, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(running.process.pid, sig)
            running.process.wait(patience)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _finish(running: _Running, began: float) -> Outcome:
    check, rc = running.check, running.process.returncode
    seconds = time.monotonic() - running.started
    outcome = Outcome(check, rc, running.started - began, seconds, counts_of(check, rc, report_of(check)))
    if rc == 0:
        detail = f" ({outcome.counts[0]} tests)" if check.pytest else ""
        _say(f"[checks] {seconds:6.1f} s  ok      {check.name}{detail}")
        if check.shown:
            _say(running.log.read_text(errors="replace"))
        return outcome
    _say(f"[checks] {seconds:6.1f} s  FAILED  {check.name} (exit code {rc}): {' '.join(check.argv)}")
    lines = running.log.read_text(errors="replace").splitlines()
    if len(lines) > SHOWN:
        _say(f"    … {len(lines) - SHOWN} lines before these are in {running.log}")
    for line in lines[-SHOWN:]:
        _say(f"    {line}")
    return outcome


def run(checks: Sequence[Check], slots: int, clock: Callable[[], float] = time.monotonic) -> list[Outcome]:
    """Run *checks*, at most *slots* at a time, and return their outcomes in the order they ended; what could not run comes last."""
    began = clock()
    waiting, running, outcomes = list(checks), list[_Running](), list[Outcome]()
    passed: set[str] = set()
    beat = began
    try:
        while running or ready(waiting, passed, []):
            for check in ready(waiting, passed, [r.check for r in running])[: slots - len(running)]:
                waiting.remove(check)
                running.append(_start(check))
            time.sleep(0.1)
            for one in list(running):
                if one.process.poll() is None:
                    if clock() - one.started > one.check.limit:
                        _say(f"[checks] {one.check.name} did not end within {one.check.limit:.0f} s")
                        _kill(one)
                    continue
                running.remove(one)
                outcomes.append(_finish(one, began))
                if one.process.returncode == 0:
                    passed.add(one.check.name)
            if running and clock() - beat >= HEARTBEAT:
                beat = clock()
                what = "; ".join(f"{r.check.name} {beat - r.started:.0f} s: {_last_line(r.log)}" for r in running)
                _say(f"[checks] {beat - began:6.0f} s  running {what}")
    finally:
        for one in running:
            _kill(one)
    return [*outcomes, *(Outcome(check, None, counts=(0, 1)) for check in waiting)]


def summary(outcomes: Sequence[Outcome]) -> tuple[list[str], int]:
    """Return the closing lines, the last of them `N passed, N failed`, and the exit code."""
    lines = ["", "check                          start    took  result"]
    for o in outcomes:
        if o.rc is None:
            lines.append(f"{o.check.name:<28}      -       -  not run: what it needs failed ({', '.join(o.check.needs)})")
        else:
            result = "ok" if o.rc == 0 else f"FAILED, exit code {o.rc}"
            lines.append(f"{o.check.name:<28} {o.started:6.0f}s {o.seconds:6.1f}s  {result}")
    passed, failed = (sum(o.counts[i] for o in outcomes) for i in (0, 1))
    bad = any(o.rc != 0 for o in outcomes)
    return [*lines, f"{passed} passed, {max(failed, int(bad))} failed"], int(bad)


def _python(*argv: str) -> tuple[str, ...]:
    return (sys.executable, *argv)


def shell_scripts() -> list[str]:
    """Return the tracked files that are shell scripts by their first line."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    found = []
    for name in filter(None, tracked):
        path = ROOT / name
        if path.is_file():
            with path.open("rb") as stream:
                if re.match(rb"#!\S*/(env )?(ba|da)?sh\b", stream.readline(80)):
                    found.append(name)
    return found


def static_checks() -> list[Check]:
    """Checks that need nothing but the files: lint, types, unit tests."""
    collection = "ansible_collections.pifleet.ops"
    plugins = [f"{collection}.plugins.{kind}" for kind in ("action", "callback", "module_utils", "plugin_utils")]
    typed = [*plugins, f"{collection}.hub", "lab", "scripts"]
    mypy = _python("-m", "mypy", *(word for package in typed for word in ("-p", package)))
    return [
        Check("ruff", _python("-m", "ruff", "check", ".")),
        Check("ruff-format", _python("-m", "ruff", "format", "--check", ".")),
        Check("yamllint", _python("-m", "yamllint", "--strict", ".")),
        Check("mypy", mypy),
        Check("shellcheck", ("shellcheck", *shell_scripts())),
        Check("ansible-lint", _python("-m", "ansiblelint", "--offline")),
        Check("changelog", ("antsibull-changelog", "lint")),
        Check("unit", _python("-m", "pytest", "tests/unit", "--numprocesses=2", "--quiet"), pytest=True),
    ]


def integration() -> list[Check]:
    """One check for each folder of tests/integration. Those of the controller run anywhere, those on the shared lab in turn."""
    checks = []
    for folder in sorted({file.parent for file in ROOT.glob("tests/integration/*/test_*.py")}):
        if folder.name in ONLY_FULL and not FULL:
            continue
        argv = _python("-m", "pytest", str(folder.relative_to(ROOT)), "--verbose", "--durations=10")
        name, limit = f"integration-{folder.name}", 3600 * (6 if FULL else 1)
        if folder.name in NO_LAB:
            checks.append(Check(name, argv, pytest=True, limit=limit))
        else:
            shared = folder.name not in OWN_FLEETS
            checks.append(Check(name, argv, needs=("lab",), lab=shared, pytest=True, limit=limit))
    return checks


def scenarios() -> list[Check]:
    """The molecule scenarios, in turn where they use the shared lab. Only the exit code tells whether one passed."""
    checks = []
    for file in sorted(ROOT.glob("molecule/*/molecule.yml")):
        name = file.parent.name
        if name in ONLY_FULL_SCENARIOS and not FULL:
            continue
        argv = ("molecule", "test", "--no-command-borders", "--scenario-name", name)
        shared = not list(file.parent.glob("lab-*"))
        checks.append(Check(f"molecule-{name}", argv, needs=("lab",), lab=shared, env=(("PIFLEET_LAB_KEEP", "1"),)))
    return checks


def suite(what: str) -> list[Check]:
    """Return the checks of *what*: fast, all (what CI runs), full (the same with large matrices, and benchmarks) or bench."""
    if what == "fast":
        return static_checks()
    lab = Check("lab", _python("-m", "lab", "up", "-i", LAB_INVENTORY), limit=2400)
    bench = [
        Check(
            f"bench-{name}",
            _python("-m", f"tests.benchmarks.{name}", "--json", str(LOGS / f"bench-{name}.json")),
            needs,
            lab=bool(needs),
            alone=True,
            limit=7200,
            shown=True,
        )
        for name, needs in (
            ("rebuild", ("lab",)),
            ("bootstrap", ("lab",)),
            ("stacks", ("lab",)),
            ("releases", ("lab",)),
            ("fix_runs", ()),
            ("recording", ("lab",)),
            ("outbox", ()),
            ("memory", ("lab",)),
            ("live", ()),
        )
    ]
    if what == "bench":
        return [lab, *bench]
    coverage = Check("coverage-evidence", _python("scripts/branch_coverage.py", "evidence"))
    docs = Check("docs-site", ("scripts/docs-site", str(LOGS / "docs")))
    packaging = [Check("sanity", ("scripts/sanity",)), Check("package", ("scripts/package",)), Check("galaxy", ("scripts/galaxy",)), docs]
    # the lab takes longest: it starts first, and the rest beside it
    return [lab, *static_checks(), coverage, *packaging, *scenarios(), *integration(), *(bench if what == "full" else [])]


def _interrupted(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(f"signal {number}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("suite", choices=["fast", "all", "full", "bench"])
    parser.add_argument("--only", metavar="CHECK", action="append", help="run this check of the suite, and what it needs")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupted)
    LOGS.mkdir(parents=True, exist_ok=True)
    checks = suite(args.suite)
    if args.only:
        wanted = {n for c in checks if c.name in args.only for n in (c.name, *c.needs)}
        checks = [c for c in checks if c.name in wanted]
    if not checks:
        parser.error(f"no such check: {', '.join(args.only)}")
    try:
        outcomes = run(checks, slots=max(2, os.cpu_count() or 2))
    finally:
        if any(c.name == "lab" for c in checks) and not os.environ.get("PIFLEET_LAB_KEEP"):
            _say("[checks] stopping the lab")
            subprocess.run(_python("-m", "lab", "down", "-i", LAB_INVENTORY), cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    lines, code = summary(outcomes)
    _say("\n".join(lines))
    (LOGS / "count").write_text(f"{lines[-1]}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
