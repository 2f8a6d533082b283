# SPDX-License-Identifier: GPL-3.0-or-later
"""Each journal of ``journals/`` (one situation in k3s's own words, with its source) is diagnosed as its header says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import join_causes as causes
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.join import Host, Line, Unit, diagnose, relevant

FOLDER = Path(__file__).parent / "journals"
#: How the unit looks in each situation: k3s retries inside one start, or it ends and systemd starts it again.
RETRYING = Unit(load="loaded", active="activating", sub="start", invocation="now", main_pid=1, job=True)
RESTARTING = Unit(load="loaded", active="activating", sub="auto-restart", result="exit-code", invocation="now", n_restarts=2, job=True)


@dataclass(frozen=True)
class Journal:
    state: str
    role: str
    lines: tuple[Line, ...]

    @property
    def unit(self) -> Unit:
        return RESTARTING if any("level=fatal" in line.text for line in self.lines) else RETRYING


def read(path: Path) -> Journal:
    rows = path.read_text().splitlines()
    head = dict(row[2:].partition(": ")[::2] for row in rows if row.startswith("# "))
    return Journal(head["state"], head["role"], tuple(Line(row, "now") for row in rows if not row.startswith("# ")))


JOURNALS = sorted(FOLDER.glob("*.log"))


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.stem)
def test_a_journal_is_diagnosed_as_its_header_says(path: Path) -> None:
    journal = read(path)
    found = diagnose(journal.role, journal.unit, relevant(journal.lines, journal.unit), Host(node_name="pi-4"))
    assert found.state == journal.state, found
    assert found.evidence
    assert "{" not in found.hint
    assert found.hint


def test_every_state_that_a_journal_can_name_has_one() -> None:
    by_journal = {read(path).state for path in JOURNALS}
    assert by_journal == set(causes.STATES) - {causes.READY, causes.UNKNOWN}


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.stem)
def test_the_evidence_of_a_cause_is_a_message_of_the_journal(path: Path) -> None:
    journal = read(path)
    found = diagnose(journal.role, journal.unit, journal.lines, Host())
    assert found.evidence in {causes.message(line.text) for line in journal.lines}
