# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of nodes of each kind, and of k3s in each state, from files as those nodes have them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._base_os import parse
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.facts import cgroup_facts, collect, container_kind, has_default_route
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.host import Address
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.k3s_facts import collect_k3s, ports_in_use
from ansible_collections.pifleet.ops.plugins.module_utils._common.hardware import Hardware

from .fake_host import FakeHost

ROUTE = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
WLAN = "wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
ETH = "eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
REJECTED = "*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n"
LOCAL_NET = "eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
ROUTE6 = f"{'0' * 32} 00 {'0' * 32} 00 fe80000000000000 00000400 00000001 00000000 00000003     eth0\n"
ROUTE6_REJECTED = f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200       lo\n"


def pi5(**changes: str) -> FakeHost:
    """A Raspberry Pi 5 with Raspberry Pi OS trixie, both network interfaces up in one network."""
    files = {
        "/proc/sys/kernel/hostname": "pi-cluster-1\n",
        "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "/proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555\n",
        "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_ID="13"\nVERSION_CODENAME=trixie\nID=debian\n',
        "/etc/rpi-issue": "Raspberry Pi reference 2025-10-01\n",
        "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "/proc/meminfo": "MemTotal:        8256912 kB\nMemFree: 100 kB\nSwapTotal:       2097136 kB\n",
        "/sys/devices/system/cpu/online": "0-3\n",
        "/proc/net/route": ROUTE + WLAN + ETH + LOCAL_NET,
        "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
        # What the firmware puts in front comes first, and the file's words win.
        "/proc/cmdline": "coherent_pool=1M cgroup_disable=memory console=tty1 cgroup_memory=1 cgroup_enable=memory\n",
        "/boot/firmware/cmdline.txt": "console=tty1 root=PARTUUID=1-02 rootwait cgroup_memory=1 cgroup_enable=memory\n",
        "/proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 2097136 0 100\n",
        "/run/systemd/system/.keep": "",
        "/sys/class/net/eth0/address": "d8:3a:dd:00:00:01\n",
        "/etc/systemd/system/sysinit.target.wants/systemd-timesyncd.service": "",
    }
    return FakeHost(
        files={**files, **changes},
        page=16384,
        board=Hardware("d04170", 0x50004, 48.312, {"nvme0n1": 0.03}, {"mmcblk0": 1000, "sda": 3072}, {"mmcblk0": 2000}, {"mmcblk0p2": 1}),
        known_addresses=(
            Address("lo", 2, "127.0.0.1", 8, 254, False),
            Address("eth0", 2, "192.168.0.250", 32, 0, False),
            Address("eth0", 2, "192.168.0.11", 24, 0, False),
            Address("eth0", 2, "192.168.0.12", 24, 0, True),
            Address("wlan0", 2, "192.168.0.111", 24, 0, False),
            Address("eth0", 10, "fe80::1", 64, 253, False),
            Address("eth0", 10, "2001:db8::11", 64, 0, False),
            Address("eth0", 10, "2001:db8::aaaa", 64, 0, True),
        ),
    )


def test_a_pi_5() -> None:
    facts = asdict(collect(pi5(), "3.13.5"))
    k3s = facts.pop("k3s")
    assert facts == {
        "hostname": "pi-cluster-1",
        "machine_id": "0123456789abcdef0123456789abcdef",
        "boot_id": "11111111-2222-3333-4444-555555555555",
        "os": {
            "id": "debian",
            "version_id": "13",
            "codename": "trixie",
            "pretty": "Debian GNU/Linux 13 (trixie)",
            "raspberry_pi_os": True,
        },
        "machine": "aarch64",
        "arch": "arm64",
        "model": "Raspberry Pi 5 Model B Rev 1.0",
        "revision": "d04170",
        "boot_path": "/boot/firmware",
        "throttled": {"now": ("throttled",), "since_boot": ("undervoltage", "throttled")},
        "temperature": 48.312,
        "storage": {
            "mmcblk0": {"size_bytes": 2000, "written_bytes": 1000, "wear": None},
            "nvme0n1": {"size_bytes": None, "written_bytes": None, "wear": 0.03},
            "sda": {"size_bytes": None, "written_bytes": 3072, "wear": None},
        },
        "memory_mb": 8063,
        "cpus": 4,
        "page_size": 16384,
        "container": False,
        "container_kind": "",
        "python": "3.13.5",
        "default_route": True,
        "address": "192.168.0.11",
        "addresses": ("192.168.0.250", "192.168.0.11", "192.168.0.12", "192.168.0.111", "2001:db8::11"),
        "interfaces": (
            {
                "name": "eth0",
                "mac": "d8:3a:dd:00:00:01",
                "addresses": ("192.168.0.250/32", "192.168.0.11/24", "192.168.0.12/24", "2001:db8::11/64"),
            },
            {"name": "wlan0", "mac": "", "addresses": ("192.168.0.111/24",)},
        ),
        "cgroup": {
            "version": 2,
            "controllers": ("cpuset", "cpu", "io", "memory", "pids"),
            "memory": True,
            "booted_with_memory": True,
            "cmdline_path": "/boot/firmware/cmdline.txt",
            "cmdline_has_memory": True,
        },
        "clock": {"epoch": 1_760_000_000.0, "synchronised": True, "service": "systemd-timesyncd.service"},
        "swap": {"total_mb": 2047, "kinds": ("zram",)},
        "disk": {"/": {"total_mb": 30_000, "free_mb": 20_000}, "/var/lib/rancher/k3s": {"total_mb": 30_000, "free_mb": 20_000}},
        "init": True,
        "stacks": False,
    }
    assert k3s == {
        "role": None,
        "unit": "",
        "unit_state": None,
        "version": "",
        "binary_sha256": None,
        "images_sha256": None,
        "data_dir": "/var/lib/rancher/k3s",
        "datastore": None,
        "agent_data": False,
        "config_present": False,
        "node_name": "",
        "node_password": False,
        "token": False,
        "ports_in_use": {},
    }


def test_nothing_is_known_of_an_empty_root_and_nothing_breaks() -> None:
    facts = collect(FakeHost(), "3.11.2")
    assert (facts.address, facts.default_route, facts.cgroup.memory, facts.memory_mb) == ("", False, False, 0)
    assert (facts.model, facts.revision, facts.boot_path, facts.throttled, facts.temperature, facts.storage) == (None,) * 6


@pytest.mark.parametrize(
    ("machine", "arch"),
    [("x86_64", "amd64"), ("aarch64", "arm64"), ("armv7l", "arm"), ("armv8l", "arm"), ("armv6l", ""), ("riscv64", ""), ("i686", "")],
)
def test_architectures(machine: str, arch: str) -> None:
    assert parse.architecture(machine) == arch


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({}, ""),
        ({"/run/systemd/container": "docker\n"}, "docker"),
        ({"/proc/1/environ": "TERM=xterm\0container=lxc\0"}, "lxc"),
        ({"/proc/1/environ": "xcontainer=lxc\0container=\0"}, ""),
        ({"/.dockerenv": ""}, "docker"),
        ({"/run/.containerenv": ""}, "podman"),
    ],
)
def test_containers_are_recognised(files: dict[str, str], kind: str) -> None:
    assert container_kind(FakeHost(files)) == kind


@pytest.mark.parametrize(
    ("route", "route6", "expected"),
    [
        (ROUTE + ETH, "", True),
        (ROUTE + LOCAL_NET, "", False),
        (ROUTE + REJECTED, ROUTE6_REJECTED, False),
        (ROUTE, ROUTE6, True),
        (ROUTE, ROUTE6_REJECTED, False),
    ],
)
def test_default_route(route: str, route6: str, expected: bool) -> None:
    assert has_default_route(FakeHost({"/proc/net/route": route, "/proc/net/ipv6_route": route6})) is expected


def test_the_route_with_the_lowest_metric_gives_the_address() -> None:
    assert collect(pi5(), "3").address == "192.168.0.11"
    assert collect(pi5(**{"/proc/net/route": ROUTE + WLAN}), "3").address == "192.168.0.111"


@pytest.mark.parametrize(
    ("files", "version", "memory"),
    [
        # Linux 6.12 on a Pi 5: works, though /proc/cgroups does not list it (raspberrypi/linux#6980).
        ({"/sys/fs/cgroup/cgroup.controllers": "cpu io memory pids\n", "/proc/cgroups": "cpu\t0\t70\t1\n"}, 2, True),
        # What a Pi has as delivered.
        ({"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n", "/proc/cgroups": "memory\t0\t70\t0\n"}, 2, False),
        ({"/proc/cgroups": "memory\t7\t70\t1\n", "/sys/fs/cgroup/memory/tasks": ""}, 1, True),
        ({"/proc/cgroups": "memory\t0\t1\t0\n", "/sys/fs/cgroup/memory/tasks": ""}, 1, False),
        ({"/proc/cgroups": "memory\t7\t70\t1\n"}, 1, False),
    ],
)
def test_effective_memory_controller(files: dict[str, str], version: int, memory: bool) -> None:
    facts = cgroup_facts(FakeHost(files))
    assert (facts.version, facts.memory) == (version, memory)


# --------------------------------------------------------------------------------------------------------------- k3s
SERVER_UNIT = "[Service]\nType=notify\nExecStart=/usr/local/bin/k3s \\\n    server\n"
AGENT_UNIT = "[Service]\nExecStart=/usr/local/bin/k3s agent\n"
SHOWN = {"ActiveState": "active", "SubState": "running", "UnitFileState": "enabled", "MainPID": "700", "NRestarts": "2"}
STAMP: dict[str, Any] = {"version": "v1.34.4+k3s1", "binary": {"path": "/usr/local/bin/k3s", "sha256": "ab" * 32, "size": 6, "mtime_ns": 1}}


def with_k3s(**changes: str) -> FakeHost:
    """A running server as k3s_install leaves it."""
    files = {
        "/etc/systemd/system/k3s.service": SERVER_UNIT,
        "/etc/rancher/k3s/config.yaml": 'token: very-secret-token\nnode-name: "pi-cluster-1.local"  # the inventory\'s\n',
        "/usr/local/bin/k3s": "binary",
        "/var/lib/pifleet/k3s.json": json.dumps(STAMP),
        "/var/lib/rancher/k3s/server/db/state.db": "",
        "/var/lib/rancher/k3s/agent/client-kubelet.crt": "",
    }
    return FakeHost(files={**files, **changes}, units={"k3s.service": SHOWN, "k3s-agent.service": SHOWN})


def test_a_running_server() -> None:
    host = with_k3s()
    found = collect_k3s(host)
    assert (found.role, found.unit, found.version, found.binary_sha256) == ("server", "k3s.service", "v1.34.4+k3s1", "ab" * 32)
    assert (found.datastore, found.agent_data, found.config_present, found.node_name) == ("sqlite", True, True, "pi-cluster-1.local")
    assert found.unit_state is not None
    assert (found.unit_state.main_pid, found.unit_state.n_restarts) == (700, 2)
    assert (host.hashed, host.versions_asked) == ([], []), "the stamp is enough: neither hashed nor started"
    assert "very-secret-token" not in json.dumps(asdict(found))


def test_images_are_those_recorded_as_long_as_the_archive_is_the_same() -> None:
    recorded = {"path": "/images.tar.zst", "sha256": "cd" * 32, "size": 6, "mtime_ns": STAMP["binary"]["mtime_ns"]}
    stamp = {"/var/lib/pifleet/k3s.json": json.dumps({**STAMP, "images": recorded})}
    assert collect_k3s(with_k3s(**stamp, **{"/images.tar.zst": "images"})).images_sha256 == "cd" * 32
    assert collect_k3s(with_k3s(**stamp, **{"/images.tar.zst": "others of another size"})).images_sha256 is None
    assert collect_k3s(with_k3s(**stamp)).images_sha256 is None


@pytest.mark.parametrize(
    "stamp",
    [
        "",
        "{",
        "[]",
        '{"binary": 3}',
        json.dumps({**STAMP, "binary": {**STAMP["binary"], "size": 7}}),
        json.dumps({**STAMP, "binary": {**STAMP["binary"], "mtime_ns": 2}}),
        json.dumps({**STAMP, "version": ""}),
    ],
)
def test_without_a_fitting_stamp_the_binary_itself_is_asked(stamp: str) -> None:
    host = with_k3s(**{"/var/lib/pifleet/k3s.json": stamp})
    host.version_line = "k3s version v1.33.1+k3s1 (12345678)"
    found = collect_k3s(host)
    assert found.version == "v1.33.1+k3s1"
    assert host.hashed == ["/usr/local/bin/k3s"]


def test_a_binary_that_does_not_run_has_a_hash_and_no_version() -> None:
    host = with_k3s(**{"/var/lib/pifleet/k3s.json": ""})
    assert collect_k3s(host).version == ""
    assert collect_k3s(host).binary_sha256 is not None


def test_no_binary_has_neither() -> None:
    host = with_k3s()
    del host.files["/usr/local/bin/k3s"]
    assert (collect_k3s(host).version, collect_k3s(host).binary_sha256) == ("", None)


def test_a_node_that_changed_its_role_has_the_enabled_one() -> None:
    host = with_k3s(**{"/etc/systemd/system/k3s-agent.service": AGENT_UNIT})
    host.links["/etc/systemd/system/multi-user.target.wants/k3s-agent.service"] = "/etc/systemd/system/k3s-agent.service"
    assert (collect_k3s(host).role, collect_k3s(host).unit) == ("agent", "k3s-agent.service")


def test_data_dir_comes_from_the_option_or_the_config() -> None:
    config = {"/etc/rancher/k3s/config.yaml": "data-dir: /srv/k3s\n"}
    host = with_k3s(**config, **{"/srv/k3s/server/db/etcd/member/snap/db": ""})
    assert (collect_k3s(host).data_dir, collect_k3s(host).datastore) == ("/srv/k3s", "etcd")
    assert collect_k3s(host, data_dir="/mnt/x").datastore is None


ENDPOINT = 'datastore-endpoint: "mysql://user:p#ss\\"word@tcp(192.0.2.9:3306)/k3s"\n'


@pytest.mark.parametrize(
    ("config", "files", "datastore"),
    [
        (ENDPOINT, ("token",), "external"),
        ("node-name: a\ndatastore-endpoint: http://192.0.2.9:2379\n", ("token", "db/state.db"), "external"),
        (ENDPOINT, (), None),  # it never came up, or has a new card
        (ENDPOINT, ("db/state.db",), None),
        (ENDPOINT, ("token", "db/etcd/member/snap/db"), "etcd"),  # k3s looks at the disk first
        ("# " + ENDPOINT, ("token", "db/state.db"), "sqlite"),
        ('datastore-endpoint: ""\n', ("token", "db/state.db"), "sqlite"),
        ("datastore-endpoint:\nx: y\n", ("token",), None),
    ],
)
def test_an_external_datastore_is_that_of_a_server_that_came_up_with_it(config: str, files: tuple[str, ...], datastore: str | None) -> None:
    host = with_k3s(**{"/etc/rancher/k3s/config.yaml": config})
    del host.files["/var/lib/rancher/k3s/server/db/state.db"]
    host.files.update({f"/var/lib/rancher/k3s/server/{name}": "" for name in files})
    assert collect_k3s(host).datastore == datastore
    assert "word@tcp" not in json.dumps(asdict(collect_k3s(host)))


@pytest.mark.parametrize(
    ("config", "value"),
    [
        ("node-name: a\n", "a"),
        ("node-name: 'a b' # why\n", "a b"),
        ("x: 1\nnode-name:   a   \n", "a"),
        ("  node-name: nested\n", ""),
        ("node-name-x: no\n", ""),
        ("# node-name: no\n", ""),
        ("node-name:\n- list\n", ""),
    ],
)
def test_config_values(config: str, value: str) -> None:
    assert parse.config_value(config, "node-name") == value


@pytest.mark.parametrize(
    ("unit", "role"),
    [
        (SERVER_UNIT, "server"),
        (AGENT_UNIT, "agent"),
        ("ExecStart=/usr/local/bin/k3s '--debug' 'server'\n", "server"),
        ("ExecStart=/bin/true\n", None),
        ("", None),
    ],
)
def test_role_of_a_unit(unit: str, role: str | None) -> None:
    assert parse.k3s_role(unit) == role


TCP_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def tcp(port: int, inode: int, state: str = "0A") -> str:
    return (
        f"   0: 00000000:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100 0 0 10 0\n"
    )


def test_a_foreign_process_on_a_port_of_k3s_is_named() -> None:
    host = FakeHost(
        files={
            "/proc/net/tcp": TCP_HEAD + tcp(6443, 501) + tcp(2380, 503, "01"),
            "/proc/net/tcp6": TCP_HEAD + tcp(10250, 502) + tcp(8080, 504),
            "/proc/812/comm": "nginx\n",
            "/proc/812/cgroup": "0::/system.slice/nginx.service\n",
        },
        links={"/proc/812/fd/3": "socket:[501]", "/proc/812/fd/4": "/dev/null"},
    )
    assert ports_in_use(host, (2380, 6443, 10250)) == {"6443": "nginx (812)", "10250": "unknown process"}


@pytest.mark.parametrize(
    ("comm", "cgroup"),
    [
        ("k3s-server\n", "0::/\n"),
        ("kube-apiserver\n", "0::/system.slice/k3s.service\n"),
        ("kubelet\n", "1:name=systemd:/x/k3s-agent.service\n"),
    ],
)
def test_k3s_and_its_children_are_no_foreign_process(comm: str, cgroup: str) -> None:
    host = FakeHost(
        files={"/proc/net/tcp": TCP_HEAD + tcp(6443, 501), "/proc/700/comm": comm, "/proc/700/cgroup": cgroup},
        links={"/proc/700/fd/3": "socket:[501]"},
    )
    assert ports_in_use(host, (6443,)) == {}
