# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a node's log shipper: what it does on a fresh node, on a converged one, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._logs import shipper

WANTED = shipper.Wanted("http://10.43.0.31:3100", (("fleet", "home"), ("node", "pi-1")))
FRESH = [
    ("unit", "syslog-ng.service", "not_masked"),
    ("package", "syslog-ng-core", "missing"),
    ("package", "syslog-ng-mod-http", "missing"),
    ("file", "/etc/systemd/journald.conf.d/70-pifleet.conf", "missing"),
    ("file", "/etc/pifleet/logs.conf", "missing"),
    ("file", "/etc/systemd/system/pifleet-logs.service", "missing"),
    ("unit", "systemd-journald.service", "config_changed"),
    ("unit", "pifleet-logs.service", "not_enabled"),
]


def installed(*names: str) -> str:
    return "".join(f"Package: {name}\nStatus: install ok installed\nVersion: 1\n\n" for name in names)


class Made:
    """A node below a folder, whose units run where *active*. *calls*: what was run."""

    def __init__(self, root: Path, active: bool = True, packages: Sequence[str] = ()) -> None:
        self.root, self.active, self.calls = root, active, list[tuple[str, ...]]()
        (root / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True)
        (root / "var/lib/dpkg/updates").mkdir(parents=True)
        (root / "var/lib/dpkg/status").write_text(installed(*packages))
        self.node = shipper.Node(self.run, str(root))

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        self.calls.append(tuple(argv))
        return Completed(tuple(argv), 0 if self.active or "is-active" not in argv else 3, "", "")

    def plan(self, wanted: shipper.Wanted = WANTED) -> list[tuple[str, str, str]]:
        return [(step.change.kind, step.change.target, step.change.reason) for step in shipper.make_plan(self.node, wanted)]

    def converge(self, wanted: shipper.Wanted = WANTED) -> None:
        for step in shipper.make_plan(self.node, wanted):
            if step.content is not None:
                path = self.root / step.change.target.lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step.content)
                path.chmod(step.mode)
        folder = self.root / "etc/systemd/system"
        (folder / "syslog-ng.service").symlink_to("/dev/null")
        (folder / "multi-user.target.wants/pifleet-logs.service").symlink_to("/etc/systemd/system/pifleet-logs.service")


def test_a_fresh_node_gets_all_and_a_converged_one_nothing(tmp_path: Path) -> None:
    assert Made(tmp_path / "fresh").plan() == FRESH
    made = Made(tmp_path / "made", packages=shipper.PACKAGES)
    made.converge()
    assert made.plan() == []


def test_a_shipper_that_does_not_run_is_started_and_other_settings_restart_it(tmp_path: Path) -> None:
    made = Made(tmp_path, active=False, packages=shipper.PACKAGES)
    made.converge()
    assert made.plan() == [
        ("unit", "systemd-journald.service", "config_changed"),
        ("unit", "pifleet-logs.service", "not_running"),
    ]
    made.active = True
    other = shipper.Wanted("http://10.43.0.31:3101", WANTED.labels)
    assert made.plan(other) == [("file", "/etc/pifleet/logs.conf", "differs"), ("unit", "pifleet-logs.service", "config_changed")]
    larger = shipper.Wanted(WANTED.url, WANTED.labels, buffer_mb=256)
    assert made.plan(larger) == [
        ("file", "/etc/systemd/journald.conf.d/70-pifleet.conf", "differs"),
        ("unit", "systemd-journald.service", "config_changed"),
        ("unit", "pifleet-logs.service", "config_changed"),
    ]
    (made.root / "etc/pifleet/logs.conf").chmod(0o644)
    assert made.plan()[0] == ("file", "/etc/pifleet/logs.conf", "mode")


def test_without_an_address_it_goes(tmp_path: Path) -> None:
    nothing = shipper.Wanted("")
    assert Made(tmp_path / "fresh").plan(nothing) == []
    made = Made(tmp_path / "made", packages=shipper.PACKAGES)
    made.converge()
    assert made.plan(nothing) == [
        ("unit", "pifleet-logs.service", "unwanted"),
        ("file", "/etc/pifleet/logs.conf", "unwanted"),
        ("file", "/etc/systemd/system/pifleet-logs.service", "unwanted"),
        ("file", "/etc/systemd/journald.conf.d/70-pifleet.conf", "unwanted"),
        ("unit", "systemd-journald.service", "config_changed"),
    ]


def test_settings_are_written_while_the_shipper_is_stopped(tmp_path: Path) -> None:
    """Killed in between, the next run finds one that does not run."""
    made = Made(tmp_path, packages=shipper.PACKAGES)
    made.converge()
    other = shipper.Wanted("http://10.43.0.31:3101", WANTED.labels)
    shipper.carry_out(made.node, None, shipper.make_plan(made.node, other))  # type: ignore[arg-type]
    words = [" ".join(call) for call in made.calls if "is-active" not in call]
    assert words[0] == "systemctl stop pifleet-logs.service"
    assert words[-1] == "systemctl restart pifleet-logs.service"
    assert made.plan(other) == []


def test_a_node_with_rsyslog_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PifleetError, match="The node has rsyslog, which Debian does not install beside syslog-ng"):
        Made(tmp_path, packages=("rsyslog",)).plan()


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (shipper.Wanted("loki:3100"), "is no address of a Loki"),
        (shipper.Wanted("http://loki?x=1"), "is no address of a Loki"),
        (shipper.Wanted("http://loki", buffer_mb=7), "buffer_mb is 7"),
        (shipper.Wanted("http://loki", (("Node", "a"),)), "The label Node"),
        (shipper.Wanted("http://loki", (("node", 'a" b="c'),)), "The label node"),
        (shipper.Wanted("http://loki", (("node", "$(echo)"),)), "The label node"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, wanted: shipper.Wanted, says: str) -> None:
    with pytest.raises(PifleetError, match=says):
        Made(tmp_path).plan(wanted)


def test_a_password_in_the_address_is_in_no_diff(tmp_path: Path) -> None:
    steps = shipper.make_plan(Made(tmp_path).node, shipper.Wanted("https://me:hunter2hunter2@loki.example.org"))
    shown = " ".join(step.change.before + step.change.after for step in steps)
    assert "hunter2" not in shown
    (config,) = [step for step in steps if step.change.target == shipper.CONFIG]
    assert config.mode == 0o600
    assert "hunter2hunter2" in str(config.content)


def test_the_settings_name_what_was_asked_for() -> None:
    text = shipper.config(shipper.Wanted("http://10.43.0.31:3100/", (("node", "pi-1"),), pods=False))
    assert 'url("http://10.43.0.31:3100/loki/api/v1/push")' in text
    assert 'node="pi-1"' in text
    assert "flags(flow-control)" in text
    assert "/var/log/pods" not in text
    assert "/var/log/pods" in shipper.config(WANTED)
