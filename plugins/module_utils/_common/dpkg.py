# SPDX-License-Identifier: GPL-3.0-or-later
"""What dpkg's own database says, read without starting dpkg (format: deb822(5); words of Status: dpkg-query(1))."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_UNFINISHED = re.compile(r"^Status: \S+ (?:reinstreq \S+|ok (?:half-installed|unpacked|half-configured|triggers-awaited))$", re.M)


@dataclass(frozen=True, slots=True)
class PackageState:
    """*missing*: wanted packages that are not fully installed, in the order wanted; *interrupted*: dpkg was killed, repair comes first."""

    missing: tuple[str, ...]
    interrupted: bool


def package_state(status: str, updates: Sequence[str], wanted: Iterable[str]) -> PackageState:
    """Return the state of the *wanted* packages.

    *status*: content of /var/lib/dpkg/status; *updates*: names in /var/lib/dpkg/updates, where a killed dpkg leaves its journal.
    """
    text = "\n" + status
    missing = tuple(dict.fromkeys(name for name in wanted if not _installed(text, name)))
    journal = any(name.isdigit() for name in updates)
    return PackageState(missing, journal or _UNFINISHED.search(text) is not None)


def _installed(status: str, name: str) -> bool:
    """Whether any architecture of the package is installed; ``name:arch`` asks for that one."""
    base, _colon, arch = name.partition(":")
    start = 0
    while (start := status.find(f"\nPackage: {base}\n", start) + 1) > 0:
        end = status.find("\n\n", start)
        stanza = status[start : end if end > 0 else len(status)]
        if re.search(r"^Status: \S+ ok installed$", stanza, re.M) and (not arch or f"\nArchitecture: {arch}\n" in stanza + "\n"):
            return True
    return False


def field(status: str, name: str, key: str) -> str:
    """Return one field (``Version``, ``Architecture``) of an installed package, empty where it is not installed."""
    start = f"\n{status}".find(f"\nPackage: {name}\n")
    stanza = status[start:].partition("\n\n")[0] if start >= 0 else ""
    if not re.search(r"^Status: \S+ ok installed$", stanza, re.M):
        return ""
    found = re.search(rf"^{re.escape(key)}: (.*)$", stanza, re.M)
    return found[1] if found else ""
