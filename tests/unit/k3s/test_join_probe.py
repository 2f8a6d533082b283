# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from a node: texts of systemd, journal, /proc and k3s's configuration."""

from __future__ import annotations

import hashlib
import json

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import join_probe as probe

SECRET = "f00dfeedf00dfeed"


def test_a_unit_of_systemctl_show() -> None:
    unit = probe.parse_unit(
        "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\nNRestarts=12\nJob=431\nMainPID=0\n"
        "InvocationID=5f3c\nControlGroup=/system.slice/k3s-agent.service\n"
    )
    assert (unit.load, unit.active, unit.sub, unit.result) == ("loaded", "activating", "auto-restart", "exit-code")
    assert (unit.n_restarts, unit.job, unit.main_pid, unit.invocation) == (12, True, 0, "5f3c")
    assert unit.control_group == "/system.slice/k3s-agent.service"


@pytest.mark.parametrize("job", ["Job=0", "Job=", ""])
def test_a_unit_without_a_job(job: str) -> None:
    assert not probe.parse_unit(f"LoadState=loaded\n{job}\n").job


def test_journal_lines_belong_to_their_start_and_are_scrubbed() -> None:
    rows = [
        {"MESSAGE": f"token is {SECRET}", "_SYSTEMD_INVOCATION_ID": "b"},
        {"MESSAGE": "Started k3s-agent.service", "INVOCATION_ID": "b", "_SYSTEMD_INVOCATION_ID": "of-init"},
        {"MESSAGE": [0xC3, 0xA9, 0xFF], "_SYSTEMD_INVOCATION_ID": "b"},
        {"MESSAGE": f"K10{'ab' * 32}::server:whatever-it-is", "_SYSTEMD_INVOCATION_ID": "c"},
        {"MESSAGE": None},
    ]
    lines = probe.parse_journal("\n".join(map(json.dumps, rows)) + "\n-- No entries --\n", [SECRET])
    assert [line.invocation for line in lines] == ["b", "b", "b", "c", ""]
    assert lines[0].text == "token is ********"
    assert lines[2].text == "é\ufffd"
    assert "whatever-it-is" not in lines[3].text


def test_settings_are_found_in_files_and_environment_and_later_files_win() -> None:
    found = probe.parse_settings(
        ['server: "https://a:6443"\n# server: x\ntls-san:\n  - server: no\nhttps-listen-port: 7443\n', "server: 'https://b:6443'\n"],
        f"K3S_TOKEN='{SECRET}'\nK3S_URL=https://c:6443\nHTTP_PROXY=http://p\n",
    )
    assert found == {"server": "https://b:6443", "https-listen-port": "7443", "token": SECRET}


TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0
   1: 0100007F:192C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 112 1 0 100 0 0 10 0
   2: 0100007F:280A 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 113 1 0 100 0 0 10 0
"""
TCP6 = """  sl  local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode
   0: 00000000000000000000000000000000:192B 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 211 1 0 100 0 0 10 0
"""


def test_listening_ports_with_their_sockets() -> None:
    assert probe.listening((TCP, TCP6), (6443, 6444, 10250)) == {6443: ("111", "211"), 6444: ("112",)}


ROUTE_HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "expected"),
    [
        (ROUTE_HEAD + "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "", True),
        (ROUTE_HEAD + "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n", "", False),
        (ROUTE_HEAD + "eth0\t00000000\t010011AC\t0002\t0\t0\t0\t00000000\t0\t0\t0\n", "", False),
        ("", f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}1 00000400 00000001 00000000 00000003     eth0\n", True),
        ("", f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200       lo\n", False),
        ("", "", False),
    ],
)
def test_default_route(ipv4: str, ipv6: str, expected: bool) -> None:
    assert probe.has_default_route(ipv4, ipv6) is expected


@pytest.mark.parametrize(
    ("unified", "own", "expected"),
    [
        ("cpuset cpu io memory pids\n", "0::/system.slice/ssh.service\n", True),
        ("cpuset cpu io pids\n", "0::/\n", False),
        (None, "4:memory:/user.slice\n1:name=systemd:/\n", True),
        (None, "4:cpu,cpuacct:/\n1:name=systemd:/memory\n", False),
    ],
)
def test_memory_cgroup(unified: str | None, own: str, expected: bool) -> None:
    assert probe.has_memory_cgroup(unified, own) is expected


def test_the_ca_hash_is_that_of_the_token_for_one_certificate_and_unknown_for_a_bundle() -> None:
    one = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    assert probe.ca_hash(one) == hashlib.sha256(one).hexdigest()
    assert probe.ca_hash(one + one) == ""
    assert probe.ca_hash(b"<html>") == ""
