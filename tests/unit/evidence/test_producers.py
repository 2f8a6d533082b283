# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that writes evidence stands in the docs, and every playbook that changes something comes to the gate at its end."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
LEDGER = "plugins/plugin_utils/_ledger/"
#: what appends to the chain, of the repositories alone
APPENDING = {"append_event", "append_sealed", "add_body"}
#: tables that only the repositories write
TABLES = {"events", "bodies", "chains"}
#: playbooks that write a report, look by a role, send what is there, or install a service of the controller: no record of their own
RECORDLESS = {"evidence.yml", "hub.yml", "stacks_status.yml", "sync.yml"}
#: a report of the ledger says how its run ended, and so comes after the end
LOOKS = re.compile(r"\.(evidence_report|fail|assert|debug|set_fact|meta|pause|fleet_validate|evidence_verify|secrets_check|\w+_info)$")
OPEN, CLOSE = "parts/open_record.yml", "parts/close_record.yml"


def repositories() -> set[str]:
    """Return the classes of the ledger's modules that append to the chain: through them alone evidence is written."""
    found = set()
    for path in (ROOT / LEDGER).glob("*.py"):
        tree = ast.parse(path.read_text())
        called = {getattr(n.func, "id", "") for n in ast.walk(tree) if isinstance(n, ast.Call)}
        if called & APPENDING and path.name != "events.py":
            found |= {n.name for n in tree.body if isinstance(n, ast.ClassDef) and _takes_a_store(n)}
    return found


def _takes_a_store(node: ast.ClassDef) -> bool:
    makers = (m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__")
    return any(argument.arg == "store" for maker in makers for argument in maker.args.args)


REPOSITORIES = repositories()


def sources() -> Iterator[tuple[str, str]]:
    for folder in ("plugins", "hub"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if not name.startswith(LEDGER):
                yield name, path.read_text()


def writes(text: str) -> set[str]:
    """Return the ways in which a file writes evidence."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found |= {called} & (REPOSITORIES | APPENDING)
            if called in ("insert", "update", "delete") and any(
                isinstance(a, (ast.Name, ast.Attribute)) and getattr(a, "attr", getattr(a, "id", "")) in TABLES for a in node.args
            ):
                found.add("tables")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {"tables"} & ({"tables"} if re.search(r"(?i)insert\s+into\s+(events|bodies|chains)\b", node.value) else set())
    return found


def producers() -> set[str]:
    return {name for name, text in sources() if writes(text)}


def documented() -> dict[str, str]:
    """Return what the docs say of each producer: by path, through what it is queued."""
    section = (ROOT / "docs/evidence.md").read_text().split("## Who writes evidence")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([a-z_/.]+)` \|[^|]*\| `([a-z_/.]+)` \|$", section, re.M))


def test_docs_name_every_producer_and_what_queues_for_it() -> None:
    told = documented()
    assert set(told) == producers()
    queueing = {name for name, text in sources() if "gate.queue_evidence(" in text}
    assert set(told.values()) <= queueing


def test_repositories_are_known() -> None:
    assert {"Runs", "Rebuilds", "Statements", "Releases"} <= REPOSITORIES


def test_nothing_appends_to_the_chain_but_the_repositories() -> None:
    assert {name: found for name, text in sources() if (found := writes(text) - REPOSITORIES)} == {}


@pytest.mark.parametrize(
    "text",
    ["Runs(store).open(h, p, [])", "with store.write() as db:\n    append_event(db, 'x.y', {})", "events.add_body(db, 'x', 'y', b'')",
     "db.execute(insert(events), row)", "db.execute(sa.update(schema.chains))", "db.exec_driver_sql('INSERT INTO events VALUES (1)')"],
)  # fmt: skip
def test_producer_that_nobody_knows_is_caught(text: str) -> None:
    assert writes(text)


def imports(playbook: Path) -> list[str]:
    return [play["ansible.builtin.import_playbook"] for play in plays(playbook) if "ansible.builtin.import_playbook" in play]


def plays(playbook: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(playbook.read_text())
    return found


def outside_of_the_record(playbook: Path) -> list[str]:
    """Return the plays of a playbook that change something before its record is opened or after it was closed."""
    names = imports(playbook)
    words = [str(play.get("ansible.builtin.import_playbook", "")) for play in plays(playbook)]
    recorded = OPEN in names and CLOSE in names
    begin, end = (words.index(OPEN), words.index(CLOSE)) if recorded else (0, -1)
    loose = [play for number, play in enumerate(plays(playbook)) if not begin <= number <= end]
    return [str(play.get("name")) for play in loose if not _looks(playbook.parent, play)]


def _looks(folder: Path, play: dict[str, Any]) -> bool:
    """Whether a play changes nothing."""
    if "ansible.builtin.import_playbook" in play:
        part = folder / play["ansible.builtin.import_playbook"]
        return all(_looks(part.parent, inner) for inner in plays(part))
    actions = [key for task in play.get("tasks", [{"roles.": ""}]) for key in task if "." in key]
    return all(LOOKS.search(action) for action in actions)


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "playbooks").glob("*.yml")))
def test_every_playbook_that_changes_something_is_recorded(name: str) -> None:
    if name not in RECORDLESS:
        assert outside_of_the_record(ROOT / "playbooks" / name) == []


def test_playbook_without_a_record_is_caught(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text("- name: Do it\n  hosts: all\n  tasks:\n    - ansible.builtin.copy: {content: x, dest: /x}\n")
    assert outside_of_the_record(tmp_path / "x.yml")
    whole = f"- ansible.builtin.import_playbook: {OPEN}\n- ansible.builtin.import_playbook: {CLOSE}\n"
    (tmp_path / "y.yml").write_text(whole + (tmp_path / "x.yml").read_text())
    assert outside_of_the_record(tmp_path / "y.yml") == ["Do it"]
