# SPDX-License-Identifier: GPL-3.0-or-later
"""A node with a desired state and a Docker in memory. Whether data reached the disk is no question here: fsync is left out."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import reconcile
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Report, Settings, Status


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"stacks_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fake_engine = sys.modules.get("stacks_fake_engine") or _load("fake_engine")
WEB = {"services": {"web": {"image": "app:1", "restart": "always"}, "db": {"image": "db:1", "restart": "always"}}}


class Node:
    """One node: *path* is its desired state, *engine* its Docker."""

    def __init__(self, root: Path) -> None:
        self.path, self.state = root / "stacks", root / "state"
        self.path.mkdir()
        self.engine = fake_engine.FakeEngine(local={"app:1": "sha256:app1", "app:2": "sha256:app2", "db:1": "sha256:db1"})
        self.settings: dict[str, Any] = {"revision": "rev1", "commit_message": "first", "parallel": 1}

    def stack(self, name: str = "web", table: Any = None, **files: str) -> Path:
        """Write a stack; *table* is its compose file (JSON is YAML), a text is taken as it is."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        table = WEB if table is None else table
        (folder / "compose.yaml").write_text(table if isinstance(table, str) else json.dumps(table))
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        return folder

    def with_settings(self, **changed: Any) -> Settings:
        return Settings(path=str(self.path), state_dir=str(self.state), **{**self.settings, **changed})

    def reconcile(self, *, check: bool = False, **changed: Any) -> Report:
        return reconcile.reconcile(self.with_settings(**changed), self.engine.ports(), check=check)

    def info(self, **changed: Any) -> dict[str, Status]:
        return {s.name: s for s in reconcile.info(self.with_settings(**changed), self.engine.ports()).stacks}

    def acknowledge(self, stack: str, digest: str, *, expires_in: float = 3600, who: str = "ann", **changed: Any) -> Report:
        return reconcile.acknowledge(self.with_settings(**changed), self.engine.ports(), stack, digest, expires_in, who)

    def one(self, report: Report, name: str = "web") -> Status:
        return next(s for s in report.stacks if s.name == name)

    def running(self) -> dict[str, str]:
        """Ids of all containers by name."""
        return {c.name: c.id for c in self.engine.containers.values()}

    def verbs(self) -> list[str]:
        return [call[0] for call in self.engine.calls]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def web(node: Node) -> Node:
    """A node on which the stack ``web`` is synced, and whose calls are forgotten."""
    node.stack()
    assert node.one(node.reconcile()).status == "synced"
    node.engine.calls.clear()
    return node


@pytest.fixture(scope="session")
def make_node(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Node]:
    return lambda: Node(tmp_path_factory.mktemp("node"))
