# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate of branch coverage sees what tests leave out, also in what they start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import branch_coverage
from scripts.branch_coverage import Capability, Covered

CODE = "def sign(number):\n    if number < 0:\n        return -1\n    return 1\n\nif __name__ == '__main__':\n    sign(-1)\n"
HERE = "from measured import sign\ndef test_one():\n    assert sign(1) == 1\n"
STARTED = f"import subprocess\ndef test_two():\n    subprocess.run([{sys.executable!r}, 'measured.py'], check=True)\n"


def project(folder: Path, **tests: str) -> Capability:
    (folder / "measured.py").write_text(CODE)
    for name, text in tests.items():
        (folder / f"test_{name}.py").write_text(text)
    (folder / "conftest.py").write_text("import sys\nsys.path.insert(0, '.')\n")
    return Capability(("measured.py",), tuple(f"test_{name}.py" for name in tests))


def test_branches_that_no_test_takes_are_missed(tmp_path: Path) -> None:
    assert branch_coverage.measure(project(tmp_path, here=HERE), tmp_path, 0) == {"measured.py": Covered(2, 4)}


def test_program_that_a_test_starts_is_measured(tmp_path: Path) -> None:
    assert branch_coverage.measure(project(tmp_path, here=HERE, started=STARTED), tmp_path, 0) == {"measured.py": Covered(4, 4)}


def test_failed_test_says_nothing_of_coverage(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a test failed"):
        branch_coverage.measure(project(tmp_path, here=HERE.replace("== 1", "== 2")), tmp_path, 0)


def test_code_that_no_test_comes_to_counts(tmp_path: Path) -> None:
    capability = project(tmp_path, here=HERE)
    (tmp_path / "other.py").write_text(CODE)
    found = branch_coverage.measure(Capability(("measured.py", "o*.py"), capability.tests), tmp_path, 0)
    assert found == {"measured.py": Covered(2, 4), "other.py": Covered(0, 4)}
    without = Capability(("measured.py", "o*.py"), capability.tests, ("other.py",))
    assert branch_coverage.measure(without, tmp_path, 0) == {"measured.py": Covered(2, 4)}


@pytest.mark.parametrize(("taken", "code"), [(90, 0), (89, 1)])
def test_less_than_ninety_per_cent_fails(
    taken: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(branch_coverage, "measure", lambda _capability: {"a.py": Covered(taken, 100), "b.py": Covered(0, 0)})
    assert branch_coverage.main(["evidence"]) == code
    assert ("has to be 90 %" in capsys.readouterr().out) == bool(code)


def test_code_and_tests_of_every_capability_are_there() -> None:
    for capability in branch_coverage.CAPABILITIES.values():
        assert all((branch_coverage.ROOT / test).exists() for test in capability.tests)
        assert all(list(branch_coverage.ROOT.glob(pattern)) for pattern in (*capability.code, *capability.without))
