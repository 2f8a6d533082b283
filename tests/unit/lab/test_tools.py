# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs compiled when asked for, and the images made of one."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import build, paths, tools, workload
from lab.console import Console


def test_an_unknown_tool_is_refused_with_those_there_are() -> None:
    with pytest.raises(PifleetError, match="no tool nmap") as refused:
        tools.ensure("nmap", Console())
    assert "sops, victoria-logs, workload" in refused.value.hint


def test_a_tool_is_compiled_once_for_a_state_of_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiled = []

    def compile_packages(_go: str, sources: Path, target: Path, *_more: object) -> None:
        compiled.append(sources.name)
        target.write_text("program")

    monkeypatch.setattr(paths, "cache", lambda: tmp_path)
    monkeypatch.setattr(build, "compiler", lambda *_: "go")
    monkeypatch.setattr(build, "compile_packages", compile_packages)
    first, again = (tools.ensure("workload", Console()) for _ in range(2))
    assert first == again
    assert first.read_text() == "program"
    assert compiled == ["workload"]
    standins = [workload.standins([name], Console()) for name in ("a/b:1", "a/b:1", "a/b:2", "a/b:1=80")]
    assert standins[0] == standins[1]
    assert len(set(standins)) == 3
