# SPDX-License-Identifier: GPL-3.0-or-later
"""An arm64 Python on this machine: Debian's, unpacked in the lab's cache and run by qemu's user-mode emulation."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import paths, system
from lab.console import Console

SUITE = "trixie"


def _build(root: Path) -> None:
    """Unpack Debian's arm64 packages of Python and what it needs. None is configured: nothing of them runs but Python."""
    fresh = root.with_name(f"{root.name}.new")
    subprocess.run([*system.root(), "rm", "-rf", str(fresh)], check=True, timeout=60)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    debootstrap = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", "--include=python3", SUITE, str(fresh)]
    subprocess.run([*system.root(), *debootstrap], check=True, timeout=900, capture_output=True)
    for package in sorted((fresh / "var/cache/apt/archives").glob("*.deb")):
        subprocess.run([*system.root(), "dpkg-deb", "--extract", str(package), str(fresh)], check=True, timeout=60)
    shutil.rmtree(fresh / "var/cache/apt/archives")
    fresh.rename(root)


@pytest.fixture(scope="session")
def arm64_python() -> Path:
    """A program that is Python under aarch64. Files of its Debian stand in front of this machine's, its folders behind them."""
    root = paths.cache() / "arm64" / SUITE
    with paths.locked(paths.cache() / "arm64.lock"), Console() as console:
        system.need({"qemu-aarch64-static": ["qemu-user-static"], "debootstrap": ["debootstrap"]}, console)
        if not root.exists():
            _build(root)
    wrapper = root.parent / "python3"
    wrapper.write_text(f'#!/bin/sh\nexec qemu-aarch64-static -L {root} {root}/usr/bin/python3 "$@"\n')
    wrapper.chmod(0o755)
    # the libraries are compiled once, on first use, which takes a while here
    subprocess.run([wrapper, "-c", "import json"], check=True, timeout=300, env={**os.environ, "LC_ALL": "C.UTF-8"})
    return wrapper
