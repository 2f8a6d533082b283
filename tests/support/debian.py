# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's packages as files, for programs that only tests need: nothing is installed on the machine. Debian as an image to build on."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab import image
from lab.console import Console
from lab.system import root

#: Debian as a registry has it, and whom this machine trusts besides: packages may come by way of a mirror of its own
_DOCKERFILE = """
FROM {debian}
COPY trusted /etc/ssl/certs/ca-certificates.crt
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
"""


def lists(package: str) -> None:
    """Have package lists that know *package*."""
    shown = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True, check=False, timeout=60).stdout
    if "Candidate: (none)" in shown or "Candidate:" not in shown:
        subprocess.run([*root(), "apt-get", "update", "-qq"], check=True, capture_output=True, timeout=600)


def download(packages: Sequence[str], folder: Path) -> None:
    """Put the files of *packages* into *folder*."""
    lists(packages[0])
    subprocess.run(["apt-get", "download", *packages], cwd=folder, check=True, capture_output=True, timeout=300)


def base_image(tag: str, folder: Path) -> str:
    """Make the image *tag*, which others may be built on where no image registry can be reached, in *folder*, and return its name."""
    folder.mkdir()
    (folder / "Dockerfile").write_text(_DOCKERFILE.format(debian=image.ensure(image.debian(), Console())))
    shutil.copy(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt", folder / "trusted")
    subprocess.run(["docker", "build", "--quiet", "--tag", tag, str(folder)], check=True, capture_output=True, timeout=300)
    return tag
