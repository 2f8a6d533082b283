# SPDX-License-Identifier: GPL-3.0-or-later
"""Two deploys at once; a run that is killed in a phase, and resumed; a build backend from outside."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process, identify, is_gone
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import PHASES

from tests.integration.releases.conftest import FULL, Site
from tests.support.commands import Commands

#: (phase, whether all processes of the run end, as with a power cut, or ansible-playbook alone, as with `kill -9`)
KILLED = [(phase, all_of_it) for phase in PHASES for all_of_it in (False, True)]
if not FULL:
    KILLED = [("push", False)]
BACKEND = """
import subprocess

class Third:
    def check(self, run):
        pass

    def build(self, options, run):
        (options.work_dir / "../../.pifleet/third.log").open("a").write(options.tag + "\\n")
        done = run(["docker", "build", "--tag", options.tag, str(options.work_dir)], timeout=options.timeout)
        assert done.ok, done.stderr
        return options.tag

def register(registry):
    registry.register("third", Third)
"""


def test_two_at_once_and_a_backend_from_outside(site: Site, tmp_path: Path) -> None:
    commands = Commands(tmp_path / "commands", "docker")
    site.repository.write("tools/third.py", BACKEND)
    site.configure(services=site.with_build(backend="third"))
    table = (site.repository.root / "releases.yml").read_text()
    site.repository.write("releases.yml", f"backends: [tools/third.py]\n{table}")
    site.repository.commit("1.1.0")
    commands.hold("build")
    first = site.start("deploy", **commands.env)
    site.wait_for("prod-000001-1.1.0", "build")
    told = site.told("deploy").replace("\n", " ")
    assert "The release prod-000001-1.1.0 of prod is under way" in " ".join(told.split())
    commands.let_go("build")
    first.wait(300).require()
    assert site.ids() == ["prod-000001-1.1.0"] and site.releases.get(site.ids()[0]).current
    assert (site.repository.root / ".pifleet/third.log").read_text().count(":1.1.0") == 2


def children(pid: int) -> list[Process]:
    """The processes that *pid* started, and those that these did."""
    parents = {int(p.parent.name): _parent(p) for p in Path("/proc").glob("[0-9]*/stat")}
    found, new = set[int](), {pid}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return [identify(child) for child in sorted(found - {pid})]


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def kill(pid: int, *, all_of_it: bool) -> None:
    """Kill a run, and wait until none of its workers is left."""
    started = children(pid)
    workers = [child for child in started if _parent(Path(f"/proc/{child.pid}/stat")) == pid]
    for one in [pid, *(child.pid for child in started if all_of_it)]:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while left := [worker for worker in workers if not is_gone(worker)]:
        assert time.monotonic() < deadline, f"{left} outlived the run"
        time.sleep(0.05)


@pytest.mark.parametrize(("phase", "all_of_it"), KILLED)
def test_killed_and_resumed(site: Site, tmp_path: Path, phase: str, all_of_it: bool) -> None:
    commands = Commands(tmp_path / "commands", "docker")
    # longer than the next run takes to come to the same migration
    slow = ["once", "15" if phase.startswith("migrate") else "3", "0"]
    site.configure(services=site.with_migrations(pre=slow, post=slow))
    site.repository.commit("1.1.0")
    release = "prod-000001-1.1.0"
    run = site.start("deploy", **commands.env)
    if phase in ("build", "push"):
        commands.hold(phase)
    elif phase == "finalize":
        # a node that does not answer keeps it in its last phase
        site.wait_for(release, "migrate_post")
        site.pause("release-3.local")
    elif phase == "rollout":
        site.wait_for(release, "migrate_pre")
        site.pause("release-3.local")
    try:
        site.wait_for(release, phase)
    finally:
        kill(run.process.pid, all_of_it=all_of_it)
        run.process.wait(10)
        site.unpause()
        for word in ("build", "push"):
            if phase == word:
                commands.let_go(word)
    found = site.releases.get(release)
    finished = [p.name for p in found.phases if p.status == "completed"]
    assert found.status == "running" and finished == list(PHASES[: PHASES.index(phase)])
    commands.forget()
    assert f"running in {phase} (interrupted)" in " ".join(site.play("releases").output.split())
    site.play("deploy", "-e", f"resume={release}", **commands.env)
    found = site.releases.get(release)
    assert found.current and {p.status for p in found.phases} == {"completed"} and site.ids() == [release]
    assert {site.says(host) for host in site.fleet.workers} == {"1"}
    if "build" in finished:
        assert not commands.ran("docker", "build")
    if "push" in finished:
        assert not commands.ran("docker", "push")
