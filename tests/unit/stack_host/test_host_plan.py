# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node needs to run stacks, decided from its files: on folders that look like nodes, and carried out with recorded commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import engine, host_plan, places, units
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.engine import Origin
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.host_apply import HostApplier
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.host_plan import File, Pool, Wanted
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.node import Node

from .fake_node import FakeClock, FakeNode, Killed, fresh
from .keys import FINGERPRINT, KEY

POOL = (Pool("10.213.0.0/16", 24),)


def plan(node: FakeNode, wanted: Wanted) -> list[tuple[str, str, str]]:
    """(kind, target, reason) of each change."""
    return [(c.kind, c.target, c.reason) for c in host_plan.make_plan(Node(str(node.root), node), wanted).changes]


def carry_out(node: FakeNode, wanted: Wanted, sent: Mapping[str, str] | None = None, fetch: Callable[[str], str] = lambda _: KEY) -> None:
    found = host_plan.make_plan(Node(str(node.root), node), wanted)
    HostApplier(str(node.root), node, FakeClock(), 10.0, sent or {}, fetch).carry_out(found, wanted.origin.fingerprint)


def unattended(root: Path, interval: int = 120) -> tuple[Wanted, dict[str, str]]:
    """A node with a timer, and the program as the controller sent it."""
    program = root / "sent-program"
    program.write_text("program")
    digest = Node("/").sha256(str(program)) or ""
    return Wanted(pools=POOL, unattended=units.files(digest, '{"settings": 1}\n', interval), timer=True), {"program": str(program)}


# ------------------------------------------------------------------------------------------------------------ where from
@pytest.mark.parametrize(
    ("release", "prefer", "packages", "source"),
    [
        ("trixie", "auto", ["docker.io", "docker-cli", "docker-compose"], ""),
        ("raspbian-13", "auto", ["docker.io", "docker-cli", "docker-compose"], ""),
        ("noble", "auto", ["docker.io", "docker-compose-v2"], ""),
        ("bookworm", "auto", ["docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin"], "linux/debian\nSuites: bookworm"),
        ("jammy", "auto", ["docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin"], "linux/ubuntu\nSuites: jammy"),
        ("raspbian-12", "auto", ["docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin"], "linux/raspbian\nSuites: bookw"),
        ("trixie", "docker", ["docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin"], "linux/debian\nSuites: trixie"),
    ],
)
def test_where_docker_comes_from(tmp_path: Path, release: str, prefer: str, packages: list[str], source: str) -> None:
    node = fresh(tmp_path, release)
    wanted = Wanted(origin=Origin(prefer, fingerprint=FINGERPRINT), pools=POOL)
    before = plan(node, wanted)
    assert [target for kind, target, _ in before if kind == "package"] == packages
    assert [kind for kind, _, _ in before if kind in ("key", "file")] == (["key", "file", "file"] if source else ["file"])
    carry_out(node, wanted)
    assert plan(node, wanted) == []
    if source:
        assert source in node.read(engine.SOURCE) and f"Signed-By: {engine.KEY}" in node.read(engine.SOURCE)
    else:
        assert not node.exists(engine.SOURCE)


@pytest.mark.parametrize(
    ("release", "says"), [("bookworm", "Compose 1"), ("jammy", "released without Compose 2"), ("raspbian-12", "Compose 1")]
)
def test_a_distribution_with_an_old_compose_is_refused_with_the_reason(tmp_path: Path, release: str, says: str) -> None:
    node = fresh(tmp_path, release)
    with pytest.raises(PifleetError, match=f"{says}.*stacks_docker_source: docker.*stacks_artifact_dir"):
        plan(node, Wanted(origin=Origin("distribution")))
    assert node.commands == []


def test_an_unknown_distribution_is_refused_only_where_something_is_missing(tmp_path: Path) -> None:
    node = fresh(tmp_path)
    node.write("/etc/os-release", 'ID=fedora\nVERSION_ID=42\nPRETTY_NAME="Fedora 42"\n')
    with pytest.raises(PifleetError, match=r"Fedora 42.*Supported are"):
        plan(node, Wanted())
    for name in ("docker.io", "docker-compose"):
        node.install(name)
    assert [kind for kind, _, _ in plan(node, Wanted())] == ["unit"]


def test_an_engine_that_is_there_stays_and_gets_its_compose(tmp_path: Path) -> None:
    node = fresh(tmp_path, "bookworm")
    node.install("docker.io", "20.10.24")
    wanted = Wanted(origin=Origin(fingerprint=FINGERPRINT))
    assert [target for kind, target, _ in plan(node, wanted) if kind == "package"] == ["docker-compose-plugin"]

    other = fresh(tmp_path / "other", "trixie")
    other.install("docker-ce", "27.0")
    other.install("docker-ce-cli", "27.0")
    other.install("docker-compose-plugin", "2.19.1-1")
    assert ("package", "docker-compose-plugin", "too_old") in plan(other, Wanted())
    assert all(kind not in ("key", "file") for kind, _, _ in plan(other, Wanted())), "its own source is used"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.26.1-4", (2, 26, 1)),
        ("2.24.6+ds1-0ubuntu1~24.04.1", (2, 24, 6)),
        ("v2.20.0", (2, 20, 0)),
        ("1:5.0", (5, 0)),
        ("dev", (0,)),
        ("", (0,)),
    ],
)
def test_versions(text: str, version: tuple[int, ...]) -> None:
    assert engine.parse_version(text) == version


def test_a_compose_without_a_package_is_asked(tmp_path: Path) -> None:
    node = fresh(tmp_path)
    node.install("docker.io")
    node.write(engine.PLUGINS[0])
    node.packages.pop("docker-compose", None)
    assert [target for kind, target, _ in plan(node, Wanted()) if kind == "package"] == ["docker-compose"]
    assert node.commands == ["docker compose version --short"]


def test_files_of_the_controller_come_first(tmp_path: Path) -> None:
    debs = ("docker-ce_27.0_arm64.deb", "docker-ce-cli_27.0_arm64.deb", "docker-compose-plugin_2.40_arm64.deb", "docker-ce_27.0_amd64.deb")
    wanted = Wanted(origin=Origin(debs=(*debs, "iptables_1.8_all.deb")))
    node = fresh(tmp_path, "bookworm")
    found = host_plan.make_plan(Node(str(tmp_path), node), wanted)
    assert found.debs == (
        "docker-ce-cli_27.0_arm64.deb",
        "docker-ce_27.0_arm64.deb",
        "docker-compose-plugin_2.40_arm64.deb",
        "iptables_1.8_all.deb",
    )
    carry_out(node, wanted, {name: f"/tmp/x/{n}-{name}" for n, name in enumerate(found.debs)})
    assert "/tmp/x/1-docker-ce_27.0_arm64.deb" in node.commands[0]


@pytest.mark.parametrize(
    ("debs", "says"), [(("docker-ce_1_amd64.deb",), "Docker Engine.*Compose 2"), (("docker-ce_1_arm64.deb",), "arm64 of Compose 2")]
)
def test_a_folder_without_what_is_needed(tmp_path: Path, debs: tuple[str, ...], says: str) -> None:
    with pytest.raises(PifleetError, match=says):
        plan(fresh(tmp_path), Wanted(origin=Origin(debs=debs)))


def test_sops_comes_from_there_too(tmp_path: Path) -> None:
    node = fresh(tmp_path)
    for name in ("docker.io", "docker-compose"):
        node.install(name)
    wanted = Wanted(origin=Origin(debs=("sops_3.10.2_arm64.deb", "sops_3.10.2_amd64.deb")))
    assert [target for kind, target, _ in plan(node, wanted) if kind == "package"] == ["sops"]
    node.install("sops", "3.10.2")
    assert [target for kind, target, _ in plan(node, wanted) if kind == "package"] == []


# ------------------------------------------------------------------------------------------------------------------- key
def test_a_key_with_another_fingerprint_is_not_trusted(tmp_path: Path) -> None:
    node = fresh(tmp_path, "bookworm")
    with pytest.raises(PifleetError, match=f"has the fingerprint {FINGERPRINT}, not 9DC8.*it is not trusted"):
        carry_out(node, Wanted())
    assert not node.exists(engine.KEY)
    assert node.commands == []


def test_no_key_there(tmp_path: Path) -> None:
    def nobody(_url: str) -> str:
        raise OSError("Connection refused")

    with pytest.raises(PifleetError, match=r"download\.docker\.com/linux/debian/gpg: Connection refused.*stacks_artifact_dir"):
        carry_out(fresh(tmp_path, "bookworm"), Wanted(), fetch=nobody)
    with pytest.raises(PifleetError, match="is not the key of Docker's packages"):
        carry_out(fresh(tmp_path / "b", "bookworm"), Wanted(), fetch=lambda _: "<html>login</html>")


# ----------------------------------------------------------------------------------------------------------- daemon.json
def ready(root: Path) -> FakeNode:
    """A node with Docker that runs."""
    node = fresh(root)
    for name in ("docker.io", "docker-cli", "docker-compose"):
        node.install(name)
    node.write("/etc/systemd/system/multi-user.target.wants/docker.service")
    node.write("/sys/fs/cgroup/system.slice/docker.service/cgroup.procs")
    return node


def test_only_our_keys_of_daemon_json_are_set(tmp_path: Path) -> None:
    node = ready(tmp_path)
    node.write(places.DAEMON, '{"log-driver": "journald", "default-address-pools": [], "data-root": "/srv"}', 0o600)
    wanted = Wanted(pools=POOL, daemon={"live-restore": True})
    assert plan(node, wanted) == [("file", places.DAEMON, "differs"), ("unit", "docker.service", "config_changed")]
    carry_out(node, wanted)
    assert json.loads(node.read(places.DAEMON)) == {
        "log-driver": "journald",
        "data-root": "/srv",
        "live-restore": True,
        "default-address-pools": [{"base": "10.213.0.0/16", "size": 24}],
    }
    assert (tmp_path / "etc/docker/daemon.json").stat().st_mode & 0o777 == 0o600
    assert plan(node, wanted) == []
    assert node.commands == ["systemctl restart docker.service"]


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_daemon_json_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    node = ready(tmp_path)
    node.write(places.DAEMON, text)
    with pytest.raises(PifleetError, match=r"daemon\.json.*Nothing was changed"):
        plan(node, Wanted(pools=POOL))


@pytest.mark.parametrize(
    "pool", [Pool("10.0.0.0/33", 24), Pool("10.1.2.3/16", 24), Pool("home", 24), Pool("10.0.0.0/16", 12), Pool("10.0.0.0/16", 31)]
)
def test_pools_that_cannot_be(tmp_path: Path, pool: Pool) -> None:
    with pytest.raises(PifleetError, match="stacks_address_pools"):
        plan(ready(tmp_path), Wanted(pools=(pool,)))


@pytest.mark.parametrize("before", [None, '{"log-driver": "local"}'])
def test_an_engine_that_does_not_start_with_new_settings_gets_its_old_ones_back(tmp_path: Path, before: str | None) -> None:
    node = ready(tmp_path)
    if before is not None:
        node.write(places.DAEMON, before)
    node.refuses = "restart docker.service"
    with pytest.raises(PifleetError, match=r"does not start with the new settings.*put back, and it runs again.*stacks_docker_config"):
        carry_out(node, Wanted(pools=POOL, daemon={"no-such-key": 1}))
    assert node.exists(places.DAEMON) == (before is not None)
    assert before is None or node.read(places.DAEMON) == before
    assert not [c for c in plan(node, Wanted()) if c[0] == "unit"], "it was restarted already"


def test_a_disk_without_room_is_refused_before_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = fresh(tmp_path)
    monkeypatch.setattr(Node, "free_mb", lambda _self, path: 50 if path == "/var/lib/dpkg" else 1000)
    with pytest.raises(PifleetError, match=r"The disk is full: 50 MB free.*Nothing was changed"):
        plan(node, Wanted())


# ----------------------------------------------------------------------------------------------------------------- timer
def test_the_timer_comes_and_goes(tmp_path: Path) -> None:
    node = ready(tmp_path)
    wanted, sent = unattended(tmp_path)
    carry_out(node, wanted, sent)
    assert plan(node, wanted) == []
    assert (tmp_path / places.SETTINGS.lstrip("/")).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / places.PROGRAM.lstrip("/")).stat().st_mode & 0o777 == 0o755
    assert "OnUnitInactiveSec=120s" in node.read(places.TIMER)
    assert node.commands[-2:] == ["systemctl daemon-reload", "systemctl enable --now pifleet-stacks.timer"]

    off = Wanted(pools=POOL, unattended=wanted.unattended)
    assert plan(node, off)[0] == ("unit", "pifleet-stacks.timer", "unwanted")
    carry_out(node, off)
    assert plan(node, off) == []
    assert not any(node.exists(path) for path in (places.SETTINGS, places.PROGRAM, places.SERVICE, places.TIMER))


def test_only_another_unit_restarts_the_timer(tmp_path: Path) -> None:
    node = ready(tmp_path)
    wanted, sent = unattended(tmp_path)
    carry_out(node, wanted, sent)
    node.write(places.SETTINGS, "edited")
    assert plan(node, wanted) == [("file", places.SETTINGS, "differs")]
    other, _ = unattended(tmp_path, interval=600)
    assert ("unit", "pifleet-stacks.timer", "config_changed") in plan(node, other)


def test_an_interval_that_is_none() -> None:
    with pytest.raises(PifleetError, match="stacks_timer_interval is 3"):
        units.files("", "", 3)


@pytest.mark.parametrize("interval", [10, 120, 86400])
def test_the_first_run_after_a_start_begins_within_thirty_seconds(interval: int) -> None:
    (timer,) = (file.content or "" for file in units.files("", "", interval) if file.path == places.TIMER)
    first, spread = (int(re.search(rf"^{key}=(\d+)s$", timer, re.M)[1]) for key in ("OnActiveSec", "RandomizedDelaySec"))  # type: ignore[index]
    assert first + spread + 1 < 30 and spread <= interval / 5


def test_secrets_are_in_no_diff(tmp_path: Path) -> None:
    node = ready(tmp_path)
    wanted = Wanted(files=(File("/etc/pifleet/age-key.txt", 0o600, "AGE-SECRET-KEY-1QQQQ\n"),))
    changes = host_plan.make_plan(Node(str(tmp_path), node), wanted).changes
    assert [c.target for c in changes] == ["/etc/pifleet/age-key.txt"]
    assert "QQQQ" not in str(changes)


def test_images_are_loaded_once_and_again_when_the_archive_changed(tmp_path: Path) -> None:
    node = ready(tmp_path)
    wanted = Wanted(images={"apps.tar": "100-1"})
    carry_out(node, wanted, {"apps.tar": "/tmp/0-apps.tar"})
    assert node.commands == ["docker load --quiet --input /tmp/0-apps.tar"]
    assert plan(node, wanted) == []
    assert plan(node, Wanted(images={"apps.tar": "100-2"})) == [("images", "apps.tar", "changed")]
    node.write(host_plan.LOADED, "{garbage")
    assert plan(node, wanted) == [("images", "apps.tar", "missing")]


# ------------------------------------------------------------------------------------------------------------------ kill
def test_killed_before_every_command_the_next_run_converges(tmp_path: Path) -> None:
    number = 0
    while True:
        node = fresh(tmp_path / str(number), "bookworm")
        wanted, sent = unattended(tmp_path)
        wanted = replace(wanted, origin=Origin(fingerprint=FINGERPRINT))
        node.kill_at = number
        try:
            carry_out(node, wanted, sent, fetch=lambda _: KEY)
        except Killed:
            node.kill_at = -1
            carry_out(node, wanted, sent)
        else:
            break
        assert plan(node, wanted) == []
        number += 1
    assert number >= 3


def test_a_restart_that_a_kill_prevented_is_made_up_for(tmp_path: Path) -> None:
    node = ready(tmp_path)
    node.kill_at = 0
    with pytest.raises(Killed):
        carry_out(node, Wanted(pools=POOL))
    assert node.exists(places.DAEMON)
    node.kill_at = -1
    assert plan(node, Wanted(pools=POOL)) == [("unit", "docker.service", "interrupted")]
    carry_out(node, Wanted(pools=POOL))
    assert node.commands == ["systemctl restart docker.service"]
    assert plan(node, Wanted(pools=POOL)) == []
