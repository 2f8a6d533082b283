# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes that cannot work: one clear error each, with what to do, and nothing changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.fleet import Fleet

from .conftest import PLAY

Shell = Callable[[str], str]
Module = Callable[..., dict[str, Any]]


@contextmanager
def broken(sh: Shell, break_it: str, mend_it: str) -> Iterator[None]:
    sh(break_it)
    try:
        yield
    finally:
        sh(mend_it)


@pytest.mark.parametrize("flags", [(), ("--check",)])
@pytest.mark.parametrize(
    ("break_it", "mend_it", "said"),
    [
        (
            "printf '%s\\n' ID=debian VERSION_ID=11 'PRETTY_NAME=\"Debian GNU/Linux 11 (bullseye)\"' >/run/old; "
            "mount --bind /run/old /etc/os-release",
            "umount /etc/os-release",
            ("Debian GNU/Linux 11 (bullseye)", "not supported", "Raspberry Pi OS bookworm and trixie"),
        ),
        (
            "ip route save default >/run/route; ip route del default",
            "ip route restore </run/route",
            ("no default route", "Give it a gateway"),
        ),
    ],
)
def test_a_node_that_cannot_work_is_refused(
    converged: Fleet, sh: Shell, flags: tuple[str, ...], break_it: str, mend_it: str, said: tuple[str, ...]
) -> None:
    sh("sysctl -qw net.ipv4.ip_forward=0")
    with broken(sh, break_it, f"{mend_it}; sysctl -qw net.ipv4.ip_forward=1"):
        run = converged.play(*flags, playbook=PLAY).require(2)
        (failure,) = run.failures
        for words in said:
            assert words in failure["msg"]
        assert sh("sysctl -n net.ipv4.ip_forward").strip() == "0", "nothing was changed"


@pytest.mark.parametrize("check", [False, True])
def test_a_read_only_folder_is_refused_before_anything(converged: Fleet, sh: Shell, base_os: Module, check: bool) -> None:
    with broken(sh, "mount --bind /etc/sysctl.d /etc/sysctl.d; mount -o remount,bind,ro /etc/sysctl.d", "umount /etc/sysctl.d"):
        result = base_os(check=check, hostname="other", sysctls={"net.ipv4.ip_forward": 1, "net.ipv4.ip_default_ttl": 65})
    assert "/etc/sysctl.d/90-pifleet.conf has to be changed and lies on a read-only file system. Nothing was changed." in result["msg"]
    assert sh("hostname; sysctl -n net.ipv4.ip_default_ttl").split() == ["fresh-pi", "64"]


@pytest.mark.parametrize("check", [False, True])
def test_a_full_disk_is_refused_before_anything(converged: Fleet, sh: Shell, base_os: Module, check: bool) -> None:
    folder = "/etc/systemd/journald.conf.d"
    full = f"mount -t tmpfs -o size=1m tmpfs {folder}; dd if=/dev/zero of={folder}/fill bs=1k 2>/dev/null || true"
    with broken(sh, full, f"umount {folder}"):
        result = base_os(check=check, hostname="other", journal_max_use="100M")
    assert "The disk is full: 0 MB free for /etc/systemd/journald.conf.d/90-pifleet.conf" in result["msg"]
    assert sh("hostname").strip() == "fresh-pi"


def test_a_clock_wrong_by_a_day_is_refused(converged: Fleet, base_os: Module) -> None:
    behind = base_os(clock_reference=time.time() + 86400)
    assert "behind the controller's" in behind["msg"]
    assert base_os(clock_reference=time.time())["changed"] is False


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ('{"base_os_sysctls": {"../etc": 1}}', "base_os_sysctls"),
        ('{"base_os_swap_policy": "sometimes"}', "base_os_swap_policy"),
        ('{"base_os_packages": "curl and more", "base_os_kernel_modules": {}}', "base_os_kernel_modules"),
    ],
)
def test_a_wrong_variable_is_named(converged: Fleet, variables: str, said: str) -> None:
    run = converged.play("-e", variables, playbook=PLAY).require(2)
    assert said in run.failures[0]["msg"] + run.output
    assert "Traceback" not in run.output


def test_a_value_the_kernel_refuses_is_named(converged: Fleet, base_os: Module, sh: Shell) -> None:
    result = base_os(sysctls={"net.ipv4.ip_forward": 1, "net.ipv4.ip_default_ttl": "many"})
    assert "sysctl net.ipv4.ip_default_ttl cannot be changed" in result["msg"]
    assert "The kernel refuses the value." in result["msg"]
    converged.play(playbook=PLAY).require()


def test_without_root_rights_the_facts_say_what_is_missing(converged: Fleet) -> None:
    run = converged.play("-e", "ansible_become=false", playbook=PLAY)
    assert run.rc == 2
    assert "Traceback" not in run.output
