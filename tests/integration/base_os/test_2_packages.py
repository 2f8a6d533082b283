# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages from a source that is built on the node: installed once, repaired after a kill, waited for, and causes named."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fleet import Fleet

from .conftest import NODE, PLAY

Shell = Callable[[str], str]
Module = Callable[..., dict[str, Any]]

# A source without any tool that a node does not have: dpkg-deb builds, and the index is three lines for each package.
SOURCE = r"""
set -eu
rm -rf /srv/source; mkdir -p /srv/source
for name in pifleet-one pifleet-two pifleet-slow; do
  dir=$(mktemp -d); mkdir -p "$dir/DEBIAN"
  printf '%s\n' "Package: $name" 'Version: 1.0' 'Architecture: all' 'Maintainer: Nobody <nobody@localhost>' 'Description: a test' \
    >"$dir/DEBIAN/control"
  if [ "$name" = pifleet-slow ]; then
    printf '#!/bin/sh\n[ -e /srv/quick ] || sleep 300\n' >"$dir/DEBIAN/postinst"; chmod 755 "$dir/DEBIAN/postinst"
  fi
  dpkg-deb --build "$dir" "/srv/source/$name.deb" >/dev/null
  deb=/srv/source/$name.deb
  {
    dpkg-deb --field "$deb"
    printf '%s\n' "Filename: ./$name.deb" "Size: $(stat -c %s "$deb")" "SHA256: $(sha256sum "$deb" | cut -d' ' -f1)" ''
  } >>/srv/source/Packages
done
mkdir -p /srv/sources.old
find /etc/apt/sources.list* -type f ! -name pifleet-test.list -exec mv -t /srv/sources.old {} +
echo 'deb [trusted=yes] file:/srv/source ./' >/etc/apt/sources.list.d/pifleet-test.list
rm -rf /var/lib/apt/lists/*
touch /srv/quick
"""
STATUS = "dpkg-query -W -f '${Status}' %s 2>/dev/null || true"


@pytest.fixture
def source(converged: Fleet, sh: Shell) -> Fleet:
    sh("dpkg --purge pifleet-one pifleet-two pifleet-slow 2>/dev/null || true")
    sh(SOURCE)
    return converged


def kinds(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(change["kind"], change["target"]) for change in result["plan"]]


def test_missing_packages_are_predicted_and_installed_once(source: Fleet, base_os: Module, sh: Shell) -> None:
    wanted = {"packages": ["kmod", "pifleet-one", "pifleet-two"]}
    predicted = base_os(check=True, **wanted)
    assert kinds(predicted) == [("package", "pifleet-one"), ("package", "pifleet-two")]
    assert sh(STATUS % "pifleet-one") == ""
    assert sh("ls /var/lib/apt/lists | wc -l").strip() == "0", "check mode does not even update the lists"
    applied = base_os(**wanted)
    assert (applied["changed"], applied["plan"]) == (True, predicted["plan"])
    assert sh(STATUS % "pifleet-two") == "install ok installed"
    assert base_os(**wanted)["changed"] is False


def test_lists_are_not_updated_without_need(source: Fleet, base_os: Module, sh: Shell) -> None:
    assert base_os(packages=["pifleet-one"])["changed"] is True
    stamp = sh("stat -c %Y.%N /var/lib/apt/lists/partial; ls -l --time-style=full-iso /var/lib/apt/lists")
    assert base_os(packages=["pifleet-two"])["changed"] is True
    assert sh("stat -c %Y.%N /var/lib/apt/lists/partial; ls -l --time-style=full-iso /var/lib/apt/lists") == stamp


def test_a_killed_dpkg_is_repaired(source: Fleet, base_os: Module, sh: Shell) -> None:
    sh("apt-get update -qq; rm -f /srv/quick")
    # killed in the middle of configuring, as a power cut does it
    sh(
        "apt-get install -y pifleet-slow >/dev/null 2>&1 &"
        " for i in $(seq 400); do pgrep -f '[p]ifleet-slow.postinst' >/dev/null && break; sleep 0.1; done;"
        " pkill -KILL -x apt-get; pkill -KILL -x dpkg; pkill -KILL -f '[p]ifleet-slow.postinst'; touch /srv/quick"
    )
    assert sh(STATUS % "pifleet-slow") == "install ok half-configured"
    predicted = base_os(check=True, packages=["pifleet-slow", "pifleet-one"])
    assert kinds(predicted) == [("dpkg", "dpkg"), ("package", "pifleet-slow"), ("package", "pifleet-one")]
    assert base_os(packages=["pifleet-slow", "pifleet-one"])["plan"] == predicted["plan"]
    assert sh(STATUS % "pifleet-slow") == "install ok installed"
    assert sh("dpkg --audit") == ""


HOLD = "import fcntl,sys,time; f=open('/var/lib/dpkg/lock-frontend','w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); {}"


def holder(fleet: Fleet, until: str) -> subprocess.Popen[str]:
    """A process on the node that holds dpkg's lock *until* something, as unattended-upgrades does after a boot."""
    argv = ["docker", "exec", "-i", f"pifleet-{fleet.inventory.name}-{NODE}", "python3", "-c", HOLD.format(until)]
    held = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, stdin=subprocess.PIPE)
    assert held.stdout is not None
    assert held.stdout.readline().strip() == "held"
    return held


def test_the_lock_is_waited_for(source: Fleet, base_os: Module) -> None:
    with holder(source, "time.sleep(6)"):
        started = time.monotonic()
        assert base_os(packages=["pifleet-one"])["changed"] is True
        assert time.monotonic() - started > 4


def test_a_lock_that_stays_is_reported_with_its_holder(source: Fleet, base_os: Module) -> None:
    with holder(source, "sys.stdin.read()"):  # which ends with the block
        result = base_os(packages=["pifleet-one"], apt_lock_timeout=3)
    assert "The package lock was held by" in result["msg"]
    assert "(python3)" in result["msg"]
    assert base_os(packages=["pifleet-one"])["changed"] is True


def test_a_source_that_does_not_answer_is_named_and_nothing_else_was_done(source: Fleet, sh: Shell) -> None:
    sh("echo 'deb [trusted=yes] http://127.0.0.1:9/debian ./' >/etc/apt/sources.list.d/pifleet-test.list; rm -rf /var/lib/apt/lists/*")
    sh("rm /etc/sysctl.d/90-pifleet.conf")
    run = source.play("-e", '{"base_os_packages": ["pifleet-one"]}', playbook=PLAY).require(2)
    (failure,) = run.failures
    assert "127.0.0.1" in failure["msg"]
    assert "No package source answers" in failure["msg"]
    assert sh("ls /etc/sysctl.d/90-pifleet.conf 2>/dev/null || true") == "", "what comes after the packages was not begun"
    sh(SOURCE)
    assert source.play("-e", '{"base_os_packages": ["pifleet-one"]}', playbook=PLAY).require().changed


def test_a_name_that_no_source_has_is_named(source: Fleet, base_os: Module) -> None:
    result = base_os(packages=["pifleet-nonesuch"])
    assert "Unable to locate package pifleet-nonesuch" in result["msg"]
    assert "base_os_packages" in result["msg"]
