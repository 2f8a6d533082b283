# SPDX-License-Identifier: GPL-3.0-or-later
"""Every path that produces rows of the outbox goes through the gate, and stands in the runbook."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CORE = "plugins/plugin_utils/_evidence"
#: who may touch the tables of the outbox at all
TABLES = {f"{CORE}/outbox.py", f"{CORE}/migration.py", f"{CORE}/compare.py", "plugins/plugin_utils/_ledger/schema.py"}
#: who may give consent, and who may queue with it
CONSENT, QUEUES = {f"{CORE}/gate.py"}, {f"{CORE}/gate.py", f"{CORE}/sync.py"}
#: functions behind the gate: whoever calls one is a producer
GATED = {"queue_evidence", "sync_now", "deliver"}


def sources() -> Iterator[tuple[str, str]]:
    for folder in ("plugins", "hub"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "migrations/versions" not in str(path):
                yield str(path.relative_to(ROOT)), path.read_text()


def bypasses(name: str, text: str) -> set[str]:
    """Return what a file does that only the gate may do."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "Clearance" and name not in CONSENT:
                found.add("gives consent")
            if called in ("enqueue", "enqueue_from_ledger") and name not in QUEUES:
                found.add("queues")
        if isinstance(node, ast.Name) and node.id in ("sync_events", "body_upload_queue") and name not in TABLES:
            found.add("touches the tables")
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.search(r"(?i)insert\s+into\s+(sync_ev|body_up)", node.value)
        ):
            found.add("touches the tables")
    return found


def producers() -> set[str]:
    """Return the files that call into the gate from outside of it."""
    found = set()
    for name, text in sources():
        calls = {n.func.attr for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
        if calls & GATED and not name.startswith(f"{CORE}/sync"):
            found.add(name)
    return found


@pytest.mark.parametrize(("name", "text"), sources(), ids=lambda value: value if value.endswith(".py") else "")
def test_nobody_bypasses_the_gate(name: str, text: str) -> None:
    assert bypasses(name, text) == set()


@pytest.mark.parametrize(
    "text",
    [
        "Outbox(store).enqueue(Clearance('x'), rows)",
        "outbox.enqueue_from_ledger(c)",
        "db.execute(insert(sync_events), rows)",
        "db.execute(schema.insert(body_upload_queue))",
        "db.exec_driver_sql('INSERT INTO sync_events VALUES (1)')",
    ],
)
def test_bypass_on_purpose_is_caught(text: str) -> None:
    assert bypasses("plugins/action/new_producer.py", text)


def test_runbook_names_every_producer() -> None:
    section = (ROOT / "docs/runbooks/sync.md").read_text().split("## Who produces rows")[1]
    assert set(re.findall(r"^\| `([a-z_/.]+)` \|", section, re.M)) == producers()
