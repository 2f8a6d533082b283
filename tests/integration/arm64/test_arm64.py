# SPDX-License-Identifier: GPL-3.0-or-later
"""The node's side on an emulated arm64: facts, the choice of artifacts, and the kernel command line of each OS layout."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.support.fleet import BIN, ROOT
from tests.support.release_files import VERSION, release

LAYOUTS = """
import json, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.collections", sys.argv[1] + "/tests/unit/base_os"]
import platform
from layouts import all_layouts
print(json.dumps({"machine": platform.machine(), "layouts": all_layouts(Path(sys.argv[2]))}))
"""


def test_facts_and_choice_of_artifacts(arm64_python: Path, tmp_path: Path) -> None:
    artifacts = tmp_path / "release"
    artifacts.mkdir()
    for name, body in release().items():
        (artifacts / name).write_bytes(body)
    variables = {
        "ansible_python_interpreter": str(arm64_python),
        "release_version": VERSION,
        "release_dir": str(artifacts),
        "release_cache": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", "arm64-node,", "-c", "local", "-e", json.dumps(variables), "tests/integration/arm64/play.yml"],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.memory"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "failed=0" in done.stdout


def test_the_command_line_of_each_layout(arm64_python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [arm64_python, "-c", LAYOUTS, str(ROOT), str(tmp_path)], capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout)
    assert report["machine"] == "aarch64"
    assert len(report["layouts"]) >= 9
    for name, seen in report["layouts"].items():
        needs_it = "mainline" not in name
        assert seen["first"] == (["memory_cgroup"] if needs_it else []), name
        assert seen["last"] == [], name
        assert seen["changes_left"] == 0, name
        assert seen["line"].endswith(" cgroup_memory=1 cgroup_enable=memory\n") is needs_it, name
        assert seen["line"].count("\n") == (1 if needs_it else 0), name
