# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of an arm64 Debian, run by qemu's user-mode emulation: enough for modules and facts, not for a kubelet."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import paths, system
from lab.console import Console
from lab.image import SUITE

EMULATOR = "qemu-aarch64-static"
FOLDERS = ("usr/bin", "usr/sbin")


def ensure(console: Console) -> Path:
    """The root file system in the cache: packages of Python and what it needs, unpacked, not configured: none runs as a service."""
    root = paths.cache() / "arm64" / SUITE
    with paths.locked(paths.cache() / "arm64.lock"):
        system.need({EMULATOR: ["qemu-user-static"], "debootstrap": ["debootstrap"]}, console)
        if not root.exists():
            with console.step("arm64 root from Debian packages"):
                _unpack(root)
    return root


def _unpack(root: Path) -> None:
    fresh = root.with_name(f"{root.name}.new")
    check(run([*system.root(), "rm", "-rf", str(fresh)], timeout=120))
    fresh.parent.mkdir(parents=True, exist_ok=True)
    command = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase", "--include=python3", SUITE, str(fresh)]
    check(run([*system.root(), *command], timeout=1800), "The arm64 packages cannot be had: is there a network?")
    for package in sorted((fresh / "var/cache/apt/archives").glob("*.deb")):
        check(run([*system.root(), "dpkg-deb", "--extract", str(package), str(fresh)], timeout=120))
    shutil.rmtree(fresh / "var/cache/apt/archives")
    fresh.rename(root)


def command(root: Path, argv: list[str]) -> list[str]:
    """The command line that runs a program of *root* under emulation: its libraries come from there, all other files are this machine's."""
    name = argv[0]
    for folder in FOLDERS:
        if (root / folder / name).exists():
            return [EMULATOR, "-L", str(root), str(root / folder / name), *argv[1:]]
    raise PifleetError(f"{root} has no program {name}.", f"It has those of {', '.join(FOLDERS)}, Python among them.")
