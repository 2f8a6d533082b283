# SPDX-License-Identifier: GPL-3.0-or-later
"""The port through which `pi_facts` and `base_os` look at a node. It only reads; nothing here changes a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.hardware import Hardware


@dataclass(frozen=True, slots=True)
class Address:
    """One address of one network interface.

    *family*: 2 IPv4, 10 IPv6; *scope*: 0 global, 253 link, 254 host; *secondary*: an IPv4 alias, or a temporary IPv6 privacy address.
    """

    interface: str
    family: int
    address: str
    prefix: int
    scope: int
    secondary: bool


@dataclass(frozen=True, slots=True)
class Space:
    """A file system's size: megabytes of 1024 × 1024 bytes; *free*: what an unprivileged process can still write."""

    total_mb: int
    free_mb: int


class Host(Protocol):
    """What is used of a node: files below a root folder, and a few things that no file tells, or not one alone."""

    def text(self, path: str) -> str | None:
        """Content of the file, undecodable bytes replaced; None where there is none."""

    def names(self, path: str) -> list[str]:
        """Sorted names in the folder; empty where there is none, or it may not be listed (files of another's process)."""

    def exists(self, path: str) -> bool:
        """Whether there is something at *path*, be it a dangling link."""

    def link(self, path: str) -> str | None:
        """Target of the symbolic link, or None."""

    def stamp(self, path: str) -> tuple[int, int] | None:
        """(size in bytes, mtime in nanoseconds) of the file, or None."""

    def sha256(self, path: str) -> str:
        """SHA-256 (hex) of the file's content."""

    def space(self, path: str) -> Space:
        """Size of the file system that holds *path*, or its nearest existing parent folder."""

    def writable(self, path: str) -> bool:
        """Whether *path*, or its nearest existing parent folder, lies on something that can be written to."""

    def machine(self) -> str:
        """The kernel's machine name, as ``uname -m`` prints it."""

    def page_size(self) -> int:
        """Bytes of a memory page (a Pi 5 has 16384)."""

    def addresses(self) -> Sequence[Address]:
        """All addresses of all interfaces in the kernel's order."""

    def hardware(self) -> Hardware:
        """What the board and its storage tell of themselves."""

    def now(self) -> float:
        """Seconds since the epoch by the node's clock."""

    def synchronised(self) -> bool | None:
        """Whether the kernel's clock is disciplined by a time service; None where the kernel does not say."""

    def unit(self, name: str) -> Mapping[str, str]:
        """Properties of a systemd unit (ActiveState, SubState, UnitFileState, MainPID, NRestarts); empty without systemd."""

    def k3s_version(self, binary: str) -> str:
        """First line of ``<binary> --version``; empty when it cannot be run."""
