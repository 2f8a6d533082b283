# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's packages as files, for programs that only tests need: nothing is installed on the machine."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.system import root


def lists(package: str) -> None:
    """Have package lists that know *package*."""
    shown = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True, check=False, timeout=60).stdout
    if "Candidate: (none)" in shown or "Candidate:" not in shown:
        subprocess.run([*root(), "apt-get", "update", "-qq"], check=True, capture_output=True, timeout=600)


def download(packages: Sequence[str], folder: Path) -> None:
    """Put the files of *packages* into *folder*."""
    lists(packages[0])
    subprocess.run(["apt-get", "download", *packages], cwd=folder, check=True, capture_output=True, timeout=300)
