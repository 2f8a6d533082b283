# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of checks reports truly: a failure, a check that could not run, a failed test, a hang."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from scripts import checks
from scripts.checks import Check, Outcome


@pytest.fixture(autouse=True)
def _own_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LOGS", tmp_path)


def python(name: str, code: str, needs: tuple[str, ...] = (), *, lab: bool = False, limit: float = 60.0) -> Check:
    return Check(name, (sys.executable, "-c", code), needs=needs, lab=lab, limit=limit)


def test_a_failure_is_reported_with_its_log_and_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = checks.run([python("good", ""), python("bad", "print('the reason'); raise SystemExit(3)")], slots=2)
    lines, code = checks.summary(outcomes)
    assert code == 1
    assert lines[-1] == "1 passed, 1 failed"
    assert "the reason" in capsys.readouterr().out


def test_what_needs_a_failed_check_is_not_run_and_counts_as_failed(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    outcomes = checks.run([python("lab", "raise SystemExit(1)"), python("uses", f"open({str(ran)!r}, 'w')", needs=("lab",))], slots=2)
    lines, code = checks.summary(outcomes)
    assert not ran.exists()
    assert (code, lines[-1]) == (1, "0 passed, 2 failed")


def test_checks_on_the_lab_run_one_at_a_time(tmp_path: Path) -> None:
    code = f"import os, time; os.mkdir({str(tmp_path / 'busy')!r}); time.sleep(0.2); os.rmdir({str(tmp_path / 'busy')!r})"
    outcomes = checks.run([python("one", code, lab=True), python("two", code, lab=True)], slots=4)
    assert [o.rc for o in outcomes] == [0, 0]


def test_the_lab_is_never_left_waiting_for_what_could_run_later() -> None:
    plain, first, second = python("plain", ""), python("first", "", lab=True), python("second", "", lab=True)
    assert checks.ready([plain, first, second], set(), []) == [first, plain]
    assert checks.ready([plain, second], set(), [first]) == [plain]


def test_nothing_runs_beside_a_measurement() -> None:
    plain, other, measures = python("plain", ""), python("other", ""), Check("measures", (), alone=True)
    assert checks.ready([plain, measures, other], set(), []) == [plain, other]
    assert checks.ready([measures], set(), [plain]) == []
    assert checks.ready([measures, plain], set(), []) == [measures]
    assert checks.ready([plain], set(), [measures]) == []


def test_a_check_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "child"
    code = f"import pathlib, subprocess as s; p = s.Popen(['sleep', '60']); pathlib.Path({str(note)!r}).write_text(str(p.pid)); p.wait()"
    began = time.monotonic()

    def clock() -> float:
        """Its time is over once it has its child."""
        return time.monotonic() + (3600 if note.exists() and note.read_text() else 0)

    (outcome,) = checks.run([python("hangs", code, limit=60.0)], slots=1, clock=clock)
    assert outcome.rc != 0
    assert time.monotonic() - began < 45
    state = Path(f"/proc/{note.read_text()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


@pytest.mark.parametrize(
    ("rc", "suite", "counted"),
    [
        (0, 'tests="5" failures="0" errors="0" skipped="0"', (5, 0)),
        (1, 'tests="5" failures="1" errors="1" skipped="0"', (3, 2)),
        (2, 'tests="0" failures="0" errors="0" skipped="0"', (0, 1)),
    ],
)
def test_counts_are_those_of_pytest(tmp_path: Path, rc: int, suite: str, counted: tuple[int, int]) -> None:
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite {suite}/></testsuites>")
    assert checks.counts_of(Check("unit", (), pytest=True), rc, report) == counted


def test_nothing_passed_is_not_a_success() -> None:
    lines, code = checks.summary([Outcome(Check("x", ()), None, counts=(0, 1))])
    assert (code, lines[-1]) == (1, "0 passed, 1 failed")


def test_every_need_of_the_suites_exists() -> None:
    for name in ("fast", "all", "full", "bench"):
        suite = checks.suite(name)
        names = {c.name for c in suite}
        assert len(names) == len(suite)
        assert all(set(c.needs) <= names for c in suite)


def test_all_code_of_the_controller_is_typed() -> None:
    (mypy,) = (check for check in checks.suite("fast") if check.name == "mypy")
    for kind in ("action", "callback", "module_utils", "plugin_utils"):
        assert f"ansible_collections.pifleet.ops.plugins.{kind}" in mypy.argv


@pytest.mark.parametrize(
    "body",
    [
        "import pytest\ndef test_one():\n    pytest.skip('no server')",
        "import pytest\npytest.importorskip('no_such_module')",
        "import pytest\n@pytest.mark.xfail\ndef test_one():\n    assert False",
    ],
    ids=["skip", "importorskip", "xfail"],
)
def test_a_skipped_test_fails_where_nothing_may_be_skipped(tmp_path: Path, body: str) -> None:
    root = Path(__file__).resolve().parents[3]
    (tmp_path / "conftest.py").write_text((root / "conftest.py").read_text())
    (tmp_path / "test_skips.py").write_text(body)
    check = Check("skips", (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)), pytest=True)
    (outcome,) = checks.run([check], slots=1)
    assert outcome.rc == (1 if "importorskip" not in body else 2)
    assert outcome.counts == (0, 1)
