# SPDX-License-Identifier: GPL-3.0-or-later
"""What a k3s release is made of: file names, addresses and the checksum file. Pure.

Source: the assets of https://github.com/k3s-io/k3s/releases (binary ``k3s``, ``k3s-arm64``, ``k3s-armhf``; everything else says ``arm``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

RELEASES = "https://github.com/k3s-io/k3s/releases/download"
VERSION = re.compile(r"v\d+\.\d+\.\d+(-(alpha|beta|rc)\d+)?\+k3s\d+")

_SUM_LINE = re.compile(r"(?P<sha256>[0-9a-fA-F]{64})[ \t]+\*?(?P<name>\S+)")
#: smallest download first
_IMAGE_ENDINGS = (".tar.zst", ".tar.gz", ".tar")


@dataclass(frozen=True, slots=True)
class Names:
    """File names of one architecture. *images*: in order of preference; *machine*: the ELF header's ``e_machine`` of the binary."""

    binary: str
    images: tuple[str, ...]
    sums: str
    machine: int


def _names(binary: str, label: str, machine: int) -> Names:
    return Names(binary, tuple(f"k3s-airgap-images-{label}{end}" for end in _IMAGE_ENDINGS), f"sha256sum-{label}.txt", machine)


ARCHITECTURES = {"amd64": _names("k3s", "amd64", 62), "arm64": _names("k3s-arm64", "arm64", 183), "arm": _names("k3s-armhf", "arm", 40)}


def check_version(version: str) -> str:
    """Return *version*, or raise PifleetError where it is no k3s version such as ``v1.34.4+k3s1``."""
    if not VERSION.fullmatch(version):
        raise PifleetError(
            f"k3s_version is {version!r}, which is no version of k3s.",
            "Write it as its release is called, such as v1.34.4+k3s1 (https://github.com/k3s-io/k3s/releases).",
        )
    return version


def url_of(release_url: str, version: str, name: str) -> str:
    """Return the address of a release's file; the ``+`` of a version is ``%2B`` in it."""
    return f"{release_url.rstrip('/')}/{quote(version, safe='')}/{quote(name, safe='')}"


def parse_sums(text: str, where: str) -> dict[str, str]:
    """Return SHA-256 (hex, lower case) by file name of a ``sha256sum`` file.

    Raises PifleetError, naming *where*, for a file that is none or that gives one name two sums.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _SUM_LINE.fullmatch(line.strip())
        if match is None:
            raise PifleetError(f"{where}, line {number} is no line of a SHA-256 checksum file.", "Get the file again from the release.")
        name, sha256 = match["name"], match["sha256"].lower()
        if sums.setdefault(name, sha256) != sha256:
            raise PifleetError(f"{where} gives two checksums for {name}.", "Get the file again from the release.")
    if not sums:
        raise PifleetError(f"{where} holds no checksum.", "Get the file again from the release.")
    return sums


def sum_of(sums: dict[str, str], name: str, where: str) -> str:
    """Return the checksum of exactly *name*: several names of a release share an ending, so parts of a name never match."""
    if name not in sums:
        raise PifleetError(f"{where} has no checksum for {name}.", "Get the file again from the release, or correct k3s_version.")
    return sums[name]
