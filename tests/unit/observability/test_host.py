# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan for a node that is observed, and its carrying out: killed at every step, the next run ends it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._observability import units
from ansible_collections.pifleet.ops.plugins.module_utils._observability.host import MEMO, Applier, File, Unit, Wanted, make_plan

CONFIG, SECRET = "/etc/watch.yml", "/etc/secrets/critical"
SERVICE = Unit("watch.service", restarted_by=(CONFIG, SECRET), check=("watchtool", CONFIG), ready="http://127.0.0.1:1/ready")


class Killed(BaseException):
    """The process is gone."""


class Node:
    """A folder that dpkg and systemd work on. *dies*: before which command; *refuses*: programs that fail; *silent*: nothing serves."""

    def __init__(self, root: Path) -> None:
        self.root, self.ran, self.dies, self.refuses, self.silent, self.now = root, list[str](), -1, set[str](), False, 0.0
        (root / "var/lib/dpkg").mkdir(parents=True)
        (root / "var/lib/dpkg/status").write_text("")
        self.loaded: dict[str, str] = {}

    def run(self, argv: Sequence[str], **_more: object) -> Completed:
        self.die()
        self.ran.append(" ".join(argv))
        if argv[:2] == ["apt-get", "install"]:
            (self.root / "var/lib/dpkg/status").write_text("Package: watch\nStatus: install ok installed\n\n")
        if argv[0] == "systemctl" and argv[1] in ("enable", "disable", "start", "restart"):
            self._systemctl(argv[1], argv[-1])
        failed = argv[0] in self.refuses or argv[1] == "is-failed"
        return Completed(tuple(argv), int(failed), "", "no" if failed else "")

    def die(self) -> None:
        if self.dies == 0:
            raise Killed
        self.dies -= 1

    def _systemctl(self, verb: str, name: str) -> None:
        target = "timers.target" if name.endswith(".timer") else "multi-user.target"
        wants, group = self.root / f"etc/systemd/system/{target}.wants/{name}", self.root / f"sys/fs/cgroup/system.slice/{name}"
        if verb == "disable":
            wants.unlink()
        elif verb == "enable":
            wants.parent.mkdir(parents=True, exist_ok=True)
            wants.touch()
        else:
            group.mkdir(parents=True, exist_ok=True)
            config = self.root / CONFIG[1:]
            self.loaded[name] = config.read_text() if config.exists() else ""

    def apply(self, wanted: Wanted) -> None:
        Applier(str(self.root), self.run, self, 1, lambda _address: not self.silent).carry_out(make_plan(str(self.root), wanted))

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds


def wanted(config: str = "one", secret: str = "token") -> Wanted:
    timer = units.present(b"program")
    files = (File(CONFIG, config.encode()), File(SECRET, secret.encode(), 0o600, secret=True), *timer.files)
    return Wanted(("watch",), files, (SERVICE, *timer.units))


def test_fresh_node_then_nothing_to_do(tmp_path: Path) -> None:
    node = Node(tmp_path)
    plan = make_plan(str(tmp_path), wanted())
    assert [(s.change.kind, s.change.reason) for s in plan] == [
        ("package", "missing"),
        *[("file", "missing")] * 5,
        *[("unit", "not_enabled")] * 2,
    ]
    assert not (tmp_path / "etc").exists(), "a plan only reads"
    node.apply(wanted())
    assert make_plan(str(tmp_path), wanted()) == ()
    assert node.loaded["watch.service"] == "one"
    assert (tmp_path / SECRET[1:]).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / MEMO[1:]).exists()


def test_secrets_are_in_no_diff(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.apply(wanted())
    (step, _restart) = make_plan(str(tmp_path), wanted(secret="another"))
    assert (step.change.target, step.change.before, step.change.after) == (SECRET, "", "")


@pytest.mark.parametrize(
    ("spoil", "reasons"),
    [
        (lambda root: (root / CONFIG[1:]).write_text("by hand"), ["differs", "config_changed"]),
        (lambda root: (root / SECRET[1:]).chmod(0o644), ["mode", "config_changed"]),
        (lambda root: (root / "etc/systemd/system/pifleet-metrics.timer").unlink(), ["missing", "config_changed"]),
        (lambda root: (root / "sys/fs/cgroup/system.slice/watch.service").rmdir(), ["not_running"]),
        (lambda root: (root / "etc/systemd/system/multi-user.target.wants/watch.service").unlink(), ["not_enabled"]),
        (lambda root: (root / "var/lib/dpkg/status").write_text(""), ["missing"]),
    ],
)
def test_what_was_changed_by_hand_is_brought_back(tmp_path: Path, spoil, reasons: list[str]) -> None:
    node = Node(tmp_path)
    node.apply(wanted())
    spoil(tmp_path)
    assert [step.change.reason for step in make_plan(str(tmp_path), wanted())] == reasons
    node.apply(wanted())
    assert make_plan(str(tmp_path), wanted()) == ()


def test_killed_at_every_command_the_next_run_ends_it(tmp_path: Path) -> None:
    """And the service has what is wanted now, not what it was started with."""
    kills = 0
    for number in range(40):
        node = Node(tmp_path / str(number))
        node.apply(wanted())
        node.dies = number
        try:
            node.apply(wanted("two"))
        except Killed:
            kills += 1
        node.dies = -1
        node.apply(wanted("two"))
        assert make_plan(str(node.root), wanted("two")) == ()
        assert node.loaded["watch.service"] == "two", f"killed before command {number}"
    assert 3 < kills < 40


def test_a_file_that_is_refused_is_never_given_to_what_runs(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.apply(wanted())
    node.refuses = {"watchtool"}
    with pytest.raises(PifleetError, match="What runs was left as it is"):
        node.apply(wanted("bad"))
    assert node.loaded["watch.service"] == "one"
    node.refuses = set()
    node.apply(wanted("good"))
    assert node.loaded["watch.service"] == "good"


def test_what_does_not_serve_fails_the_run_and_is_tried_again(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.silent = True
    with pytest.raises(PifleetError, match=r"watch\.service does not answer at http://127\.0\.0\.1:1/ready after 90 seconds"):
        node.apply(wanted())
    node.silent = False
    assert [step.change.reason for step in make_plan(str(tmp_path), wanted())][:1] == ["interrupted"]
    node.apply(wanted())
    assert make_plan(str(tmp_path), wanted()) == ()


def test_absent_leaves_everything_else(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.apply(wanted())
    node.apply(units.absent())
    assert make_plan(str(tmp_path), units.absent()) == ()
    assert (tmp_path / CONFIG[1:]).exists() and not os.path.lexists(tmp_path / units.PROGRAM[1:])


def test_an_owner_who_is_nobody_is_an_error(tmp_path: Path) -> None:
    node = Node(tmp_path)
    with pytest.raises(PifleetError, match="there is no such user"):
        node.apply(Wanted(files=(File("/etc/x", b"", owner="nobody-at-all"),)))
    assert not (tmp_path / "etc/x").exists()
